"""How scopes open, doom and close, and what that means to the stages that own them."""

from __future__ import annotations

import msgspec

from flowmason import control, value
from flowmason import event as ev
from flowmason.errors import Failure
from flowmason.ids import PlanId, StageId, StagePath
from flowmason.plan import ForeachBody, Plan, Scope, TryCatchBody
from flowmason.state import lookup
from flowmason.state.tree import (
    CANCELLED,
    FINE,
    FINISHED,
    ForeachState,
    Given,
    Outcome,
    Role,
    ScopeState,
    Single,
    StageState,
    Status,
    SubState,
    TryState,
    scopes_of,
)
from flowmason.value import Value


class Bodies:
    """The part of `RunState` that keeps the tree of scopes."""

    plans: dict[PlanId, Plan]

    def __init__(self) -> None:
        self.stages: dict[StagePath, StageState] = {}
        self.fresh: list[StageState] = []
        self.settled: dict[StagePath, StageState] = {}
        """Owners whose bodies are over (or want another round) and whose own end is not recorded."""

    # -- opening ---------------------------------------------------------------------------------

    def open_scope(
        self,
        scope: Scope,
        plan: Plan,
        prefix: StagePath,
        role: Role,
        owner: StageState | None,
        *,
        input: Value | None,
        position: int = 0,
        only: frozenset[StageId] | None = None,
        given: Given | None = None,
        not_before: int = 0,
    ) -> ScopeState:
        """Start a scope. With `only`, needs outside that set count as ended (a worker's piece)."""
        opened = ScopeState(scope, plan, prefix, role, owner, position=position, input=input, given=given)
        for stage in scope.stages:
            if only is not None and stage.id not in only:
                continue
            missing = len(stage.needs) if only is None else sum(need in only for need in stage.needs)
            state = StageState(
                stage, opened, (*prefix, stage.id), missing, not_before=not_before, round=owner.round if owner else 1
            )
            opened.stages[stage.id] = state
            self.stages[state.path] = state
            if missing == 0:
                self.fresh.append(state)
        opened.open = len(opened.stages)
        if opened.open == 0:
            opened.closed = True
        return opened

    def expand(self, stage: StageState, event: ev.StageExpanded) -> None:
        """A control stage was evaluated: its body begins."""
        body, scope = stage.stage.body, stage.scope
        settings = event.settings
        if isinstance(body, ForeachBody):
            stage.body = ForeachState(
                event.total, event.items or value.NULL, settings, event.skipped, bytearray(event.total)
            )
            self.settle(stage)
        elif isinstance(body, TryCatchBody):
            stage.body = TryState(settings)
            self._enter(stage, Role.ATTEMPT, body.attempt)
        else:
            assert event.plan is not None
            plan = self.plans[event.plan]
            inner = self.open_scope(plan.scope, plan, stage.path, Role.PIPELINE, stage, input=event.input)
            inner.variables = event.variables
            stage.body = SubState(settings, inner, event.pipeline)
            if scope.doomed is not None:
                self.doom(inner, CANCELLED)
            self.settle(stage)

    def open_item(self, stage: StageState, index: int) -> ScopeState:
        """Start one item of a foreach as a scope of its own."""
        foreach, body = stage.body, stage.stage.body
        assert isinstance(foreach, ForeachState) and isinstance(body, ForeachBody)
        path = (*stage.path, index)
        opened = self.open_scope(
            body.scope, stage.scope.plan, path, Role.ITEM, stage, input=stage.scope.input, position=index
        )
        foreach.open[index] = opened
        if opened.closed:
            self._item_closed(stage, opened)
        return opened

    def next_round(self, stage: StageState, at: int) -> None:
        """Another round of a trycatch's attempt begins, no earlier than `at`."""
        body, guard = stage.stage.body, stage.body
        assert isinstance(body, TryCatchBody) and isinstance(guard, TryState)
        self._forget(guard)
        guard.scopes.clear()
        guard.round += 1
        guard.phase, guard.retry, guard.over, guard.caught = Role.ATTEMPT, False, False, False
        guard.error, guard.pending = None, FINISHED
        self.settled.pop(stage.path, None)
        self._enter(stage, Role.ATTEMPT, body.attempt, not_before=at)

    def _enter(self, stage: StageState, role: Role, scope: Scope, *, not_before: int = 0) -> None:
        guard = stage.body
        assert isinstance(guard, TryState)
        guard.phase = role
        prefix = stage.scope.prefix
        number = guard.numbers[role] = max(guard.round, guard.numbers.get(role, 0) + 1)
        if number > 1:
            prefix = (*prefix, f"{stage.stage.id}~{number}")
        opened = self.open_scope(
            scope, stage.scope.plan, prefix, role, stage, input=stage.scope.input, not_before=not_before
        )
        opened.error = guard.error
        guard.scopes[role] = opened
        if opened.closed:
            self._try_closed(stage, opened)

    def _forget(self, body: ForeachState | TryState | SubState) -> None:
        for scope in scopes_of(body):
            self._forget_scope(scope)

    def _forget_scope(self, scope: ScopeState) -> None:
        for stage in scope.stages.values():
            self.stages.pop(stage.path, None)
            self.settled.pop(stage.path, None)
            if stage.body is not None:
                self._forget(stage.body)

    # -- ending ----------------------------------------------------------------------------------

    def end(self, stage: StageState, status: Status) -> None:
        """Record a stage's end in its scope; `check` the scope afterwards."""
        if stage.status is Status.RUNNING:
            stage.scope.busy -= 1
        stage.status = status
        stage.scope.open -= 1
        self.settled.pop(stage.path, None)
        if status in FINE:
            siblings = stage.scope.stages
            for name in stage.scope.scope.dependents[stage.stage.id]:
                dependent = siblings.get(name)
                if dependent is not None:
                    dependent.missing -= 1
                    if dependent.ready:
                        self.fresh.append(dependent)

    def check(self, scope: ScopeState) -> None:
        """Close the scope if it is over, and tell its owner."""
        if scope.closed or (scope.busy if scope.doomed is not None else scope.open):
            return
        scope.closed = True
        owner = scope.owner
        if owner is None:
            return
        if scope.role is Role.ITEM:
            self._item_closed(owner, scope)
        elif scope.role is Role.PIPELINE:
            self.settle(owner)
        else:
            self._try_closed(owner, scope)

    def doom(self, scope: ScopeState, outcome: Outcome) -> None:
        """Nothing of `scope` starts any more; bodies in it are ended (a trycatch still cleans up)."""
        if scope.doomed is not None or scope.closed:
            return
        scope.doomed = outcome
        for stage in list(scope.stages.values()):
            if stage.body is not None and stage.status is Status.RUNNING:
                self.doom_body(stage, Outcome("cancelled", failure=outcome.failure))
        self.check(scope)

    def doom_body(self, stage: StageState, outcome: Outcome, *, at_once: bool = False) -> None:
        """End the body of a stage; `outcome` is what its owner will end with. `at_once`: effects may not finish."""
        body = stage.body
        assert body is not None
        body.doomed = body.doomed or outcome
        for scope in scopes_of(body):
            if scope.role is not Role.CLEANUP:
                self.doom(scope, CANCELLED if at_once else Outcome("cancelled", failure=outcome.failure))
        if isinstance(body, TryState) and body.retry:
            assert isinstance(stage.stage.body, TryCatchBody)
            body.retry, body.pending = False, CANCELLED
            self.settled.pop(stage.path, None)
            self._enter(stage, Role.CLEANUP, stage.stage.body.cleanup)
        self.settle(stage)

    def settle(self, stage: StageState) -> None:
        """Note the owner for `decide` if its body is over."""
        if stage.status is Status.RUNNING and stage.body is not None and stage.body.over:
            self.settled[stage.path] = stage

    def _item_closed(self, owner: StageState, scope: ScopeState) -> None:
        foreach = owner.body
        assert isinstance(foreach, ForeachState)
        outcome = scope.outcome
        if outcome.kind == "returned" and outcome.status == "failed":
            outcome = Outcome("failed", failure=outcome.failure)
        if outcome.kind == "failed" and foreach.break_on_error:
            if foreach.doomed is None:
                assert outcome.failure is not None
                self.doom_body(owner, Outcome("failed", failure=outcome.failure))
            self.settle(owner)
            return
        if outcome.kind == "cancelled":
            self.settle(owner)
            return
        foreach.singles[scope.position] = self._single(owner, scope, outcome)
        foreach.done[scope.position] = 1
        foreach.ended += 1
        if outcome.failure is not None:
            foreach.failures[scope.position] = outcome.failure
        del foreach.open[scope.position]
        for stage in scope.stages.values():
            self.stages.pop(stage.path, None)
            if stage.body is not None:
                self._forget(stage.body)
        self.settle(owner)

    def _single(self, owner: StageState, scope: ScopeState, outcome: Outcome) -> Single:
        exported = scope.plan.exports.get(owner.stage.id, frozenset())
        names = [*scope.stages, *sorted(exported - scope.stages.keys())]
        outputs = {name: lookup.value_of(scope, name) for name in names}
        if outcome.kind == "failed":
            assert outcome.failure is not None
            result: Value = error_value(outcome.failure)
            # It stands for everything that the item did not get to, and for its result.
            unmade = dict.fromkeys(name for name, stage in scope.stages.items() if stage.status not in FINE)
            owners = scope.plan.ancestors
            inside = [
                name for name in outputs if outputs[name] is None and any(each in unmade for each in owners[name])
            ]
            outputs.update(dict.fromkeys((*unmade, *inside, scope.scope.last or StageId("")), result))
        elif outcome.kind == "returned":
            result = outcome.value or value.NULL
        else:
            result = outputs.get(scope.scope.last or StageId("")) or value.NULL
        return Single(outputs, result)

    def _try_closed(self, owner: StageState, scope: ScopeState) -> None:
        guard, body = owner.body, owner.stage.body
        assert isinstance(guard, TryState) and isinstance(body, TryCatchBody)
        outcome = scope.outcome
        if scope.role is Role.ATTEMPT:
            guard.pending = outcome
            if outcome.kind == "failed":
                assert outcome.failure is not None
                guard.error = outcome.failure
                if guard.round <= int(guard.settings.get("max_retries") or 0) and guard.doomed is None:
                    guard.retry = True
                    self.settled[owner.path] = owner
                    return
                if control.catches(guard.settings.get("catch_error_types") or [], guard.error) and guard.doomed is None:
                    guard.caught = True
                    self._enter(owner, Role.RESCUE, body.rescue)
                    return
            self._enter(owner, Role.CLEANUP, body.cleanup)
        elif scope.role is Role.RESCUE:
            if outcome.kind == "finished":
                rethrow = guard.settings.get("error_scope", "continue") == "propagate"
                guard.pending = Outcome("failed", failure=guard.error) if rethrow else FINISHED
            elif outcome.kind == "failed":
                guard.pending = _caused(outcome, guard.error)
            else:
                guard.pending = outcome
            self._enter(owner, Role.CLEANUP, body.cleanup)
        else:
            if outcome.kind == "failed":
                guard.pending = _caused(outcome, guard.error)
            elif outcome.kind == "returned":
                guard.pending = outcome
            guard.over = True
            self.settle(owner)


def _caused(outcome: Outcome, first: Failure | None) -> Outcome:
    """The failure of a rescue or cleanup, with what it was to mend as its cause."""
    assert outcome.failure is not None
    if first is None or outcome.failure.cause is not None:
        return outcome
    return Outcome("failed", failure=msgspec.structs.replace(outcome.failure, cause=first))


def error_value(failure: Failure) -> Value:
    """What stands in the place of a failed item: `{"$error": Failure}`."""
    return value.inline({"$error": msgspec.to_builtins(failure)})
