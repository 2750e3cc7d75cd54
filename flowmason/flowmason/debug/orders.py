"""Commands of somebody who debugs a run, as the events by which its owner answers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flowmason import event as ev
from flowmason.debug.gate import order
from flowmason.debug.points import check, read_changes
from flowmason.errors import Code, UsageError, did_you_mean
from flowmason.ids import StagePath, format_path, parse_path
from flowmason.plan import Kind
from flowmason.state import ForeachState, RunState, ScopeState, StageState, Status, TryState, reopening
from flowmason.state.debugging import BEFORE

STEPS = ("over", "into", "out")


def change(state: RunState, arguments: Mapping[str, Any]) -> list[ev.Event]:
    """`breakpoints`: other breakpoints, other exception filters; what is not named stays as it is.

    Raises `RefusedError` for what cannot be read.
    """
    _alive(state)
    now = {
        "breakpoints": [msgspec.structs.asdict(point) for point in state.debug.breakpoints],
        "exceptions": sorted(state.debug.exceptions),
    }
    event = read_changes({**now, **arguments})
    check(event, state.plan, state.plans.values())
    return [msgspec.structs.replace(event, stop_on_entry=False)]


def continue_(state: RunState, arguments: Mapping[str, Any]) -> list[ev.Event]:
    """`continue`: the run goes on to the next stop. With `redo`, what used a result that was edited or made anew since
    the stop runs again first, under a new round. Raises `UsageError`."""
    _alive(state)
    if not (state.pausing or state.status is Status.PAUSED):
        raise UsageError("the run is under way; there is nothing to continue")
    if arguments.get("redo") and state.status is not Status.PAUSED:
        raise UsageError("the run is still pausing; what used old results is redone once it is paused")
    return [*(_redo(state) if arguments.get("redo") else ()), ev.RunResumed()]


def step(state: RunState, arguments: Mapping[str, Any]) -> list[ev.Event]:
    """`step`: one stage more. `kind` over (with all in its body), into (its body) or out (of the body it stands in).

    Of a run that is under way: it stops before the next stage that would start. Raises `UsageError`.
    """
    _alive(state)
    kind = str(arguments.get("kind") or "over")
    if kind not in STEPS:
        near = did_you_mean(kind, STEPS)
        raise UsageError(f"{kind!r} is no step", help=f"Did you mean {near!r}?" if near else f"One of {STEPS}.")
    if not (state.pausing or state.status is Status.PAUSED):
        return [ev.DebugStepped(step="over")]
    path = _here(state)
    if kind == "out":
        stage = state.stages.get(path)
        owner = stage.scope.owner if stage is not None else None
        if owner is None:
            return [ev.RunResumed()]
        path = owner.path
    return [ev.DebugStepped(step=kind, path=path), ev.RunResumed()]


def rerun(state: RunState, arguments: Mapping[str, Any]) -> list[ev.Event]:
    """`rerun`: the stage at `path` runs once more, alone, under a new round, and the run stops after it.

    `system_prompt` and `user_prompt` replace what it asks its model. Raises `UsageError`.
    """
    stage = rerunnable(state, str(arguments.get("path") or ""))
    texts = {name: arguments.get(name) for name in ev.PromptEdit.__struct_fields__}
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise UsageError(f"{name} is a text")
    edit = ev.PromptEdit(**texts) if any(text is not None for text in texts.values()) else None
    if edit is not None and stage.stage.kind is not Kind.NODE:
        raise UsageError(f"{format_path(stage.path)} asks no model; it has no prompt to edit")
    others, blocked = reopening(state)
    unknown = [path for path in blocked if path != format_path(stage.path)]
    if unknown:
        raise UsageError(f"nobody knows whether {', '.join(unknown)} took effect", code=Code.OUTCOME_UNKNOWN)
    ended = state.status is Status.FAILED
    return [
        *([ev.RunReopened()] if ended else []),
        ev.StageReopened(path=stage.path, round=state.rounds + 1, edit=edit),
        *(event for event in others if event.path != stage.path),
        ev.DebugStepped(step="rerun", path=stage.path),
        *([] if ended else [ev.RunResumed()]),
    ]


def rerunnable(state: RunState, text: str) -> StageState:
    """The stage at a path, if it can run once more. Raises `UsageError` that says why it cannot."""
    if state.cancelling is not None or state.status not in (Status.PAUSED, Status.FAILED):
        raise UsageError(f"the run is {state.status}; a stage is run again while it is paused or has failed")
    stage = stage_at(state, text)
    if stage.stage.body is not None:
        raise UsageError(f"{text} has a body; run the stages in it again")
    if stage.status not in (Status.COMPLETED, Status.FAILED):
        raise UsageError(f"{text} is {stage.status}; only what has ended can run again")
    if not _live(stage.scope):
        raise UsageError(f"{text} is over and done: what it stands in has ended or gone on")
    if _returned(stage.scope):
        raise UsageError(f"{text} is over and done: a return has ended what it stands in")
    return stage


def stage_at(state: RunState, text: str) -> StageState:
    """The stage at a path, as it stands. Raises `UsageError` (`NOT_FOUND`) with the nearest right name."""
    try:
        path = parse_path(text)
    except ValueError:
        path = ()
    found = state.stages.get(path)
    if found is not None:
        return found
    near = did_you_mean(text, [format_path(each) for each in state.stages])
    raise UsageError(
        f"no stage {text!r} is open in this run", code=Code.NOT_FOUND, help=f"Did you mean {near!r}?" if near else None
    )


def _alive(state: RunState) -> None:
    if state.ended or state.cancelling is not None:
        raise UsageError(f"the run is {'being cancelled' if not state.ended else state.status}")


def _here(state: RunState) -> StagePath:
    """The stage that a step takes: the one the run stopped before, else the first that would start."""
    stop = state.debug.stop
    if stop is not None and stop.reason != "rerun":
        stage = state.stages.get(stop.path)
        # What it stopped before may never start any more: something beside it failed while the run was pausing.
        if stop.reason not in BEFORE or (stage is not None and stage.ready):
            return stop.path
    first = min((stage for stage in state.stages.values() if stage.ready), key=order, default=None)
    return first.path if first is not None else ()


def _live(scope: ScopeState) -> bool:
    """Whether the run still stands in a scope, or ended in it."""
    while scope.owner is not None:
        owner, body = scope.owner, scope.owner.body
        if owner.status in (Status.COMPLETED, Status.SKIPPED, Status.PENDING):
            return False
        if isinstance(body, ForeachState) and body.open.get(scope.position) is not scope:
            return False
        if isinstance(body, TryState):
            part = body.unfinished if owner.ended or body.over else body.phase
            if body.scopes.get(part) is not scope:
                return False
        scope = owner.scope
    return True


def _returned(scope: ScopeState) -> bool:
    """Whether a return ended a scope, or one around it: nothing starts there any more."""
    if scope.doomed is not None and scope.doomed.kind == "returned":
        return True
    return scope.owner is not None and _returned(scope.owner.scope)


def _redo(state: RunState) -> list[ev.Event]:
    """What used a stale result, in the order of the file, to run again under a new round."""
    found: dict[StagePath, StageState] = {}
    for path in state.debug.stale:
        stage = state.stages.get(path)
        # Where something has failed, the failure goes on; to make its neighbours run again would hide it for ever.
        if stage is not None and stage.scope.doomed is None and _live(stage.scope):
            _using(stage, found)
    for path in state.debug.stale:
        found.pop(path, None)
    round_ = state.rounds + 1
    # What stands in a body that runs again as a whole is gone by then.
    again = [stage for stage in found.values() if not _inside(stage, found)]
    return [ev.StageReopened(path=stage.path, round=round_) for stage in sorted(again, key=order)]


def _inside(stage: StageState, found: Mapping[StagePath, StageState]) -> bool:
    owner = stage.scope.owner
    return owner is not None and (owner.path in found or _inside(owner, found))


def _using(stage: StageState, found: dict[StagePath, StageState]) -> None:
    scope = stage.scope
    for name in scope.scope.dependents[stage.stage.id]:
        dependent = scope.stages.get(name)
        if dependent is None or dependent.path in found:
            continue
        if dependent.ended or dependent.body is not None:
            found[dependent.path] = dependent
        _using(dependent, found)
