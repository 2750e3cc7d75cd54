"""Why a run or a stage waits: one pure answer over its state and what is known around it.

`why` takes no clock and asks nobody: whoever asks passes `Facts`. What the journal does not say is not guessed: a pure
stage is not noted when it begins, so one that is ready either runs on a worker or waits for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from flowmason.allowing import Held, allow
from flowmason.errors import Code
from flowmason.ids import StageId, format_path
from flowmason.policy import Effect
from flowmason.report import LET_IN, LINED_UP, LogLine
from flowmason.state import ForeachState, RunState, StageState, Status

MOST_STAGES = 100
"""Stages of one answer."""


class Cause(StrEnum):
    """What a run or a stage waits for. Names are for ever."""

    ENDED = "ENDED"
    UNDER_WAY = "UNDER_WAY"
    """It does not wait."""
    READY = "READY"
    """All that a stage needs is there: it runs on a worker, or waits for a free one."""
    NO_CONDUCTOR = "NO_CONDUCTOR"
    """Nobody is there to walk the run."""
    CONDUCTOR_LOST = "CONDUCTOR_LOST"
    """Who walked the run shows no sign of life; another takes it over."""
    ORG_CONCURRENCY = "ORG_CONCURRENCY"
    """The org has as many runs under way as it may."""
    QUEUE = "QUEUE"
    """Runs of the org come first."""
    CAPACITY = "CAPACITY"
    """It is the org's next, and conductors have no place, or take it in this moment."""
    PAUSED = "PAUSED"
    PAUSING = "PAUSING"
    CANCELLING = "CANCELLING"
    RETRY_DELAY = "RETRY_DELAY"
    RATE_LIMIT = "RATE_LIMIT"
    """A retry delay that a provider asked for."""
    MAX_CONCURRENCY = "MAX_CONCURRENCY"
    """The run has more ready stages than may run at once."""
    DEPENDENCY = "DEPENDENCY"
    """Stages that come first have not ended."""
    BUDGET = "BUDGET"
    """What its model calls may cost does not fit now, and may when calls under way have settled."""
    PROVIDER_LIMIT = "PROVIDER_LIMIT"
    """It runs, and waits for its turn at a model provider whose limits are reached."""
    RESOURCES = "RESOURCES"
    """No worker can ever run the stage."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known around a run."""

    now: int
    """Milliseconds since the epoch."""
    status: str = "running"
    """The run's status by its row."""
    owner: str | None = None
    """The conductor that holds the run."""
    owner_lives: bool = True
    owner_silent_s: float | None = None
    """How long its last beat is ago, by the clock of who asks; None: unknown."""
    wake_at: int | None = None
    conductors: int = 1
    """Living conductors."""
    silent_s: float | None = None
    """Where none lives: how long the last beat of any is ago; None: there is none at all."""
    ahead: int = 0
    """Runs of the org that come before this one."""
    held: int = 0
    """Runs of the org that conductors hold."""
    most_held: int | None = None
    """How many it may have so; None: any number."""
    lined_up: Mapping[tuple[str, int], str] = {}
    """Attempts (path, attempt) that wait for their turn at a provider: its name. See `lined_up`."""
    asked_by: str = ""
    """Who asked for the pause, where somebody did."""


