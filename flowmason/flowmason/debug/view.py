"""Where a debugged run stands, for people: the mode, the place, what is seen there, what would start next."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from flowmason.debug.gate import order
from flowmason.debug.points import last_id
from flowmason.debug.sight import Load, Sight, Watched, watch
from flowmason.errors import Failure, FlowMasonError
from flowmason.event import Breakpoint
from flowmason.ids import StagePath, format_path
from flowmason.state import ForeachState, Role, RunState, ScopeState, StageState, Status, TryState

MOST_LISTED = 100
"""Stages that would start next: how many are named."""


class Mode(StrEnum):
    """What a debugged run does."""

    RUNNING = "running"
    PAUSED = "paused"
    STEPPING = "stepping"
    STOPPED = "stopped"
    """The run has ended."""


class BreakpointView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A breakpoint, and what became of it."""

    stage: str
    condition: str = ""
    hit_condition: str = ""
    hits: int = 0
    """How often it was reached with its condition true."""
    verified: bool = True
    """Whether a pipeline of the run has such a stage (one whose name is a template is known only once it runs)."""


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """One level of the call stack: a stage, and what it runs in."""

    path: str
    stage: str
    kind: str
    """The stage's kind: node, foreach, subpipeline …"""
    pipeline: str
    """`name@version` of the pipeline that the stage stands in."""
    status: str
    round: int = 1
    part: str | None = None
    """Of a trycatch: attempt, rescue or cleanup."""
    index: int | None = None
    """Of a foreach: the position of the item."""
    total: int | None = None
    """Of a foreach: how many items there are."""
    locals: dict[str, Any] = {}
    """The loop variables that begin here."""


class DebugState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a run stands."""

    run_id: str
    mode: Mode
    status: str
    """The run's own status."""
    pausing: bool = False
    """Whether it is about to stop and waits for what is under way."""
    reason: str = ""
    """Why it stands: breakpoint, entry, step, exception, rerun, or pause (somebody asked)."""
    path: str | None = None
    """The stage that it stands before (after, by an exception or a rerun)."""
    breakpoint: str = ""
    hit: int = 0
    note: str = ""
    failure: Failure | None = None
    breakpoints: tuple[BreakpointView, ...] = ()
    exceptions: tuple[str, ...] = ()
    stack: tuple[Frame, ...] = ()
    """The innermost first."""
    inputs: Any = None
    """The stage's input, evaluated here; a field that cannot be says why as `{"$error": …}`."""
    variables: dict[str, Any] = {}
    locals: dict[str, Any] = {}
    """Loop variables, the inner ones winning."""
    next: tuple[str, ...] = ()
    """Stages that may start once the run goes on, the first `MOST_LISTED`."""
    stale: tuple[str, ...] = ()
    """Stages whose results were edited or made anew since the run stopped."""
    watches: tuple[Watched, ...] = ()


def view(
    state: RunState, load: Load | None = None, *, watches: Iterable[str] = (), at: StagePath | None = None
) -> DebugState:
    """What somebody who debugs a run sees. Without `load` values are left out.

    `at` looks from another open stage than the one it stands at.
    """
    debug, stop = state.debug, state.debug.stop
    place = _place(state, at)
    shown = state.stages.get(place) if place is not None else None
    known = {stage for plan in state.plans.values() for stage in plan.stages}
    inputs: Any = None
    variables: dict[str, Any] = {}
    locals_: dict[str, Any] = {}
    watched: list[Watched] = []
    if load is not None and state.root is not None:
        sight = Sight(state, shown, load)
        watched = watch(sight, watches)
        if shown is not None:
            inputs, locals_ = sight.fields(shown.stage.inputs), sight.locals
            variables = _variables(sight)
    return DebugState(
        run_id=state.run_id,
        mode=_mode(state),
        status=str(state.status),
        pausing=state.pausing and state.status is Status.RUNNING,
        reason=stop.reason if stop is not None else ("pause" if state.pausing else ""),
        path=format_path(place) if place is not None else None,
        breakpoint=stop.breakpoint if stop is not None else "",
        hit=stop.hit if stop is not None else 0,
        note=stop.note if stop is not None else "",
        failure=stop.failure if stop is not None else None,
        breakpoints=tuple(_point(state, point, last_id(point) in known) for point in debug.breakpoints),
        exceptions=tuple(sorted(debug.exceptions)),
        stack=tuple(_stack(shown, load, state)) if shown is not None else (),
        inputs=inputs,
        variables=variables,
        locals=locals_,
        next=tuple(format_path(stage.path) for stage in upcoming(state)[:MOST_LISTED]),
        stale=tuple(format_path(path) for path in debug.stale),
        watches=tuple(watched),
    )


def upcoming(state: RunState) -> list[StageState]:
    """Stages whose needs have ended, in the order of the file."""
    if state.ended:
        return []
    return sorted((stage for stage in state.stages.values() if stage.ready), key=order)


def _mode(state: RunState) -> Mode:
    if state.ended:
        return Mode.STOPPED
    if state.status is Status.PAUSED or state.pausing:
        return Mode.PAUSED
    return Mode.STEPPING if state.debug.step is not None else Mode.RUNNING


def _place(state: RunState, at: StagePath | None) -> StagePath | None:
    if at is not None:
        return at
    if state.debug.stop is not None:
        return state.debug.stop.path
    if state.pausing and (waiting := upcoming(state)):
        return waiting[0].path
    return None


def _point(state: RunState, point: Breakpoint, verified: bool) -> BreakpointView:
    hits = state.debug.hits.get(point.stage, 0)
    return BreakpointView(point.stage, point.condition, point.hit_condition, hits, verified)


def _variables(sight: Sight) -> dict[str, Any]:
    try:
        return sight.variables
    except FlowMasonError as error:
        return {"$error": error.failure.message}


def _stack(stage: StageState, load: Load | None, state: RunState) -> list[Frame]:
    frames = [_frame(stage, None, {})]
    scope: ScopeState = stage.scope
    while scope.owner is not None:
        own: dict[str, Any] = {}
        if scope.role is Role.ITEM and load is not None and scope.stages:
            around = Sight(state, scope.owner, load).locals
            inner = Sight(state, next(iter(scope.stages.values())), load).locals
            own = {name: found for name, found in inner.items() if name not in around or around[name] != found}
        frames.append(_frame(scope.owner, scope, own))
        scope = scope.owner.scope
    return frames


def _frame(stage: StageState, within: ScopeState | None, locals_: dict[str, Any]) -> Frame:
    plan, body = stage.scope.plan, stage.body
    item = within is not None and isinstance(body, ForeachState)
    return Frame(
        path=format_path(stage.path),
        stage=stage.stage.id,
        kind=str(stage.stage.kind),
        pipeline=f"{plan.name}@{plan.version}",
        status=str(stage.status),
        round=stage.round,
        part=str(within.role) if within is not None and isinstance(body, TryState) else None,
        index=within.position if item and within is not None else None,
        total=body.total if isinstance(body, ForeachState) else None,
        locals=locals_,
    )
