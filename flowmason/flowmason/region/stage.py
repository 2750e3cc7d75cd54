"""One attempt of one stage: evaluate its inputs, run its component, propose what happened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Mapping
from functools import partial
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any

from flowmason import control
from flowmason import event as ev
from flowmason.errors import Failure
from flowmason.ids import format_path
from flowmason.plan import Kind, SubPipelineBody
from flowmason.policy import Effect
from flowmason.region.context import StageContext
from flowmason.region.failures import failure_of
from flowmason.region.plain import said
from flowmason.region.roots import Roots, Upstream
from flowmason.state import StageState
from flowmason.state.retry import after_failure, timed_out
from flowmason.value import Value

if TYPE_CHECKING:
    from flowmason.region.run import RegionRun

_CONTROL = frozenset({Kind.CONDITIONAL, Kind.ROUTER, Kind.FOREACH, Kind.TRYCATCH, Kind.SUBPIPELINE, Kind.RETURN})


async def perform(run: RegionRun, stage: StageState) -> ev.StageEvent:
    """Run one attempt; whatever a component does comes out as an event. Only cancellation is raised."""
    started_at, clock = run.worker.now(), run.worker.monotonic()
    context: StageContext | None = None
    try:
        inputs, context = _prepare(run, stage)
        if stage.stage.kind in _CONTROL:
            return await _control(run, stage, inputs, context, started_at, clock)
        if stage.stage.kind is Kind.OUTPUT:
            output = run.data.keep(run.worker.checked_output(stage, inputs))
        else:
            output = run.data.keep(await execute(run, stage, inputs, context))
        if (deferred := _deferred(stage, context)) is not None:
            return deferred
        return ev.StageFinished(
            path=stage.path,
            attempt=stage.attempt,
            output=output,
            started_at=started_at,
            duration_ms=(run.worker.monotonic() - clock) * 1000,
            usage=context.usage,
            calls=context.calls,
        )
    except BaseException as error:
        if cancelled(error):
            raise
        if context is not None and (deferred := _deferred(stage, context)) is not None:
            return deferred
        return failed_attempt(run, stage, error, started_at, clock, context)


def cancelled(error: BaseException) -> bool:
    """Whether somebody ends the attempt. A component that raises the same error by itself has failed."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


def failed_attempt(
    run: RegionRun,
    stage: StageState,
    error: BaseException,
    started_at: int,
    clock: float,
    context: StageContext | None,
) -> ev.StageFailed | ev.StageRetried:
    """The event for an attempt that raised."""
    path = format_path(stage.path)
    late = isinstance(error, _TimedOut)
    failure = timed_out(path, stage.stage.timeout_ms) if late else failure_of(error, path=path)
    return after_failure(
        stage,
        run.mask_failure(failure),
        now=run.worker.now(),
        jitter=run.worker.jitter(),
        started_at=started_at,
        duration_ms=(run.worker.monotonic() - clock) * 1000,
        calls=context.calls if context is not None else (),
    )


def _deferred(stage: StageState, context: StageContext) -> ev.StageDeferred | None:
    """The end of an attempt that wanted a model call beyond its allowance, whatever its component made of that."""
    spending = context.spending
    if spending is None or spending.short is None:
        return None
    return ev.StageDeferred(
        path=stage.path, attempt=stage.attempt, need=spending.short, usage=spending.usage, calls=context.calls
    )


def unstored(run: RegionRun, event: ev.StageEvent, error: BaseException) -> tuple[ev.StageEvent | None, Failure]:
    """What stands in the place of an event whose values could not be stored (None where nothing can), and why."""
    failure = run.mask_failure(failure_of(error, path=format_path(event.path)))
    stage = run.state.stages.get(event.path)
    if stage is None or not isinstance(event, ev.StageFinished | ev.StageExpanded):
        return None, failure
    calls = event.calls if isinstance(event, ev.StageFinished) else ()
    failed = after_failure(
        stage,
        failure,
        now=run.worker.now(),
        jitter=run.worker.jitter(),
        started_at=event.started_at,
        duration_ms=max(0.0, run.worker.now() - event.started_at),
        calls=calls,
    )
    return failed, failure


class _TimedOut(Exception):
    pass


def _prepare(run: RegionRun, stage: StageState) -> tuple[Any, StageContext]:
    upstream = Upstream(run.data, lambda name: run.state.value_of(stage.scope, name))
    context = StageContext(run, stage, upstream)
    if stage.stage.kind is Kind.OUTPUT:
        return upstream, context
    return run.worker.template(stage.stage)(Roots(run, stage, upstream, context), None), context


