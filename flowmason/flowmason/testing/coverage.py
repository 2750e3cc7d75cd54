"""Which stages and branches the runs of tests reached. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from flowmason import event as ev
from flowmason.ids import PlanId, StagePath
from flowmason.plan import Plan, TryCatchBody

EXECUTED, FAILED, SKIPPED, UNCOVERED = "executed", "failed", "skipped", "uncovered"
_RANK = {EXECUTED: 0, FAILED: 1, SKIPPED: 2, UNCOVERED: 3}
CATCH = "catch"
"""The branch of a trycatch that its catch stages are."""

Key = tuple[str, str, str]
"""Name and version of a pipeline, id of a stage."""


class Seen:
    """What runs did: the best that happened to each stage, how often it ended, and which branches were taken."""

    def __init__(self) -> None:
        self.status: dict[Key, str] = {}
        self.hits: dict[Key, int] = {}
        self.taken: dict[Key, dict[str, int]] = {}

    def stage(self, key: Key, status: str, count: int = 1) -> None:
        """`count` runs of a stage ended so."""
        if _RANK[status] < _RANK[self.status.get(key, UNCOVERED)]:
            self.status[key] = status
        if status in (EXECUTED, FAILED):
            self.hits[key] = self.hits.get(key, 0) + count

    def branch(self, key: Key, name: str) -> None:
        """A branch was taken."""
        branches = self.taken.setdefault(key, {})
        branches[name] = branches.get(name, 0) + 1

    def add(self, other: Seen) -> None:
        """Take over what other runs did."""
        for key, status in other.status.items():
            self.stage(key, status, other.hits.get(key, 0))
        for key, branches in other.taken.items():
            mine = self.taken.setdefault(key, {})
            for name, count in branches.items():
                mine[name] = mine.get(name, 0) + count


def observe(seen: Seen, root: Plan, plans: Mapping[PlanId, Plan], recorded: Sequence[ev.Recorded]) -> None:
    """Note what the journal of one run says."""
    inside: dict[StagePath, Plan] = {}
    caught: set[tuple[StagePath, str]] = set()
    for each in recorded:
        event = each.event
        path = getattr(event, "path", None)
        if not path or path[-1] == "$output":
            continue
        plan, name = _place(root, inside, path)
        if name not in plan.stages:
            continue
        key = (plan.name, plan.version, name)
        if isinstance(event, ev.StageFinished):
            seen.stage(key, EXECUTED)
            for choice in event.choice or ():
                seen.branch(key, choice)
        elif isinstance(event, ev.StageFailed):
            seen.stage(key, FAILED)
        elif isinstance(event, ev.StageSkipped):
            seen.stage(key, SKIPPED)
        elif isinstance(event, ev.ItemsFinished):
            _items(seen, plan, event)
        elif isinstance(event, ev.StageExpanded) and event.plan is not None and event.plan in plans:
            inside[path] = plans[event.plan]
        if isinstance(event, ev.StageFinished | ev.StageFailed | ev.StageExpanded):
            _caught(seen, plan, name, path, caught)


def _place(root: Plan, inside: Mapping[StagePath, Plan], path: StagePath) -> tuple[Plan, Any]:
    """The Plan in which the stage at `path` stands, and its id."""
    plan = root
    for cut in range(1, len(path)):
        plan = inside.get(path[:cut], plan)
    return plan, str(path[-1]).partition("~")[0]


def _items(seen: Seen, plan: Plan, event: ev.ItemsFinished) -> None:
    """Items recorded in columns: an item that failed got through every stage before the one that it failed on."""
    failed_on = [(failure.stage or "").rpartition(".")[2] for failure in event.failures.values()]
    left = event.count
    for name in event.columns:
        key = (plan.name, plan.version, name)
        failed = failed_on.count(name)
        left -= failed
        if failed:
            seen.stage(key, FAILED, failed)
        if left:
            seen.stage(key, EXECUTED, left)


def _caught(seen: Seen, plan: Plan, name: Any, path: StagePath, caught: set[tuple[StagePath, str]]) -> None:
    """The catch of a trycatch was taken where one of its stages ran."""
    for owner in plan.ancestors[name]:
        body = plan.stages[owner].body
        if not isinstance(body, TryCatchBody):
            continue
        rescue = {stage.id for stage in body.rescue.stages}
        chain = {*plan.ancestors[name], name}
        if rescue & chain and (path[:-1], owner) not in caught:
            caught.add((path[:-1], owner))
            seen.branch((plan.name, plan.version, owner), CATCH)


class StageLine(msgspec.Struct, frozen=True):
    """A declared stage and what became of it."""

    id: str
    status: str
    """executed, failed, skipped or uncovered."""
    hits: int
    file: str
    line: int | None
    branches: dict[str, int] = {}
    """Declared branch → how often it was taken."""


class PipelineCoverage(msgspec.Struct, frozen=True):
    """The coverage of one pipeline."""

    pipeline: str
    version: str
    file: str
    stages: tuple[StageLine, ...]

    @property
    def reached(self) -> int:
        """Stages that ran."""
        return sum(stage.status in (EXECUTED, FAILED) for stage in self.stages)

    @property
    def branches(self) -> int:
        """Declared branches."""
        return sum(len(stage.branches) for stage in self.stages)

    @property
    def taken(self) -> int:
        """Branches that were taken."""
        return sum(count > 0 for stage in self.stages for count in stage.branches.values())


class Coverage(msgspec.Struct, frozen=True):
    """The coverage of a test run."""

    pipelines: tuple[PipelineCoverage, ...]

    def totals(self) -> tuple[int, int, int, int]:
        """Stages reached, stages declared, branches taken, branches declared."""
        each = self.pipelines
        return (
            sum(one.reached for one in each),
            sum(len(one.stages) for one in each),
            sum(one.taken for one in each),
            sum(one.branches for one in each),
        )

    @property
    def percent(self) -> float:
        """Stages and branches together, 0 to 100; 100 where there is nothing to cover."""
        reached, stages, taken, branches = self.totals()
        return percent(reached + taken, stages + branches)


def percent(part: int, whole: int) -> float:
    """`part` of `whole` in percent, to two decimals; 100 of nothing."""
    return round(100 * part / whole, 2) if whole else 100.0


def cover(pipeline: str, version: str, file: str, declared: Iterable[StageLine], seen: Seen) -> PipelineCoverage:
    """The coverage of one pipeline. `declared` are its stages with every branch at 0."""
    stages = []
    for line in declared:
        key = (pipeline, version, line.id)
        taken = seen.taken.get(key, {})
        stages.append(
            msgspec.structs.replace(
                line,
                status=seen.status.get(key, UNCOVERED),
                hits=seen.hits.get(key, 0),
                branches={name: taken.get(name, 0) for name in line.branches},
            )
        )
    return PipelineCoverage(pipeline, version, file, tuple(stages))
