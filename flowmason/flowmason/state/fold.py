"""The fold: a run's events, in order, into its state. The same events always give the same state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flowmason import event as ev
from flowmason.budget import RUN, Key, Purse
from flowmason.errors import Code, Failure
from flowmason.ids import PlanId, RunId, StageId, StagePath, format_path
from flowmason.plan import Plan
from flowmason.state import lookup
from flowmason.state.accounts import accounts_of
from flowmason.state.debugging import BEFORE, Debugging
from flowmason.state.reviving import Reviving
from flowmason.state.tree import (
    CANCELLED,
    Chunk,
    ForeachState,
    Outcome,
    Role,
    ScopeState,
    StageState,
    Status,
    TryState,
)
from flowmason.usage import Limit, Usage, limit_of, used
from flowmason.value import Value

_Ending = (
    ev.StageFinished
    | ev.StageFailed
    | ev.StageRetried
    | ev.StageLost
    | ev.StageDeferred
    | ev.StageCancelled
    | ev.ItemsFinished
)


class RunState(Reviving):
    """All that a run's journal says. Changed only by `apply`.

    `fresh` and `settled` are what `apply` leaves behind for `decide`: stages whose needs have all
    ended since they were last looked at, and owners whose bodies are over.
    """

    def __init__(self, run_id: RunId, plan: Plan, plans: Mapping[PlanId, Plan] | None = None) -> None:
        super().__init__()
        self.run_id = run_id
        self.plan = plan
        self.plans: dict[PlanId, Plan] = {plan.id: plan, **plan.plans, **(plans or {})}
        self.status = Status.QUEUED
        self.seq = 0
        self.epoch = 0
        self.pausing = False
        self.cancelling: str | None = None
        self.failing: Failure | None = None
        self.failure: Failure | None = None
        self.output: Value | None = None
        self.usage: Usage | None = None
        self.options: dict[str, Any] = {}
        self.pipeline = (plan.name, plan.version)
        self.root: ScopeState | None = None
        self.debug = Debugging()
        self.purse = Purse()
        self.capped = False
        """Whether anything of the run is under a budget of its own."""
        self.rounds = 1
        """The highest round of any stage: the next one is above it, so that no key is ever used twice."""
        self.started_at = self.ended_at = 0

    def apply(self, event: ev.Event, *, seq: int | None = None, at: int = 0) -> None:
        """Take one event in. `seq` and `at` come from its envelope where it is recorded already."""
        self.seq = seq if seq is not None else self.seq + 1
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)
        if at:
            self.started_at = self.started_at or at
            if self.status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED):
                self.ended_at = at

    # -- runs ------------------------------------------------------------------------------------

    def _submitted(self, event: ev.RunSubmitted) -> None:
        self.options = dict(event.options)
        self.pipeline = (event.pipeline or self.plan.name, event.version or self.plan.version)
        self.root = self.open_scope(self.plan.scope, self.plan, (), Role.ROOT, None, input=event.input)
        self.root.variables = event.variables
        limit = self._run_limit()
        self.capped = bool(limit) or self.plan.capped
        if limit:
            self.purse.account(RUN, "the run", limit)

    def _run_limit(self) -> Limit:
        given = self.options.get("budget") or {}
        return limit_of(given.get("max_cost"), given.get("max_tokens")).tightest(self.plan.budget or Limit())

    def _rebudget(self, budget: Mapping[str, Any]) -> None:
        """The run has another budget from here on. One that had none stays without: what it spent was not counted."""
        account = self.purse.accounts.get(RUN)
        if budget and account is not None:
            self.options["budget"] = {**(self.options.get("budget") or {}), **budget}
            account.limit = self._run_limit()

    def _started(self, event: ev.RunStarted) -> None:
        self.status = Status.RUNNING

    def _adopted(self, event: ev.RunAdopted) -> None:
        self.epoch = event.epoch

    def _pausing(self, event: ev.RunPausing) -> None:
        self.pausing, self.debug.step = True, None

    def _paused(self, event: ev.RunPaused) -> None:
        self.status = Status.PAUSED

    def _resumed(self, event: ev.RunResumed) -> None:
        self.status, self.pausing = Status.RUNNING, False
        self._rebudget(event.budget)
        self.debug.go_on(self.stages)

    def _cancelling(self, event: ev.RunCancelling) -> None:
        self.debug.stop = self.debug.step = None
        self.cancelling = event.reason or "cancelled"
        self.pausing = False
        if self.status is Status.PAUSED:
            self.status = Status.RUNNING
        if self.root is not None:
            self.doom(self.root, CANCELLED)

    def _failing(self, event: ev.RunFailing) -> None:
        self.failing = event.failure

    def _completed(self, event: ev.RunCompleted) -> None:
        self.status, self.output = Status.COMPLETED, event.output

    def _failed(self, event: ev.RunFailed) -> None:
        self.status, self.failure, self.pausing = Status.FAILED, event.failure, False

    def _cancelled(self, event: ev.RunCancelled) -> None:
        self.status = Status.CANCELLED

    def _reopened(self, event: ev.RunReopened) -> None:
        self.status = Status.RUNNING
        self.failing = self.failure = self.debug.stop = None
        self._rebudget(event.budget)
        if self.cancelling is not None and self.root is not None:
            self._wake(self.root)
        self.pausing, self.cancelling = False, None

    # -- stages ----------------------------------------------------------------------------------

    def _stage_started(self, event: ev.StageStarted) -> None:
        stage = self.find(event.path)
        if stage.status is Status.PENDING:
            stage.scope.busy += 1
        stage.status, stage.attempt = Status.RUNNING, event.attempt
        if event.allowance is not None:
            self.purse.reserve((event.path, event.attempt), self.budgets(stage), event.allowance)
        stage.cheaper = event.fallback

    def _stage_finished(self, event: ev.StageFinished) -> None:
        stage = self.find(event.path)
        self._account(stage, event)
        stage.output, stage.choice = event.output, event.choice
        stage.attempt = max(stage.attempt, event.attempt)
        stage.started_at, stage.duration_ms = event.started_at or stage.started_at, event.duration_ms
        self.end(stage, Status.COMPLETED)
        if event.returned is not None:
            failure = None
            if event.returned == "failed":
                message = event.note or "a return stage ended it as failed"
                failure = Failure(code=Code.RETURNED_FAILED, message=message, stage=format_path(event.path))
            self.doom(stage.scope, Outcome("returned", failure, event.output, event.returned))
        self.check(stage.scope)

    def _stage_failed(self, event: ev.StageFailed) -> None:
        stage = self.find(event.path)
        self._account(stage, event)
        stage.failure = event.failure
        stage.started_at, stage.duration_ms = event.started_at or stage.started_at, event.duration_ms
        self.end(stage, Status.FAILED)
        self.doom(stage.scope, Outcome("failed", failure=event.failure))
        self.check(stage.scope)

    def _stage_failing(self, event: ev.StageFailing) -> None:
        stage = self.find(event.path)
        body = stage.body
        cleaning = body.scopes[Role.CLEANUP] if isinstance(body, TryState) and body.phase is Role.CLEANUP else None
        self.doom_body(stage, Outcome("failed", failure=event.failure), at_once=True)
        if cleaning is not None:
            # Even a cleanup has a bound; beyond it the stage ends with what it has. One that begins only now has not.
            self.doom(cleaning, Outcome("cancelled"))

    def _stage_retried(self, event: ev.StageRetried) -> None:
        stage = self.find(event.path)
        self._account(stage, event)
        if isinstance(stage.body, TryState):
            self.next_round(stage, event.at)
            return
        self._release(stage)
        stage.attempt, stage.not_before, stage.failure = event.attempt + 1, event.at, event.failure
        self.fresh.append(stage)
        self.check(stage.scope)

    def _stage_lost(self, event: ev.StageLost) -> None:
        stage = self.find(event.path)
        self._account(stage, event)
        self._release(stage)
        stage.lost += 1
        stage.attempt = event.attempt + 1
        stage.failure = event.failure
        self.fresh.append(stage)
        self.check(stage.scope)

    def _stage_deferred(self, event: ev.StageDeferred) -> None:
        stage = self.find(event.path)
        self.purse.learn(event.path, stage.cheaper, event.need, event.usage is not None)
        self._account(stage, event)
        self._release(stage)
        stage.base += 1  # it is no retry
        stage.attempt = event.attempt + 1
        self.fresh.append(stage)
        self.check(stage.scope)

    def _stage_skipped(self, event: ev.StageSkipped) -> None:
        stage = self.find(event.path)
        self.end(stage, Status.SKIPPED)
        self.check(stage.scope)

    def _stage_cancelled(self, event: ev.StageCancelled) -> None:
        stage = self.find(event.path)
        self._account(stage, event)
        stage.failure = event.failure
        self.end(stage, Status.CANCELLED)
        self.check(stage.scope)

    def _stage_expanded(self, event: ev.StageExpanded) -> None:
        stage = self.find(event.path)
        if stage.status is Status.PENDING:
            stage.scope.busy += 1
        stage.status = Status.RUNNING
        stage.started_at = event.started_at
        self.capped = self.capped or (event.plan is not None and self.plans[event.plan].capped)
        self.expand(stage, event)

    def _items_finished(self, event: ev.ItemsFinished) -> None:
        stage = self.find(event.path)
        body = stage.body
        assert isinstance(body, ForeachState)
        self._account(stage, event)
        body.chunks.append(Chunk(event.start, event.count, event.columns))
        body.done[event.start : event.start + event.count] = b"\x01" * event.count
        body.ended += event.count
        body.failures.update(event.failures)
        self.settle(stage)

    def _value_edited(self, event: ev.ValueEdited) -> None:
        self.find(event.path).output = event.value
        self.debug.stale[event.path] = None

    def _stage_reopened(self, event: ev.StageReopened) -> None:
        stage = self.find(event.path)
        self.purse.forfeit(event.path)
        self.reopen(stage, event.round)
        stage.edit = event.edit or stage.edit
        self.rounds = max(self.rounds, event.round)
        if self.root is not None and self.root.doomed is None:
            self.failing = None

    # -- debugging -------------------------------------------------------------------------------

    def _debug_changed(self, event: ev.DebugChanged) -> None:
        self.debug.change(event, entering=self.status is Status.QUEUED)

    def _debug_stepped(self, event: ev.DebugStepped) -> None:
        self.debug.step = event
        if event.step == "rerun":
            self.debug.stale[event.path] = None

    def _breakpoint_hit(self, event: ev.BreakpointHit) -> None:
        if event.reason in BEFORE:
            stage = self.find(event.path)
            self.debug.count(event, stage.round)
        if event.stops:
            self.debug.stop, self.debug.step = event, None

    @property
    def held(self) -> bool:
        """Whether the run does not end by itself: it has stopped for somebody who looks at it."""
        step, stop = self.debug.step, self.debug.stop
        return self.cancelling is None and (stop is not None or (step is not None and step.step == "rerun"))

    # -- shared ----------------------------------------------------------------------------------

    def _account(self, stage: StageState, event: _Ending) -> None:
        """An attempt ended: what it used is added, what was reserved for it is free again."""
        usage = event.usage
        if usage is not None:
            stage.usage = usage if stage.usage is None else stage.usage + usage
            self.usage = usage if self.usage is None else self.usage + usage
        if self.capped or self.purse.open:
            attempt = getattr(event, "attempt", 0)
            self.purse.settle((event.path, attempt), self.budgets(stage), used(usage))

    def budgets(self, stage: StageState) -> tuple[Key, ...]:
        """The accounts that a stage is under: its own, those of the bodies and sub-pipelines around it, the run's."""
        return accounts_of(self.purse, stage)

    def _release(self, stage: StageState) -> None:
        if stage.status is Status.RUNNING:
            stage.scope.busy -= 1
            stage.status = Status.PENDING

    def find(self, path: StagePath) -> StageState:
        """The stage at `path`; the foreach item it stands in is opened if it is not yet.

        Raises `KeyError` for a path that the Plan does not have or that is not open.
        """
        found = self.stages.get(path)
        if found is not None:
            return found
        for cut in range(len(path) - 1, 0, -1):
            index = path[cut]
            if isinstance(index, int):
                owner = self.find(path[:cut])
                body = owner.body
                if isinstance(body, ForeachState) and 0 <= index < body.total and not body.done[index]:
                    if index not in body.open:
                        self.open_item(owner, index)
                    return self.stages[path]
                break
        raise KeyError(path)

    def value_of(self, scope: ScopeState, stage_id: StageId) -> Value | None:
        """What `upstream.<stage_id>` is for a reader in `scope`; None: it was skipped or did not run."""
        return lookup.value_of(scope, stage_id)

    def drain_fresh(self) -> list[StageState]:
        """Stages that became ready since the last call, each once."""
        found, self.fresh = self.fresh, []
        return [stage for stage in dict.fromkeys(found) if stage.ready]

    @property
    def ended(self) -> bool:
        """Whether the run has a terminal state."""
        return self.status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

    def in_doubt(self) -> list[StageState]:
        """Effects whose start is recorded and whose end is not."""
        return [s for s in self.stages.values() if s.status is Status.RUNNING and s.body is None]

    def foreachs(self) -> list[StageState]:
        """Every foreach that is under way."""
        return [s for s in self.stages.values() if s.status is Status.RUNNING and isinstance(s.body, ForeachState)]


