"""What a run may use before it runs: at worst, by the budgets that will hold it; usually, by what earlier runs used.
Pure.

How often a component asks is its own affair, so only a budget bounds it: its stage's, that of a body or a sub-pipeline
around it, the run's. A stage's budget counts all that the stage does in a run; that of a sub-pipeline holds for each
call of it, so it is multiplied by how often it is called at most, where that is known before the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from flowmason.allowing import asks_models
from flowmason.control.inputs import MOST_RETRIES
from flowmason.errors import ExpressionError
from flowmason.expressions import Fields, Static, Template, evaluate, references
from flowmason.ids import PlanId, StagePath, format_path
from flowmason.plan import ForeachBody, Plan, Scope, Stage, SubPipelineBody, TryCatchBody
from flowmason.usage import Limit, Usage, limit_words, used

NOTHING = Limit(0, 0)
_LIBRARY = "flowmason.lab"


class StageWorst(msgspec.Struct, frozen=True):
    """A stage that may ask models, and what bounds it."""

    path: StagePath
    stage: Stage
    limit: Limit
    """Of its own budget; None: that does not bound it."""


class Worst(msgspec.Struct, frozen=True):
    """The most that a run may use."""

    limit: Limit
    """None: nothing bounds it."""
    stages: tuple[StageWorst, ...]
    """Those that say that they may ask models."""
    notes: tuple[str, ...] = ()
    """What is known only in the run."""


class Spread(msgspec.Struct, frozen=True):
    """The smallest, the middle (of an even number the lower one) and the largest of some numbers."""

    least: int
    median: int
    most: int


class Usual(msgspec.Struct, frozen=True):
    """What completed runs of a pipeline used."""

    runs: int
    same: int
    """How many of them ran the very same Plan."""
    tokens: Spread
    calls: Spread
    cost: Spread | None
    """Nano-dollars, of the runs whose cost is known; None: of no run."""
    unpriced: int
    """Runs whose cost is not known."""
    beyond: int
    """Runs that used more than the run may use at worst."""


def worst_case(plan: Plan, limit: Limit, given: Mapping[str, Any] | None = None) -> Worst:
    """The most that a run may use under `limit` (its own budget); `given`: its input, as far as it is known.

    It holds for one run as it is submitted: `fm resume` with another budget, or a stage that is run again by hand, may
    add to it.
    """
    walk = _Walk(plan.plans, given)
    found = walk.scope(plan.scope, plan, (), 1)
    return Worst(found.tightest(plan.budget or Limit()).tightest(limit), tuple(walk.stages), tuple(walk.notes))


def usual(found: Sequence[tuple[PlanId, Usage]], plan_id: PlanId, limit: Limit) -> Usual | None:
    """What runs (each its Plan and what it used) add up to; None where there are none."""
    if not found:
        return None
    usages = [usage for _, usage in found]
    costs = [usage.cost_nanodollars for usage in usages if usage.cost_nanodollars is not None]
    return Usual(
        runs=len(usages),
        same=sum(each == plan_id for each, _ in found),
        tokens=_spread(usage.total_tokens for usage in usages),
        calls=_spread(usage.calls for usage in usages),
        cost=_spread(costs) if costs else None,
        unpriced=len(usages) - len(costs),
        beyond=sum(not limit.fits(used(usage)) for usage in usages),
    )


def _spread(numbers: Iterable[int]) -> Spread:
    ordered = sorted(numbers)
    return Spread(ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1])


class _Walk:
    def __init__(self, plans: Mapping[PlanId, Plan], given: Mapping[str, Any] | None) -> None:
        self.stages: list[StageWorst] = []
        self.notes: list[str] = []
        self._plans, self._given = plans, given

    def scope(self, scope: Scope, plan: Plan, prefix: StagePath, times: int | None) -> Limit:
        """What the stages of a scope may use, which is walked `times` at most (None: not known)."""
        total = NOTHING
        for stage in scope.stages:
            total = _plus(total, self._stage(stage, plan, (*prefix, stage.id), times))
        return total

    def _stage(self, stage: Stage, plan: Plan, path: StagePath, times: int | None) -> Limit:
        own = stage.budget.limit if stage.budget is not None else Limit()
        if stage.body is not None:
            return self._body(stage, plan, path, times).tightest(own)
        if times == 0 or not asks_models(plan, stage):
            return NOTHING
        self.stages.append(StageWorst(path, stage, own))
        return own

    def _body(self, stage: Stage, plan: Plan, path: StagePath, times: int | None) -> Limit:
        # A control stage that is tried again walks its body again.
        times = _product(times, 1 + stage.retry.max_retries)
        body = stage.body
        if isinstance(body, ForeachBody):
            count = self._items(stage, plan)
            return self.scope(body.scope, plan, path, _product(times, count))
        if isinstance(body, TryCatchBody):
            times = _product(times, 1 + self._retries(stage))
            parts = (body.attempt, body.rescue, body.cleanup)
            return _plus(*(self.scope(part, plan, path, times) for part in parts))
        assert isinstance(body, SubPipelineBody)
        return self._called(body, path, times)

    def _called(self, body: SubPipelineBody, path: StagePath, times: int | None) -> Limit:
        plan = self._plans.get(body.plan) if body.plan is not None else None
        if times == 0:
            return NOTHING
        if plan is None:
            self.notes.append(f"{format_path(path)}: which pipeline it calls is known only in the run")
            return Limit()
        inside = _Walk(self._plans, None)
        found = inside.scope(plan.scope, plan, path, times)
        self.stages += inside.stages
        self.notes += inside.notes
        if not plan.budget or found == NOTHING:
            return found
        if times is None:
            self.notes.append(
                f"{format_path(path)}: at most {limit_words(plan.budget)} each time, and how often is known only in "
                "the run"
            )
            return found
        return found.tightest(Limit(_of(plan.budget.nanodollars, times), _of(plan.budget.tokens, times)))

    def _items(self, stage: Stage, plan: Plan) -> int | None:
        ref = plan.components.get(stage.component)
        if ref is None or not ref.target.startswith(_LIBRARY):
            return None  # a foreach of somebody's own finds its items itself
        items = _known(stage.inputs, "items", self._given, None)
        return len(items) if isinstance(items, list) else None

    def _retries(self, stage: Stage) -> int:
        found = _known(stage.inputs, "max_retries", self._given, 0)
        return found if isinstance(found, int) and 0 <= found <= MOST_RETRIES else MOST_RETRIES


def _known(inputs: Template, name: str, given: Mapping[str, Any] | None, missing: Any) -> Any:
    """A field of a stage's input where it is known before the run, else None; `missing`: where it is not there."""
    if isinstance(inputs, Static):
        return inputs.value.get(name, missing) if isinstance(inputs.value, dict) else None
    if not isinstance(inputs, Fields):
        return None
    if name not in inputs.fields:
        return missing
    tree = inputs.fields[name]
    roots = {reference.root for reference in references(tree)}
    if roots and (given is None or roots != {"input"}):
        return None
    try:
        return evaluate(tree, {"input": given})
    except ExpressionError:
        return None


def _plus(*limits: Limit) -> Limit:
    money = [each.nanodollars for each in limits]
    tokens = [each.tokens for each in limits]
    return Limit(_sum(money), _sum(tokens))


def _sum(parts: Sequence[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _product(times: int | None, more: int | None) -> int | None:
    if times == 0 or more == 0:
        return 0
    return None if times is None or more is None else times * more


def _of(part: int | None, times: int) -> int | None:
    return None if part is None else part * times
