"""What follows from a state without any work being done: skips, ends of bodies, the end of the run."""

from __future__ import annotations

from typing import Any

from flowmason import control, value
from flowmason import event as ev
from flowmason.errors import Code, Failure, StageError
from flowmason.ids import StageId, format_path
from flowmason.plan import ForeachBody, TryCatchBody
from flowmason.state import lookup
from flowmason.state.fold import RunState
from flowmason.state.tree import (
    ForeachState,
    Outcome,
    ScopeState,
    StageState,
    Status,
    SubState,
    TryState,
)
from flowmason.value import Value


def decide(state: RunState, now: int, runnable: list[StageState]) -> list[ev.Event]:
    """The events that follow from `state` at `now` (ms); stages that may be started join `runnable`.

    Apply what is returned and call again until nothing is returned.
    """
    events: list[ev.Event] = []
    for stage in state.drain_fresh():
        reason = fate(stage)
        if reason is None:
            runnable.append(stage)
        else:
            events.append(ev.StageSkipped(path=stage.path, reason=reason))
    for stage in list(state.settled.values()):
        events.append(_settled(stage, now))
    if not events and state.root is not None:
        events.extend(_run(state))
    return events


def fate(stage: StageState) -> str | None:
    """Why a stage whose needs have ended is skipped; None: it runs."""
    scope, plan = stage.scope, stage.stage
    if plan.arms and not any(_chosen(scope, arm.guard, arm.choices) for arm in plan.arms):
        return f"not chosen by {', '.join(arm.guard for arm in plan.arms)}"
    weighed = plan.data or plan.order
    known = scope.plan.stages
    for need in weighed:
        if not _skipped(scope, need) and not known[need].is_guard:
            return None
    without_guards = [need for need in weighed if not known[need].is_guard]
    weighed = tuple(without_guards) or weighed
    if weighed and all(_skipped(scope, need) for need in weighed):
        return f"skipped with {', '.join(weighed)}"
    return None


def _chosen(scope: ScopeState, guard: StageId, choices: tuple[str, ...]) -> bool:
    found = scope.stages.get(guard)
    chosen = found.choice if found is not None else (scope.given.choices.get(guard) if scope.given else None)
    return chosen is not None and any(choice in chosen for choice in choices)


def _skipped(scope: ScopeState, need: StageId) -> bool:
    found = scope.stages.get(need)
    if found is not None:
        return bool(found.status is Status.SKIPPED)
    return scope.given is not None and need in scope.given.skipped


def _settled(stage: StageState, now: int) -> ev.Event:
    body = stage.body
    if isinstance(body, TryState) and body.retry:
        assert body.error is not None
        delay = int(body.settings.get("retry_delay_ms", 1000))
        return ev.StageRetried(path=stage.path, attempt=body.round, failure=body.error, at=now + delay)
    took = float(max(0, now - stage.started_at)) if stage.started_at else 0.0
    outcome, output = _verdict(stage, took)
    if outcome.kind == "failed":
        assert outcome.failure is not None
        return ev.StageFailed(
            path=stage.path,
            attempt=stage.attempt,
            failure=outcome.failure,
            started_at=stage.started_at,
            duration_ms=took,
        )
    if outcome.kind == "cancelled":
        return ev.StageCancelled(path=stage.path, attempt=stage.attempt)
    returned = outcome.status if outcome.kind == "returned" else None
    return ev.StageFinished(
        path=stage.path,
        attempt=stage.attempt,
        output=output,
        started_at=stage.started_at,
        duration_ms=took,
        returned=returned,
        note=outcome.failure.message if returned and outcome.failure is not None else None,
    )


def _verdict(stage: StageState, took: float) -> tuple[Outcome, Value]:
    body = stage.body
    if isinstance(body, ForeachState):
        return body.doomed or Outcome("finished"), value.NULL if body.doomed else foreach_output(stage, body)
    if isinstance(body, TryState):
        outcome = body.doomed if body.doomed is not None and body.doomed.kind == "failed" else body.pending
        if outcome.kind == "returned":
            return outcome, outcome.value or value.NULL
        return outcome, try_output(stage, body)
    assert isinstance(body, SubState)
    return _sub_verdict(stage, body, took)


def foreach_output(stage: StageState, body: ForeachState) -> Value:
    """The output of a foreach whose items have all ended."""
    assert isinstance(stage.stage.body, ForeachBody)
    collect = bool(body.settings.get("collect_results", True))
    results = lookup.results(body, stage.stage.body.scope.last) if collect else value.inline([])
    plain = control.foreach_output(
        total=body.total + body.skipped,
        skipped=body.skipped,
        processed=body.total,
        failed=len(body.failures),
        complete=True,
    )
    return _record(plain, results=results)