def fold(
    run_id: RunId, plan: Plan, events: Iterable[ev.Recorded], plans: Mapping[PlanId, Plan] | None = None
) -> RunState:
    """The state after `events`, which must begin with `run.submitted`."""
    state = RunState(run_id, plan, plans)
    for recorded in events:
        state.apply(recorded.event, seq=recorded.seq, at=recorded.at)
    return state


_HANDLERS: dict[type, Callable[[RunState, Any], None]] = {
    ev.RunSubmitted: RunState._submitted,
    ev.RunStarted: RunState._started,
    ev.RunAdopted: RunState._adopted,
    ev.RunPausing: RunState._pausing,
    ev.RunPaused: RunState._paused,
    ev.RunResumed: RunState._resumed,
    ev.RunCancelling: RunState._cancelling,
    ev.RunFailing: RunState._failing,
    ev.RunCompleted: RunState._completed,
    ev.RunFailed: RunState._failed,
    ev.RunCancelled: RunState._cancelled,
    ev.RunReopened: RunState._reopened,
    ev.StageStarted: RunState._stage_started,
    ev.StageFinished: RunState._stage_finished,
    ev.StageFailed: RunState._stage_failed,
    ev.StageFailing: RunState._stage_failing,
    ev.StageRetried: RunState._stage_retried,
    ev.StageLost: RunState._stage_lost,
    ev.StageDeferred: RunState._stage_deferred,
    ev.StageSkipped: RunState._stage_skipped,
    ev.StageCancelled: RunState._stage_cancelled,
    ev.StageExpanded: RunState._stage_expanded,
    ev.ItemsFinished: RunState._items_finished,
    ev.ValueEdited: RunState._value_edited,
    ev.StageReopened: RunState._stage_reopened,
    ev.DebugChanged: RunState._debug_changed,
    ev.DebugStepped: RunState._debug_stepped,
    ev.BreakpointHit: RunState._breakpoint_hit,
}
