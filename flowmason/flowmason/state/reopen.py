"""Which stages a failed run takes up again."""

from __future__ import annotations

from flowmason import event as ev
from flowmason.errors import Code
from flowmason.ids import format_path
from flowmason.state.fold import RunState
from flowmason.state.tree import ForeachState, ScopeState, StageState, Status, SubState


def reopening(state: RunState, rerun_unknown: frozenset[str] = frozenset()) -> tuple[list[ev.StageReopened], list[str]]:
    """The reopenings that bring a failed run back, and the stages that stand in the way.

    In the way are stages that ended `OUTCOME_UNKNOWN` and are not in `rerun_unknown` (by path or id):
    running them again could do their effect twice.
    """
    found: list[StageState] = []
    if state.root is not None:
        _failed(state.root, found)
    blocked = [
        format_path(stage.path)
        for stage in found
        if stage.failure is not None
        and stage.failure.code == Code.OUTCOME_UNKNOWN
        and not {format_path(stage.path), stage.stage.id} & rerun_unknown
    ]
    return [ev.StageReopened(path=stage.path, round=stage.round) for stage in found], blocked


def _failed(scope: ScopeState, found: list[StageState]) -> None:
    for stage in scope.stages.values():
        if stage.status is not Status.FAILED:
            continue
        before = len(found)
        if isinstance(stage.body, ForeachState):
            for inner in stage.body.open.values():
                _failed(inner, found)
        elif isinstance(stage.body, SubState):
            _failed(stage.body.scope, found)
        if len(found) == before:
            found.append(stage)
