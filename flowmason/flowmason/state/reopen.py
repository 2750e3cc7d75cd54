"""Which stages a failed run takes up again."""

from __future__ import annotations

from flowmason import event as ev
from flowmason.errors import Code
from flowmason.ids import format_path
from flowmason.state.fold import RunState
from flowmason.state.tree import ScopeState, StageState, Status, TryState, scopes_of


def reopening(state: RunState, rerun_unknown: frozenset[str] = frozenset()) -> tuple[list[ev.StageReopened], list[str]]:
    """The reopenings that bring a failed run back, and the stages that stand in the way.

    In the way are stages whose outcome is unknown (they ended `OUTCOME_UNKNOWN`, or were cancelled amid an unsafe
    effect) and that are not in `rerun_unknown` (by path or id): running them again could do their effect twice.
    """
    failed: list[StageState] = []
    cancelled: list[StageState] = []
    if state.root is not None:
        _ended_badly(state.root, failed, cancelled)
    blocked = [
        format_path(stage.path)
        for stage in (*failed, *cancelled)
        if stage.failure is not None
        and stage.failure.code == Code.OUTCOME_UNKNOWN
        and not {format_path(stage.path), stage.stage.id} & rerun_unknown
    ]
    return [ev.StageReopened(path=stage.path, round=stage.round) for stage in failed], blocked


def _ended_badly(scope: ScopeState, failed: list[StageState], cancelled: list[StageState]) -> None:
    """Stages that failed or were cancelled, in every scope that comes back to life; of bodies, what is in them."""
    if scope.doomed is not None and scope.doomed.kind == "returned":
        return
    for stage in scope.stages.values():
        if stage.status not in (Status.FAILED, Status.CANCELLED):
            continue
        before = len(failed)
        if isinstance(stage.body, TryState):
            _ended_badly(stage.body.scopes[stage.body.unfinished], failed, cancelled)
        elif stage.body is not None:
            for inner in scopes_of(stage.body):
                _ended_badly(inner, failed, cancelled)
        if stage.status is Status.CANCELLED:
            cancelled.append(stage)
        elif len(failed) == before:
            failed.append(stage)
