"""From a request to a run that is in the database: the pipeline is looked up, compiled and kept, the input checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar

import msgspec
from sqlalchemy.engine import RowMapping

from flowmason import telemetry
from flowmason.conductor import new_run
from flowmason.debug import check
from flowmason.errors import Code, FlowMasonError, UsageError
from flowmason.event import DebugChanged, RunSubmitted
from flowmason.ids import RunId
from flowmason.journal import TERMINAL, Command, NewRun, RunRow
from flowmason.plan import Plan
from flowmason.studio import packages, pipelines, schema
from flowmason.studio.compiling import read_value
from flowmason.studio.identity.callers import Caller
from flowmason.studio.pipelines import StoredPipeline
from flowmason.studio.scope import Scope
from flowmason_serve_apps.studio.details import no_run
from flowmason_serve_apps.studio.services import Services

_FULL_RETRY_MS = 5_000
_TRIES = 5
P = ParamSpec("P")
T = TypeVar("T")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A run that somebody asks for."""

    pipeline_id: str | None = None
    """The draft of this pipeline, or what `reference` (`name`, `name@version`) means."""
    reference: str = ""
    input: dict[str, Any] | None = None
    """None: empty, with the defaults of the input's schema; of a test: the pipeline's sample input."""
    options: dict[str, Any] = {}
    priority: int = 0
    idempotency_key: str | None = None
    test: bool = False
    debug: DebugChanged | None = None
    """What stops the run from its start on."""


class Prepared(msgspec.Struct, frozen=True):
    """A run that can be recorded."""

    run: NewRun
    plan: Plan
    most_queued: int | None


class Started(msgspec.Struct, frozen=True):
    """A run that is recorded."""

    row: RunRow
    prepared: Prepared

    @property
    def is_new(self) -> bool:
        """Whether it was recorded just now, and not earlier under the same idempotency key."""
        return self.row.run_id == self.prepared.run.run_id


async def start(services: Services, caller: Caller, wanted: Wanted) -> tuple[Started, StoredPipeline]:
    """Record a run. It is in the database once this returns; conductors are told, and look by themselves too.

    Raises `UsageError` (`PIPELINE_NOT_FOUND`, `NOT_FOUND`, `QUEUE_FULL`, `CONFLICT`) and `RefusedError` (a pipeline
    that cannot be run, a wrong input).
    """
    # Submissions of one pipeline that come together look it up together.
    key = (caller.org_id, wanted.pipeline_id, wanted.reference)
    asked = _Asked(caller, wanted, _asked_by())
    prepared, stored = await services.together.ask(key, asked, partial(_prepared, services))
    return await _submitted(services, prepared), stored


async def start_inline(services: Services, caller: Caller, document: Mapping[str, Any], wanted: Wanted) -> Started:
    """Record a run of a pipeline that is kept nowhere but in the run. Raises as `start` does."""
    return await _submitted(services, await asyncio.to_thread(_prepare_inline, services, caller, document, wanted))


def plan_of(services: Services, scope: Scope, reference: str) -> Plan:
    """The Plan of what a name means (`name`, `name@version`). Raises as `start` does."""
    stored = pipelines.resolve(scope, reference)
    components = services.catalogue.of(scope)
    return services.compiling.kept(stored.digest, stored.document, components, pipelines.look_in(scope))


async def shown(services: Services, started: Started) -> bytes:
    """A run that was started, as JSON: as it was recorded, or where it was known already, as it is."""
    row = started.row
    if started.is_new:
        return await services.details.begun(started.prepared.run, row, started.prepared.plan)
    return (await services.details.encoded(row.org_id, row.run_id))[1]


async def _submitted(services: Services, prepared: Prepared) -> Started:
    run = prepared.run
    try:
        row = await services.runs.org(run.org_id).submit(run, most_queued=prepared.most_queued)
    except UsageError as error:
        if error.failure.code != Code.QUEUE_FULL:
            raise
        failure = error.failure
        raise UsageError(failure.message, code=failure.code, help=failure.help, retry_after_ms=_FULL_RETRY_MS) from None
    started = Started(row, prepared)
    if not started.is_new:
        await _require_same(services, started)
    await services.nudge()
    return started


async def _require_same(services: Services, started: Started) -> None:
    """Refuse an idempotency key that stands for another request: its run would be taken for the one that was meant.

    A pipeline may have been written to since; then what was accepted under the key is still what it stands for.
    """
    row, run = started.row, started.prepared.run
    same = row.pipeline == run.pipeline
    if same and row.plan_id == run.plan_id:
        first = (await services.runs.org(row.org_id).read(row.run_id, limit=1))[0].event
        wanted = run.events[0]
        assert isinstance(first, RunSubmitted) and isinstance(wanted, RunSubmitted)
        same = first.input == wanted.input
    if not same:
        raise UsageError(
            f"this Idempotency-Key was used for another request, which became {row.run_id}",
            code=Code.CONFLICT,
            help="Make a new key for every run, and send it again only with the same request.",
        )


async def ended(services: Services, caller: Caller, run_id: RunId, timeout_s: float) -> RunRow | None:
    """The row of a run once it has ended (or is paused); None where that takes longer."""
    async with services.live.following(caller.org_id, run_id) as channel:
        try:
            async with asyncio.timeout(timeout_s):
                while channel.status not in TERMINAL and channel.status != "paused":
                    await channel.changed(channel.seq)
        except TimeoutError:
            return None
    return await services.runs.org(caller.org_id).row(run_id)


