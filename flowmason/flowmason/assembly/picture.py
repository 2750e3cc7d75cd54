"""`RunPicture`: a run as people see it, folded from its committed events. Pure.

Lists, the live view and `--json` are drawn from it. Stages inside foreach items are remembered only while they run,
unless `items` asks for them: a picture of a large run stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flowmason import event as ev
from flowmason.errors import Failure
from flowmason.ids import PlanId, RunId, StagePath, format_path
from flowmason.plan import ForeachBody, Kind, Plan, Stage, SubPipelineBody
from flowmason.state import Status
from flowmason.usage import Asked, Usage
from flowmason.value import Value

_ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.SKIPPED, Status.CANCELLED})
_LAST = 1 << 30


@dataclass(slots=True)
class StagePicture:
    """One stage of one scope."""

    path: StagePath
    stage: Stage | None = None
    """As the Plan has it; None where the Plan is not known."""
    status: Status = Status.PENDING
    attempts: int = 0
    started_at: int = 0
    """Milliseconds since the epoch; 0: it has not started, or nobody recorded when."""
    finished_at: int = 0
    duration_ms: float | None = None
    output: Value | None = None
    failure: Failure | None = None
    usage: Usage | None = None
    asked: Counter[Asked] = field(default_factory=Counter)
    """Its model calls by kind."""
    choice: tuple[str, ...] | None = None
    reason: str = ""
    """Why it was skipped."""
    total: int | None = None
    """Of a foreach that was expanded: how many items."""
    done: int = 0
    failed_items: int = 0
    item_ends: dict[int, int] = field(default_factory=dict)
    """Of a foreach: item → how many of its stages ended, for items under way."""

    @property
    def ended(self) -> bool:
        return self.status in _ENDED

    @property
    def name(self) -> str:
        """The path as people read it."""
        return format_path(self.path)


class RunPicture:
    """What the events so far say. `apply` takes them in order."""

    def __init__(self, plan: Plan | None = None, *, items: bool = False) -> None:
        self.plan = plan
        self.plan_id: PlanId | None = plan.id if plan is not None else None
        self.run_id: RunId | None = None
        self.pipeline = plan.name if plan is not None else ""
        self.version = plan.version if plan is not None else ""
        self.status = Status.QUEUED
        self.stages: dict[StagePath, StagePicture] = {}
        self.columns: dict[StagePath, list[ev.ItemsFinished]] = {}
        """Items of a foreach that were recorded in columns, where `items` asks for them."""
        self.input: Value | None = None
        self.output: Value | None = None
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self.asked: Counter[Asked] = Counter()
        """Model calls by kind, of all stages."""
        self.options: dict[str, Any] = {}
        self.reason = ""
        """Why it was cancelled or paused."""
        self.pausing = False
        self.cancelling = False
        self.submitted_at = self.started_at = self.ended_at = 0
        self.seq = 0
        self.parent: RunId | None = None
        self._items = items
        self._plans: dict[PlanId, Plan] = {}
        self._plan_at: dict[StagePath, Plan] = {}
        self._order: list[StagePicture] | None = None
        if plan is not None:
            self.learn(plan)
            self._plan_at[()] = plan
            self._seed(plan, ())

    def learn(self, plan: Plan) -> None:
        """Make a Plan known, so that the stages of a sub-pipeline are shown in the order of its file."""
        self._plans[plan.id] = plan
        self._plans.update(plan.plans)

    def knows(self, plan_id: PlanId) -> bool:
        """Whether a Plan was made known."""
        return plan_id in self._plans

    @property
    def ended(self) -> bool:
        """Whether the run has a terminal state."""
        return self.status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts by reference of its Plan and of those of its sub-pipelines: name → digest."""
        plans = [] if self.plan is None else [*self.plan.plans.values(), self.plan]
        return dict(sorted((name, str(ref.digest)) for plan in plans for name, ref in plan.prompts.items()))

    def ordered(self) -> list[StagePicture]:
        """Every stage that is remembered, in the order of the file."""
        if self._order is None:
            self._order = sorted(self.stages.values(), key=lambda stage: self._rank(stage.path))
        return self._order

    def counts(self) -> Counter[str]:
        """Stages by status, `running` including those that wait for nothing any more."""
        return Counter(str(self.shown_status(stage)) for stage in self.stages.values())

    def shown_status(self, stage: StagePicture) -> Status:
        """The status as it is drawn. Pure stages tell of their end alone, so one that nothing holds back runs."""
        if stage.status is Status.PENDING and self.status is Status.RUNNING and self._free(stage):
            return Status.RUNNING
        return stage.status

    def apply(self, recorded: ev.Recorded) -> None:
        """Take in one event; one that is known already changes nothing."""
        if recorded.seq <= self.seq:
            return
        self.seq = recorded.seq
        self.run_id = recorded.run_id
        event, at = recorded.event, recorded.at
        handler = _RUN.get(type(event))
        if handler is not None:
            handler(self, event, at)
            return
        path = getattr(event, "path", None)
        if isinstance(event, ev.DebugStepped | ev.BreakpointHit):
            return  # where a run that is debugged stands, `flowmason.debug` tells
        if path is None or (path and path[-1] == "$output"):
            return
        self._stage_event(event, at)

    # -- runs ------------------------------------------------------------------------------------

    def _submitted(self, event: ev.RunSubmitted, at: int) -> None:
        self.plan_id, self.input, self.options = event.plan, event.input, dict(event.options)
        self.pipeline, self.version = event.pipeline or self.pipeline, event.version or self.version
        self.parent, self.submitted_at = event.parent, at

    def _started(self, event: ev.Event, at: int) -> None:
        self.status, self.started_at = Status.RUNNING, self.started_at or at

    def _pausing(self, event: ev.RunPausing, at: int) -> None:
        self.pausing, self.reason = True, event.reason

    def _paused(self, event: ev.RunPaused, at: int) -> None:
        self.status = Status.PAUSED

    def _resumed(self, event: ev.Event, at: int) -> None:
        self.status, self.failure, self.ended_at = Status.RUNNING, None, 0
        self.pausing = self.cancelling = False

    def _cancelling(self, event: ev.RunCancelling, at: int) -> None:
        self.status, self.cancelling, self.reason = Status.RUNNING, True, event.reason

    def _completed(self, event: ev.RunCompleted, at: int) -> None:
        self.output = event.output
        self._end(Status.COMPLETED, at)

    def _failed(self, event: ev.RunFailed, at: int) -> None:
        self.failure = event.failure
        self._end(Status.FAILED, at)

    def _cancelled(self, event: ev.RunCancelled, at: int) -> None:
        self.reason = event.reason or self.reason
        self._end(Status.CANCELLED, at)

    def _end(self, status: Status, at: int) -> None:
        self.status, self.ended_at = status, at
        if status is not Status.FAILED:
            # A failed run can be resumed; of the others, what has not ended never will.
            for stage in self.stages.values():
                if not stage.ended:
                    stage.status = Status.CANCELLED

    # -- stages ----------------------------------------------------------------------------------

    def _stage_event(self, event: Any, at: int) -> None:
        stage = self._stage(event.path)
        if isinstance(event, ev.StageStarted):
            stage.status, stage.attempts = Status.RUNNING, event.attempt
            stage.started_at = stage.started_at or at
        elif isinstance(event, ev.StageFinished):
            stage.output, stage.choice = event.output, event.choice
            self._finish(stage, Status.COMPLETED, event, at)
        elif isinstance(event, ev.StageFailed):
            stage.failure = event.failure
            self._finish(stage, Status.FAILED, event, at)
        elif isinstance(event, ev.StageRetried | ev.StageLost):
            stage.attempts = max(stage.attempts, event.attempt)
            stage.failure = event.failure
            if stage.total is None and not self._has_body(stage):
                stage.status = Status.PENDING
            self._account(stage, event)
        elif isinstance(event, ev.StageDeferred):
            stage.attempts, stage.status = max(stage.attempts, event.attempt), Status.PENDING
            self._account(stage, event)
        elif isinstance(event, ev.StageSkipped):
            stage.reason = event.reason
            self._finish(stage, Status.SKIPPED, event, at)
        elif isinstance(event, ev.StageCancelled):
            stage.failure = event.failure
            self._finish(stage, Status.CANCELLED, event, at)
        elif isinstance(event, ev.StageExpanded):
            self._expanded(stage, event, at)
        elif isinstance(event, ev.ItemsFinished):
            stage.done += event.count
            stage.failed_items += len(event.failures)
            self._account(stage, event)
            if self._items:
                self.columns.setdefault(event.path, []).append(event)
        elif isinstance(event, ev.StageReopened):
            stage.status, stage.failure, stage.output = Status.PENDING, None, None
            stage.finished_at, stage.duration_ms = 0, None
        elif isinstance(event, ev.ValueEdited):
            stage.output = event.value

    def _finish(self, stage: StagePicture, status: Status, event: Any, at: int) -> None:
        stage.status = status
        if status is not Status.SKIPPED:
            stage.attempts = max(stage.attempts, getattr(event, "attempt", 0))
            stage.started_at = stage.started_at or getattr(event, "started_at", 0)
            duration = getattr(event, "duration_ms", None)
            begun = getattr(event, "started_at", 0)
            stage.duration_ms = duration if duration is not None else _between(stage.started_at, at)
            stage.finished_at = int(begun + duration) if begun and duration is not None else at
            self._account(stage, event)
            if status is Status.COMPLETED:
                stage.failure = None
        self._in_item(stage, status, getattr(event, "returned", None) is not None)
        if not self._items and any(isinstance(part, int) for part in stage.path):
            self.stages.pop(stage.path, None)
            self._order = None

    def _expanded(self, stage: StagePicture, event: ev.StageExpanded, at: int) -> None:
        stage.status, stage.attempts = Status.RUNNING, max(stage.attempts, event.attempt)
        stage.started_at = stage.started_at or event.started_at or at
        known = stage.stage
        if known is not None and known.kind is Kind.FOREACH:
            stage.total = event.total
        if event.plan is not None and event.plan in self._plans:
            self._plan_at[stage.path] = self._plans[event.plan]
            self._seed(self._plans[event.plan], stage.path)

    def _in_item(self, stage: StagePicture, status: Status, returned: bool) -> None:
        """Count an item of a foreach as done once all stages of its scope ended, or one ended it."""
        for cut in range(len(stage.path) - 1, 0, -1):
            index = stage.path[cut]
            if not isinstance(index, int):
                continue
            owner = self.stages.get(stage.path[:cut])
            if owner is None or owner.stage is None or not isinstance(owner.stage.body, ForeachBody):
                return
            direct = len(stage.path) == cut + 2
            if not direct:
                return
            size = len(owner.stage.body.scope.stages)
            ended = owner.item_ends.get(index, 0) + 1
            over = returned or status is Status.FAILED or ended >= size
            if over and ended > 0:
                owner.item_ends[index] = -_LAST
                owner.done += 1
                owner.failed_items += status is Status.FAILED
            else:
                owner.item_ends[index] = ended
            return

    def _account(self, stage: StagePicture, event: Any) -> None:
        for call in getattr(event, "calls", ()):
            kind = Asked.of(call)
            stage.asked[kind] += 1
            self.asked[kind] += 1
        usage = getattr(event, "usage", None)
        if usage is not None:
            stage.usage = usage if stage.usage is None else stage.usage + usage
            self.usage = usage if self.usage is None else self.usage + usage

    # -- the Plan --------------------------------------------------------------------------------

    def _seed(self, plan: Plan, prefix: StagePath) -> None:
        self._order = None
        if any(isinstance(part, int) for part in prefix) and not self._items:
            return
        for stage in plan.scope.stages:
            path = (*prefix, stage.id)
            if stage.kind is not Kind.OUTPUT and path not in self.stages:
                self.stages[path] = StagePicture(path, stage)

    def _stage(self, path: StagePath) -> StagePicture:
        found = self.stages.get(path)
        if found is None:
            plan = self._plan_of(path)
            stage = plan.stages.get(path[-1]) if plan is not None else None  # type: ignore[call-overload]
            found = self.stages[path] = StagePicture(path, stage)
            self._order = None
        return found

    def _plan_of(self, path: StagePath) -> Plan | None:
        for cut in range(len(path) - 1, -1, -1):
            found = self._plan_at.get(path[:cut])
            if found is not None:
                return found
        return None

    def _has_body(self, stage: StagePicture) -> bool:
        return stage.stage is not None and stage.stage.body is not None

    def _free(self, stage: StagePicture) -> bool:
        if stage.stage is None:
            return False
        prefix = stage.path[:-1]
        needs = (self.stages.get((*prefix, need)) for need in stage.stage.needs)
        return all(need is None or need.ended for need in needs) and self._live(prefix)

    def _live(self, prefix: StagePath) -> bool:
        return all(
            owner is None or owner.status is Status.RUNNING
            for owner in (self.stages.get(part) for part in _above(prefix))
        )

    def _rank(self, path: StagePath) -> tuple[tuple[int, int], ...]:
        """Orders paths as their stages stand in the file; what stands in a body comes after its owner."""
        ranks: list[tuple[int, int]] = []
        plan = self._plan_at.get(())
        for position, part in enumerate(path):
            if isinstance(part, int):
                ranks.append((0, part))
                continue
            name, _, round_ = part.partition("~")
            found = plan.stages.get(name) if plan is not None else None  # type: ignore[call-overload]
            ranks.append((found.index if found is not None else _LAST, int(round_) if round_.isdigit() else 0))
            plan = self._plan_at.get(path[: position + 1], plan)
        return tuple(ranks)


def _above(prefix: StagePath) -> Iterator[StagePath]:
    for length in range(1, len(prefix) + 1):
        yield prefix[:length]


def _between(started_at: int, at: int) -> float | None:
    return float(at - started_at) if started_at else None


def is_subpipeline(stage: Stage | None) -> bool:
    """Whether a stage runs another pipeline."""
    return stage is not None and isinstance(stage.body, SubPipelineBody)


_RUN: dict[type, Any] = {
    ev.RunSubmitted: RunPicture._submitted,
    ev.RunStarted: RunPicture._started,
    ev.RunAdopted: RunPicture._started,
    ev.RunPausing: RunPicture._pausing,
    ev.RunPaused: RunPicture._paused,
    ev.RunResumed: RunPicture._resumed,
    ev.RunReopened: RunPicture._resumed,
    ev.RunCancelling: RunPicture._cancelling,
    ev.RunCompleted: RunPicture._completed,
    ev.RunFailed: RunPicture._failed,
    ev.RunCancelled: RunPicture._cancelled,
}