async def execute(run: RegionRun, stage: StageState, inputs: Mapping[str, Any], context: StageContext) -> Any:
    """Run the stage's component (or what mocks it) on evaluated inputs, within its timeout; returns plain data."""
    mocks = run.worker.mocks
    if mocks is not None and mocks.of(stage) is not None:
        answer = await _within(stage, mocks.answer(stage, inputs), context)
        if answer is not mocks.UNANSWERED:
            return answer
    ref = stage.scope.plan.components[stage.stage.component]
    if ref.archive is not None:
        pure = stage.stage.effect is Effect.PURE
        sandboxed = run.worker.sandboxes.component(ref, run.region.org_id)
        try:
            return run.mask(await _within(stage, sandboxed.execute(inputs, context, pure=pure), context))
        finally:
            context.close()
    loaded = run.worker.component(ref)
    instance, given = loaded.make(), loaded.validate(inputs)
    try:
        result = await _within(stage, instance.execute(given, context), context)
    finally:
        context.close()
    return run.mask(loaded.dump(result))


async def _within(stage: StageState, work: Awaitable[Any], context: StageContext) -> Any:
    """Await `work` within the stage's timeout. What ends without waiting for anything needs no timer."""
    if not isinstance(work, CoroutineType):
        return await _timed(stage, work, context, asyncio.get_running_loop().time())
    begun = asyncio.get_running_loop().time()
    try:
        waited_for = work.send(None)
    except StopIteration as stop:
        return stop.value
    return await _timed(stage, _rest(work, waited_for), context, begun)


@coroutine
def _rest(work: CoroutineType[Any, Any, Any], waited_for: Any) -> Generator[Any, Any, Any]:
    """A coroutine from the point at which it first waited."""
    while True:
        try:
            sent = yield waited_for
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            advance = partial(work.throw, error)
        else:
            advance = partial(work.send, sent)
        try:
            waited_for = advance()
        except StopIteration as stop:
            return stop.value


async def _timed(stage: StageState, work: Awaitable[Any], context: StageContext, begun: float) -> Any:
    timeout = context.timeout = asyncio.timeout_at(begun + stage.stage.timeout_ms / 1000)
    try:
        async with timeout:
            return await work
    except TimeoutError:
        if timeout.expired():
            raise _TimedOut from None
        raise


async def _control(
    run: RegionRun,
    stage: StageState,
    inputs: Mapping[str, Any],
    context: StageContext,
    started_at: int,
    clock: float,
) -> ev.StageEvent:
    decision = await run.worker.decision(run, stage, inputs)
    kind = stage.stage.kind
    run.data.encode([decision.settings, decision.pipeline])  # they ride in the event as they are
    # A sub-pipeline that is mocked names no pipeline: its result is there already.
    if kind in (Kind.FOREACH, Kind.TRYCATCH) or (kind is Kind.SUBPIPELINE and decision.pipeline):
        items: Value | None = None
        plan = None
        given: Value | None = None
        variables: Value | None = None
        if kind is Kind.FOREACH:
            items = run.data.keep(decision.items or [])
        elif kind is Kind.SUBPIPELINE:
            assert isinstance(stage.stage.body, SubPipelineBody)
            plan = stage.stage.body.plan
            given = run.data.keep(run.worker.sub_input(run, plan, decision.input))
            if control.inherits(decision.settings) and context.variables:
                variables = run.data.keep(dict(context.variables))
        return ev.StageExpanded(
            path=stage.path,
            attempt=stage.attempt,
            settings=decision.settings,
            items=items,
            total=len(decision.items or []),
            skipped=decision.skipped,
            input=given,
            pipeline=decision.pipeline,
            plan=plan,
            variables=variables,
            started_at=started_at,
        )
    output: Any = decision.output
    message = output.get("message")
    if decision.returned is not None:
        output = output.get("return_value")
        run.worker.check_returned(stage, decision.returned, output)
    return ev.StageFinished(
        path=stage.path,
        attempt=stage.attempt,
        output=run.data.keep(output),
        started_at=started_at,
        duration_ms=(run.worker.monotonic() - clock) * 1000,
        choice=decision.choice,
        returned=decision.returned,
        note=None if decision.returned is None or message is None else said(message),
    )