class Why(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cause."""

    code: Cause
    explanation: str
    """One sentence for a person."""
    until: int | None = None
    """Milliseconds since the epoch at which it goes on by itself, where that is known."""
    on: tuple[str, ...] = ()
    """What it waits for: paths of stages, a breakpoint."""
    count: int | None = None
    """How many runs come before, or how many are under way."""


class StageWhy(Why, frozen=True, kw_only=True, omit_defaults=True):
    """Why a stage waits."""

    path: str
    status: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run waits, and each of its stages."""

    status: str
    waiting: bool
    """Whether the run as a whole stands still."""
    causes: tuple[Why, ...]
    stages: tuple[StageWhy, ...] = ()
    """Stages that have not ended, and those that no worker can run; the first `MOST_STAGES`."""
    more: int = 0
    """How many stages are left out."""


def lined_up(lines: Iterable[LogLine]) -> dict[tuple[str, int], str]:
    """Of log lines in any order: the attempts that wait for their turn at a provider, and its name."""
    last: dict[tuple[str, int], LogLine] = {}
    for line in lines:
        key = (format_path(line.path), line.attempt)
        if line.message in (LINED_UP, LET_IN) and (key not in last or last[key].n < line.n):
            last[key] = line
    return {key: str(line.fields.get("provider")) for key, line in last.items() if line.message == LINED_UP}


def why(state: RunState, facts: Facts) -> Answer:
    """Why a run and its stages wait."""
    causes = _run(state, facts)
    open_ = [stage for stage in state.stages.values() if _told(stage)]
    limit = state.plan.max_concurrency or state.options.get("max_concurrency")
    crowd = _Crowd(int(limit) if limit else None, open_)
    stages = tuple(_stage(stage, state, facts, causes, crowd) for stage in open_[:MOST_STAGES])
    standing = bool(causes) and causes[0].code is not Cause.ENDED
    if not causes:
        causes, standing = _together(stages)
    return Answer(
        status=str(state.status), waiting=standing, causes=tuple(causes), stages=stages, more=len(open_) - len(stages)
    )


def _run(state: RunState, facts: Facts) -> list[Why]:
    """Why a whole run stands still; nothing: it goes on."""
    if state.ended:
        found = f"The run has ended: it is {state.status}."
        failure = state.failure
        if failure is not None and failure.code == Code.INFEASIBLE_RESOURCES:
            return [Why(code=Cause.ENDED, explanation=found), Why(code=Cause.RESOURCES, explanation=failure.message)]
        return [Why(code=Cause.ENDED, explanation=found)]
    if state.status is Status.PAUSED:
        return [_paused(state, facts)]
    if facts.owner is None:
        return _unheld(state, facts)
    if not facts.owner_lives:
        ago = f" for {facts.owner_silent_s:.0f} s" if facts.owner_silent_s is not None else ""
        text = f"The conductor of the run has shown no sign of life{ago}; "
        text += "another takes the run over." if facts.conductors else "no other conductor is there to take it over."
        return [Why(code=Cause.CONDUCTOR_LOST if facts.conductors else Cause.NO_CONDUCTOR, explanation=text)]
    if state.cancelling is not None:
        return [Why(code=Cause.CANCELLING, explanation=f"The run is being cancelled: {state.cancelling}.")]
    if state.pausing:
        text = "The run is pausing: what is under way ends first, and nothing new starts."
        return [Why(code=Cause.PAUSING, explanation=text)]
    return []


def _unheld(state: RunState, facts: Facts) -> list[Why]:
    if facts.wake_at is not None and facts.wake_at > facts.now:
        until = facts.wake_at
        asleep = [stage for stage in state.stages.values() if stage.ready and stage.not_before > facts.now]
        first = min(asleep, key=lambda stage: stage.not_before, default=None)
        if first is not None:
            return [_delay(first, facts.now)]
        text = f"Nothing of the run can start before {_after(until, facts.now)}."
        return [Why(code=Cause.RETRY_DELAY, explanation=text, until=until)]
    if not facts.conductors:
        ago = f"the last sign of life was {facts.silent_s:.0f} s ago" if facts.silent_s is not None else "there is none"
        return [Why(code=Cause.NO_CONDUCTOR, explanation=f"No conductor is there to take the run: {ago}.")]
    if facts.most_held is not None and facts.held >= facts.most_held:
        text = (
            f"Your org has {facts.held} runs under way, and may have {facts.most_held} at once;"
            f" {facts.ahead} of its runs come before this one."
        )
        return [Why(code=Cause.ORG_CONCURRENCY, explanation=text, count=facts.ahead)]
    if facts.ahead:
        text = f"{facts.ahead} {_runs(facts.ahead)} of your org before this one."
        return [Why(code=Cause.QUEUE, explanation=text, count=facts.ahead)]
    text = (
        f"The run is the next of your org: {facts.conductors} living conductors take it in this moment, or have"
        " no free place."
    )
    return [Why(code=Cause.CAPACITY, explanation=text, count=0)]


def _runs(count: int) -> str:
    return "run comes" if count == 1 else "runs come"


def _paused(state: RunState, facts: Facts) -> Why:
    stop = state.debug.stop
    if stop is None:
        by = f" by {facts.asked_by}" if facts.asked_by else ""
        return Why(code=Cause.PAUSED, explanation=f"The run was paused{by}; it goes on when somebody resumes it.")
    place = format_path(stop.path)
    words = {
        "breakpoint": f"at the breakpoint on {stop.breakpoint}, before {place}",
        "exception": f"after {place} failed (exception filter {stop.breakpoint})",
        "rerun": f"after {place} ran again",
        "entry": f"before its first stage, {place}",
    }
    text = f"The run is paused {words.get(stop.reason, f'after a step, before {place}')}; it goes on when continued."
    return Why(code=Cause.PAUSED, explanation=text, on=(place,))


# -- stages --------------------------------------------------------------------------------------


class _Crowd:
    """How many stages want to run at once, and how many may."""

    def __init__(self, limit: int | None, stages: list[StageState]) -> None:
        self.limit = limit
        self.running = sum(stage.status is Status.RUNNING and stage.body is None for stage in stages)
        self.ready = sum(stage.ready for stage in stages)

    @property
    def full(self) -> bool:
        return self.limit is not None and self.running + self.ready > self.limit


def _told(stage: StageState) -> bool:
    if stage.ended:
        return stage.failure is not None and stage.failure.code == Code.INFEASIBLE_RESOURCES
    return stage.scope.doomed is None or stage.status is Status.RUNNING


def _stage(stage: StageState, state: RunState, facts: Facts, causes: list[Why], crowd: _Crowd) -> StageWhy:
    found = _cause(stage, state, facts, causes, crowd)
    fields: dict[str, Any] = msgspec.structs.asdict(found)
    return StageWhy(path=format_path(stage.path), status=str(stage.status), **fields)


def _cause(stage: StageState, state: RunState, facts: Facts, causes: list[Why], crowd: _Crowd) -> Why:
    if stage.ended:
        assert stage.failure is not None
        return Why(code=Cause.RESOURCES, explanation=stage.failure.message)
    if stage.status is Status.RUNNING:
        provider = facts.lined_up.get((format_path(stage.path), stage.attempt))
        if provider is not None:
            text = f"It waits for its turn at {provider}: as many calls as its limits allow are under way or were made."
            return Why(code=Cause.PROVIDER_LIMIT, explanation=text, on=(provider,))
        body = stage.body
        if isinstance(body, ForeachState):
            text = f"Its body runs: {body.ended} of {body.total} items have ended."
        else:
            text = "Its body runs." if body is not None else "It runs."
        return Why(code=Cause.UNDER_WAY, explanation=text)
    if stage.missing:
        needed = _missing(stage)
        names = ", ".join(needed) or "stages before it"
        return Why(code=Cause.DEPENDENCY, explanation=f"It waits for the end of {names}.", on=needed)
    if stage.not_before > facts.now:
        return _delay(stage, facts.now)
    if causes:
        return causes[0]
    if state.capped and stage.stage.effect is not Effect.PURE:
        held = allow(state, stage)
        if isinstance(held, Held):
            text = f"The budget of {held.budget} is reserved for calls under way; what they do not use is free again."
            return Why(code=Cause.BUDGET, explanation=text)
    if crowd.full:
        text = f"The run may have {crowd.limit} stages under way at once; {crowd.ready} are ready."
        return Why(code=Cause.MAX_CONCURRENCY, explanation=text, count=crowd.ready)
    wanted = f" that has {_wanted(stage)}" if stage.stage.resources else ""
    return Why(
        code=Cause.READY, explanation=f"All it needs is there: it runs on a worker{wanted}, or waits for a free one."
    )


def _missing(stage: StageState) -> tuple[str, ...]:
    found = []
    for name in stage.stage.needs:
        other = stage.scope.stages.get(StageId(name))
        if other is not None and not other.ended:
            found.append(format_path(other.path))
    return tuple(found)


def _delay(stage: StageState, now: int) -> Why:
    failure = stage.failure
    place, until = format_path(stage.path), stage.not_before
    if failure is not None and failure.code == Code.RATE_LIMITED:
        text = f"{place} was told to come back later ({failure.message}); it is tried again {_after(until, now)}."
        return Why(code=Cause.RATE_LIMIT, explanation=text, until=until, on=(place,))
    reason = f" ({failure.message})" if failure is not None else ""
    text = f"Attempt {stage.attempt} of {place} begins {_after(until, now)}; the one before failed{reason}."
    return Why(code=Cause.RETRY_DELAY, explanation=text, until=until, on=(place,))


def _after(until: int, now: int) -> str:
    return f"in {max(0, until - now) / 1000:.1f} s"


def _wanted(stage: StageState) -> str:
    given = msgspec.to_builtins(stage.stage.resources)
    return ", ".join(f"{name} {value}" for name, value in given.items())


def _together(stages: tuple[StageWhy, ...]) -> tuple[list[Why], bool]:
    """What a run that goes on waits for: the delays of its stages, where nothing else is under way."""
    open_ = [stage for stage in stages if stage.code is not Cause.DEPENDENCY]
    put_off = (Cause.RETRY_DELAY, Cause.RATE_LIMIT, Cause.PROVIDER_LIMIT)
    delays = [stage for stage in open_ if stage.code in put_off]
    bodies = [stage for stage in open_ if stage.code is Cause.UNDER_WAY]
    if delays and not any(stage.code in (Cause.READY, Cause.MAX_CONCURRENCY) for stage in open_) and not bodies:
        first = min(delays, key=lambda stage: stage.until or 0)
        cause = Why(code=first.code, explanation=first.explanation, until=first.until, on=first.on)
        return [cause], True
    return [Why(code=Cause.UNDER_WAY, explanation="The run is under way.")], False