def _record(plain: dict[str, Any], **by_reference: Value) -> Value:
    return value.Record({**{key: value.inline(item) for key, item in plain.items()}, **by_reference})


def try_output(stage: StageState, body: TryState) -> Value:
    """The output of a trycatch that is over."""
    spec = stage.stage.body
    assert isinstance(spec, TryCatchBody)
    error = body.error

    def last(name: StageId | None) -> Value:
        return (lookup.value_of(stage.scope, name) if name else None) or value.NULL

    plain = control.trycatch_output(
        "success" if error is None else ("caught" if body.caught else "error"),
        failure=error,
        recovered=error is not None and body.caught,
        data=body.settings.get("data"),
    )
    return _record(
        plain,
        try_result=last(spec.attempt.last) if error is None else value.NULL,
        catch_result=last(spec.rescue.last) if body.caught else value.NULL,
    )


def _sub_verdict(stage: StageState, body: SubState, took: float) -> tuple[Outcome, Value]:
    scope = body.scope
    outcome = body.doomed or scope.outcome
    plan = scope.plan
    if outcome.kind == "finished" or (outcome.kind == "returned" and outcome.status == "completed"):
        if outcome.kind == "returned":
            result = outcome.value or value.NULL
        else:
            result = plan.output_of({name: _output(stage) for name, stage in scope.stages.items()})
        try:
            return Outcome("finished"), _sub_output(body, "completed", result, None, took)
        except StageError as error:
            return Outcome("failed", failure=error.failure.at(format_path(stage.path))), value.NULL
    if outcome.kind == "cancelled":
        return outcome, value.NULL
    failure = outcome.failure or Failure(
        code=Code.RETURNED_FAILED if outcome.status == "failed" else Code.CANCELLED,
        message=f"sub-pipeline {plan.name} returned with status {outcome.status}",
    )
    goes_on, result = control.takes_over(body.settings, failure)
    if not goes_on:
        return Outcome("failed", failure=failure), value.NULL
    return Outcome("finished"), _sub_output(body, "failed", value.inline(result), failure, took)


def _sub_output(body: SubState, status: str, result: Value, failure: Failure | None, took: float) -> Value:
    plan, mapping = body.scope.plan, body.settings.get("output_mapping")
    plain = control.subpipeline_output(
        status, pipeline_id=plan.name, pipeline_version=plan.version, execution_time_ms=took, failure=failure
    )
    if mapping and status == "completed":
        result = value.Record({target: _picked(result, path) for target, path in mapping.items()})
    return _record(plain, input_data=body.scope.input or value.inline({}), result=result)


def _picked(result: Value, path: str) -> Value:
    """The part of a value at a path, as far as it can be told without loading anything; the rest is told when read.

    Raises `StageError` (`INVALID_OUTPUT`) where the path is seen to lead nowhere.
    """
    if isinstance(result, value.Inline):
        return value.inline(control.picked(value.decode(result.data), path))
    if isinstance(result, value.Record):
        if path in result.fields:
            return result.fields[path]
        first, *rest = control.parse_dotted(path) or (None,)
        if first is not None and first not in result.fields:
            control.picked(dict.fromkeys(result.fields), path)  # says what is wrong
        if isinstance(first, str):
            return _picked(result.fields[first], control.written(rest))
    return value.Picked(result, path)


def _output(stage: StageState) -> Value | None:
    return stage.output if stage.status is Status.COMPLETED else None


def _run(state: RunState) -> list[ev.Event]:
    root = state.root
    assert root is not None
    if state.ended or state.held or state.status is Status.QUEUED:
        return []
    outcome = root.doomed
    if not root.closed:
        if outcome is not None and outcome.kind == "failed" and state.failing is None:
            assert outcome.failure is not None
            return [ev.RunFailing(failure=outcome.failure)]
        return []
    if outcome is None:
        outputs = {name: _output(stage) for name, stage in root.stages.items()}
        return [ev.RunCompleted(output=state.plan.output_of(outputs))]
    if outcome.kind == "failed":
        assert outcome.failure is not None
        return [ev.RunFailed(failure=outcome.failure)]
    if outcome.kind == "returned" and outcome.status != "cancelled":
        if outcome.status == "completed":
            return [ev.RunCompleted(output=outcome.value or value.NULL)]
        failure = outcome.failure or Failure(code=Code.RETURNED_FAILED, message="a return stage ended the run")
        return [ev.RunFailed(failure=failure)]
    return [ev.RunCancelled(reason=state.cancelling or "a return stage ended the run")]
