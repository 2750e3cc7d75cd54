"""Exception filters: the failures after which a run stops, for somebody to look."""

from __future__ import annotations

from flowmason import control
from flowmason import event as ev
from flowmason.errors import Code, Failure
from flowmason.ids import StagePath
from flowmason.state import ForeachState, Role, RunState, StageState, TryState
from flowmason.state.tree import BodyState, SubState

FILTERS = ("all", "uncaught", "error", "warning", "timeout", "validation", "connectivity")
"""all: whatever failed. uncaught: what no trycatch, loop or sub-pipeline takes. error: a stage failed for good.
warning: an attempt failed or was lost and another follows. The others: by the kind of failure, whatever follows."""

_BY_CODE = {
    "timeout": frozenset({Code.TIMEOUT}),
    "validation": frozenset({Code.VALIDATION, Code.INVALID_INPUT, Code.INVALID_OUTPUT, Code.EXPRESSION}),
    "connectivity": frozenset({Code.CONNECTIVITY, Code.RATE_LIMITED}),
}


def after(state: RunState, event: ev.Event) -> list[ev.Event]:
    """What follows from the filters once `event` has been applied: the stop, or nothing."""
    debug = state.debug
    if not debug.exceptions or debug.stop is not None or state.ended or state.cancelling is not None:
        return []
    found = _failure(state, event)
    if found is None:
        return []
    path, failure, kinds = found
    kinds |= {name for name, codes in _BY_CODE.items() if failure.code in codes}
    hits = [name for name in FILTERS if name in debug.exceptions and name in kinds]
    if not hits:
        return []
    stop = ev.BreakpointHit(path=path, breakpoint=hits[0], reason="exception", failure=failure)
    return [stop] if state.pausing else [stop, ev.RunPausing(reason="exception")]


def _failure(state: RunState, event: ev.Event) -> tuple[StagePath, Failure, set[str]] | None:
    """Where and why something failed by itself, and which filters that is for; None: it only passed a failure on."""
    if isinstance(event, ev.StageRetried | ev.StageLost):
        stage = state.stages.get(event.path)
        if stage is None or stage.body is not None:
            return None
        return event.path, event.failure, {"all", "warning"}
    if isinstance(event, ev.StageFailed | ev.StageFailing):
        stage = state.stages.get(event.path)
        if stage is None:
            return event.path, event.failure, {"all", "error"}
        if isinstance(event, ev.StageFailed) and stage.body is not None:
            return None
        return event.path, event.failure, {"all", "error"} | (set() if caught(stage, event.failure) else {"uncaught"})
    if isinstance(event, ev.ItemsFinished) and event.failures:
        index, failure = next(iter(sorted(event.failures.items())))
        return (*event.path, index), failure, {"all", "error"}
    return None


def caught(stage: StageState, failure: Failure) -> bool:
    """Whether something around a stage takes its failure, so that the run goes on."""
    scope = stage.scope
    while scope.owner is not None:
        owner, body = scope.owner, scope.owner.body
        if _takes(body, scope.role, failure):
            return True
        scope = owner.scope
    return False


def _takes(body: BodyState | None, role: Role, failure: Failure) -> bool:
    if isinstance(body, ForeachState):
        return not body.break_on_error
    if isinstance(body, SubState):
        return control.takes_over(body.settings, failure)[0]
    if not isinstance(body, TryState) or role is not Role.ATTEMPT:
        return False
    if body.round <= int(body.settings.get("max_retries") or 0):
        return True
    takes = control.catches(body.settings.get("catch_error_types") or [], failure)
    return takes and body.settings.get("error_scope", "continue") != "propagate"