async def command(services: Services, caller: Caller, run_id: RunId, name: str, **arguments: Any) -> None:
    """Put a command into the run's inbox. Raises `UsageError` (`NOT_FOUND`)."""
    posted = Command(
        id=services.ids.command(),
        run_id=run_id,
        name=name,
        arguments=arguments,
        by=caller.actor,
        at=services.now(),
    )
    if not await services.runs.org(caller.org_id).post(posted):
        raise no_run(run_id)
    await services.nudge()


async def to_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what blocks."""
    return await asyncio.to_thread(call, *args, **kwargs)


async def in_thread(services: Services, caller: Caller, ask: Callable[[Scope], T]) -> T:
    """Ask the Studio's tables in a transaction of the caller's org."""

    def asked() -> T:
        with services.store.scope(caller.org_id) as scope:
            return ask(scope)

    return await asyncio.to_thread(asked)


class _Asked(msgspec.Struct, frozen=True):
    """Who asks for a run, and where in a trace."""

    caller: Caller
    wanted: Wanted
    trace: dict[str, Any]


_Answer = tuple[Prepared, StoredPipeline]


def _prepared(services: Services, asked: Sequence[_Asked]) -> list[_Answer | Exception]:
    """Prepare runs of one org and one pipeline."""
    for attempt in range(_TRIES):
        try:
            return _prepare(services, asked)
        except UsageError as error:
            # Somebody wrote to the draft between our reading and keeping it: what they wrote is what runs.
            if error.failure.code != Code.CONFLICT or attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _prepare(services: Services, asked: Sequence[_Asked]) -> list[_Answer | Exception]:
    caller, wanted = asked[0].caller, asked[0].wanted
    with services.store.scope(caller.org_id, writing=False) as scope:
        if wanted.pipeline_id is not None:
            stored = pipelines.get(scope, wanted.pipeline_id)
        else:
            stored = pipelines.resolve(scope, wanted.reference)
        components = services.catalogue.of(scope)
        plan = services.compiling.kept(stored.digest, stored.document, components, pipelines.look_in(scope))
        packages.store_archives(scope, services.values, plan)
        limits = scope.one(schema.org_limits)
        is_kept = stored.kept or services.is_kept(caller.org_id, stored)
    most_queued = None if limits is None else limits["max_queued_runs"]
    wishes = _wishes(limits)
    answers: list[_Answer | Exception] = []
    for each in asked:
        try:
            answers.append((Prepared(_run(services, each, stored, plan, wishes), plan, most_queued), stored))
        except FlowMasonError as error:
            answers.append(error)
    able = [each.caller for each, answer in zip(asked, answers, strict=True) if not isinstance(answer, Exception)]
    if able and not is_kept:
        with services.store.scope(caller.org_id) as scope:
            pipelines.keep(scope, stored, by=able[0].actor, now=services.now())
        services.note_kept(caller.org_id, stored)
    return answers


def _run(services: Services, asked: _Asked, stored: StoredPipeline, plan: Plan, wishes: Mapping[str, Any]) -> NewRun:
    caller, wanted = asked.caller, asked.wanted
    given = wanted.input
    if given is None and wanted.test:
        given = stored.content.get("sample_input")
        if given is None:
            raise UsageError(
                "there is nothing to test with: give sample_input, or write one into the pipeline", code=Code.USAGE
            )
    options = {
        **wanted.options,
        **wishes,
        "pipeline_id": stored.pipeline_id,
        "pipeline_digest": stored.digest,
        "submitted_by": caller.name,
        **asked.trace,
        **({"test": True} if wanted.test else {}),
    }
    return _new(services, caller, wanted, plan, given, options)


def _prepare_inline(services: Services, caller: Caller, document: Mapping[str, Any], wanted: Wanted) -> Prepared:
    written = read_value(dict(document))
    with services.store.scope(caller.org_id, writing=False) as scope:
        plan = services.compiling.plan(written, services.catalogue.of(scope), pipelines.look_in(scope))
        packages.store_archives(scope, services.values, plan)
        limits = scope.one(schema.org_limits)
    options = {**wanted.options, **_wishes(limits), "submitted_by": caller.name, **_asked_by()}
    run = _new(services, caller, wanted, plan, wanted.input, options)
    return Prepared(run, plan, None if limits is None else limits["max_queued_runs"])


def _wishes(limits: RowMapping | None) -> dict[str, Any]:
    """What the org says of all its runs."""
    kept = None if limits is None else limits["kept_answers_s"]
    return {} if kept is None else {"kept_answers_s": kept}


def _asked_by() -> dict[str, Any]:
    """The request's place in a trace: the run stands under it."""
    here = telemetry.current.get()
    return {} if here is None else {telemetry.OPTION: str(here)}


def _new(services: Services, caller: Caller, wanted: Wanted, plan: Plan, given: Any, options: dict[str, Any]) -> NewRun:
    if wanted.debug is not None:
        check(wanted.debug, plan)
    return new_run(
        plan,
        given,
        run_id=services.ids.run(),
        now=services.now(),
        by=caller.actor,
        values=services.values,
        org_id=caller.org_id,
        options=options,
        priority=wanted.priority,
        idempotency_key=wanted.idempotency_key,
        debug=wanted.debug,
    )
