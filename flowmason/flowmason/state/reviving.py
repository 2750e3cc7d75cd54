"""Bringing a failed run back: what had failed or was cancelled runs again, under the same paths and rounds."""

from __future__ import annotations

from flowmason.state.bodies import Bodies
from flowmason.state.tree import FINE, FINISHED, Role, ScopeState, StageState, Status, TryState, scopes_of


class Reviving(Bodies):
    """The part of `RunState` that undoes the ends of stages, scopes and bodies."""

    def reopen(self, stage: StageState, round_: int) -> None:
        """An ended stage runs again; every scope around it is brought back to life."""
        scope = stage.scope
        if round_ > stage.round:
            self._anew(stage, round_)
            return
        if stage.body is not None:
            stage.failure = None
            stage.status = Status.CANCELLED
            self._revive(scope)
            return
        if stage.ended:
            scope.open += 1
        stage.status = Status.PENDING
        stage.attempt += 1
        stage.base, stage.lost, stage.not_before = stage.attempt - 1, 0, 0
        stage.round = round_
        stage.output = stage.failure = stage.choice = None
        self._revive(scope)

    def _anew(self, stage: StageState, round_: int) -> None:
        """Run a stage again as if it never had: what needs it waits for it, its body is forgotten."""
        scope = stage.scope
        if stage.body is not None:
            self._forget(stage.body)
            stage.body = None
        self.settled.pop(stage.path, None)
        if stage.status is Status.RUNNING:
            scope.busy -= 1
        elif stage.ended:
            scope.open += 1
        if stage.status in FINE:
            for name in scope.scope.dependents[stage.stage.id]:
                dependent = scope.stages.get(name)
                if dependent is not None:
                    dependent.missing += 1
        if stage.status is not Status.SKIPPED:
            stage.attempt += 1
        stage.status, stage.round, stage.edit = Status.PENDING, round_, None
        stage.base, stage.lost, stage.not_before = stage.attempt - 1, 0, 0
        stage.output = stage.failure = stage.choice = None
        if scope.doomed is not None or scope.closed:
            self._revive(scope)
        elif stage.ready:
            self.fresh.append(stage)

    def _revive(self, scope: ScopeState) -> None:
        owner = scope.owner
        if owner is None or not owner.ended:
            self._wake(scope)
            return
        owner.failure = None
        owner.status = Status.CANCELLED
        self._revive(owner.scope)

    def _wake(self, scope: ScopeState) -> None:
        """Undo the doom of a scope and of the bodies in it; what had finished, or returned, stays so."""
        if scope.doomed is not None and scope.doomed.kind == "returned":
            return
        scope.doomed, scope.closed = None, False
        for stage in list(scope.stages.values()):
            cancelled = stage.status is Status.CANCELLED
            if stage.body is None:
                if cancelled:
                    scope.open += 1
                    stage.status = Status.PENDING
                    stage.attempt += 1
                    stage.base = stage.attempt - 1
                    stage.failure = None
                continue
            if cancelled:
                scope.open += 1
                scope.busy += 1
                stage.status = Status.RUNNING
            if stage.status is Status.RUNNING:
                self._go_on(stage)
        self.fresh.extend(stage for stage in scope.stages.values() if stage.ready)
        # Everything in it may have ended while it was doomed. What failed there is reopened by an event of its own.
        if not any(stage.status is Status.FAILED for stage in scope.stages.values()):
            self.check(scope)

    def _go_on(self, stage: StageState) -> None:
        body = stage.body
        assert body is not None
        if isinstance(body, TryState):
            if body.doomed is not None or body.over:
                self._go_on_trying(stage, body)
            else:
                self._wake(body.scopes[body.phase])
            return
        body.doomed = None
        self.settled.pop(stage.path, None)
        for inner in scopes_of(body):
            self._wake(inner)
        for inner in scopes_of(body):
            if inner.closed and inner.role is Role.ITEM:
                self._item_closed(stage, inner)
        self.settle(stage)

    def _go_on_trying(self, stage: StageState, guard: TryState) -> None:
        """The part that was not finished goes on in its round; what comes after it runs anew, under a new number."""
        part = guard.unfinished
        body = guard.scopes[part]
        guard.doomed, guard.over, guard.retry, guard.phase = None, False, False, part
        guard.pending = FINISHED
        self.settled.pop(stage.path, None)
        if part is Role.CLEANUP:
            # What came before it has ended, if only because the run had.
            for role in (Role.ATTEMPT, Role.RESCUE):
                before = guard.scopes.get(role)
                if before is not None and before.outcome.kind == "returned":
                    guard.pending = before.outcome
            self._wake(body)
            if body.outcome.kind == "returned":
                guard.pending, guard.over = body.outcome, True
                self.settle(stage)
            return
        if part is Role.ATTEMPT:
            guard.error, guard.caught = None, False
        for role in (Role.RESCUE, Role.CLEANUP):
            if role in guard.scopes and role is not part:
                self._forget_scope(guard.scopes.pop(role))
        self._wake(body)
