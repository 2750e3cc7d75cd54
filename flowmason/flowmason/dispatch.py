"""From what may start to regions: which stages travel together, and what they must be told. Pure.

Cheap pure stages travel together: a region takes a share of what is ready and looks ahead along the
edges. What has not started when a region's time is over comes back, so a wrong guess costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flowmason import value
from flowmason.errors import Failure
from flowmason.ids import StageId, StagePath, format_path
from flowmason.plan import LOOP_TOTAL, ForeachBody
from flowmason.policy import Effect, Placement
from flowmason.report import Piece
from flowmason.state import ForeachState, Role, RunState, ScopeState, StageState, Status
from flowmason.state.lookup import value_of
from flowmason.state.tree import FINE
from flowmason.value import Value

_Part = StageState | tuple[StageState, tuple[tuple[int, int], ...]]

LOOK_AHEAD = 256
"""How many stages a first load may hold; what its worker does not get to in its time comes back."""


@dataclass(slots=True)
class Load:
    """What one region will carry."""

    stages: list[StageState] = field(default_factory=list)
    items: list[tuple[StageState, tuple[tuple[int, int], ...]]] = field(default_factory=list)

    @property
    def alone(self) -> bool:
        """Whether only one stage (or item) is in it, so that a loss has one suspect."""
        count = len(self.stages) + sum(stop - start for _, ranges in self.items for start, stop in ranges)
        return count == 1


def is_cheap(stage: StageState) -> bool:
    """Whether a stage may travel with others of its placement; of one with a body that goes for its own evaluation."""
    return stage.stage.effect is Effect.PURE and not stage.stage.resources


def share(
    ready: Sequence[StageState],
    workers: int,
    size: int,
    taken: set[StagePath],
    free: Callable[[StageState], bool] | None = None,
) -> list[Load]:
    """Split cheap ready stages into loads for `workers` free workers, each looking ahead.

    A load begins with `ready ÷ workers` stages or `size`, whichever is more, and grows to at most
    four times `size` (`LOOK_AHEAD` at least) by stages that need nothing outside the load. `taken` are paths
    under way elsewhere; the paths of the loads are added to it. `free`: which stages may be looked ahead to; None: all.
    """
    if not ready or workers < 1:
        return []
    per_load = max(-(-len(ready) // workers), size)
    loads: list[Load] = []
    for start in range(0, len(ready), per_load):
        if len(loads) == workers:
            break
        load = Load(list(ready[start : start + per_load]))
        taken.update(stage.path for stage in load.stages)
        if size > 1:
            _look_ahead(load, max(LOOK_AHEAD, 4 * size), taken, free)
        loads.append(load)
    return loads


def _look_ahead(load: Load, limit: int, taken: set[StagePath], free: Callable[[StageState], bool] | None) -> None:
    stages = load.stages
    chosen = {stage.path for stage in stages}
    for stage in stages:  # it grows
        if len(stages) >= limit:
            return
        siblings = stage.scope.stages
        for name in stage.scope.scope.dependents[stage.stage.id]:
            dependent = siblings.get(name)
            if (
                dependent is not None
                and dependent.status is Status.PENDING
                and dependent.path not in taken
                and is_cheap(dependent)
                and dependent.stage.placement is stage.stage.placement
                and _met(dependent, siblings, chosen)
                and (free is None or free(dependent))
            ):
                stages.append(dependent)
                chosen.add(dependent.path)
                taken.add(dependent.path)


def _met(stage: StageState, siblings: Mapping[StageId, StageState], chosen: set[StagePath]) -> bool:
    """Whether all that a stage needs has ended well or is in the load."""
    for need in stage.stage.needs:
        other = siblings[need]
        if other.path not in chosen and other.status not in FINE:
            return False
    return True


def pieces(load: Load) -> tuple[Piece, ...]:
    """What a worker must be told to run a load."""
    by_scope: dict[int, list[StageState]] = {}
    for stage in load.stages:
        by_scope.setdefault(id(stage.scope), []).append(stage)
    made = [_piece(stages[0].scope, stages) for stages in by_scope.values()]
    made.extend(_items_piece(stage, ranges) for stage, ranges in load.items)
    return tuple(made)


def _piece(scope: ScopeState, stages: list[StageState]) -> Piece:
    ids = {stage.stage.id for stage in stages}
    seeds: dict[StageId, Value | None] = {}
    choices: dict[StageId, tuple[str, ...]] = {}
    skipped: list[StageId] = []
    attempts: dict[StageId, tuple[int, int, int]] = {}
    for stage in stages:
        _seed(scope, stage, ids, seeds)
        for need in stage.stage.needs:
            other = scope.stages[need]
            if need in ids:
                continue
            if other.status is Status.SKIPPED:
                skipped.append(need)
            elif other.choice is not None:
                choices[need] = other.choice
        if stage.attempt > 1 or stage.round > 1:
            attempts[stage.stage.id] = (stage.attempt, stage.round, stage.base + stage.lost)
    order = {stage.id: position for position, stage in enumerate(scope.scope.stages)} if len(ids) > 1 else {}
    return Piece(
        scope=scope.prefix,
        plan=scope.plan.id,
        stages=tuple(sorted(ids, key=lambda name: order.get(name, 0))),
        input=scope.input,
        pipeline=(scope.plan.name, scope.plan.version),
        variables=scope.inherited,
        seeds=seeds,
        choices=choices,
        skipped=tuple(dict.fromkeys(skipped)),
        locals=local_values(scope),
        error=error_of(scope),
        attempts=attempts,
        edits={stage.stage.id: stage.edit for stage in stages if stage.edit is not None},
    )


def _items_piece(stage: StageState, ranges: tuple[tuple[int, int], ...]) -> Piece:
    scope, body = stage.scope, stage.body
    assert isinstance(body, ForeachState)
    seeds: dict[StageId, Value | None] = {}
    _seed(scope, stage, {stage.stage.id}, seeds)
    return Piece(
        scope=scope.prefix,
        plan=scope.plan.id,
        stages=(stage.stage.id,),
        items=ranges,
        expanded=body.settings,
        item_values=body.items,
        input=scope.input,
        pipeline=(scope.plan.name, scope.plan.version),
        variables=scope.inherited,
        seeds=seeds,
        locals=local_values(scope),
        error=error_of(scope),
    )


def _seed(scope: ScopeState, stage: StageState, ids: set[StageId], seeds: dict[StageId, Value | None]) -> None:
    chains = scope.plan.ancestors
    names: Iterable[StageId] = stage.stage.reads
    if stage.stage.variables:
        names = [*names, *(setter for setters in stage.stage.variables.values() for setter in setters)]
    for name in names:
        if name in ids or name in seeds or any(owner in ids for owner in chains.get(name, ())):
            continue
        seeds[name] = value_of(scope, name)


def local_values(scope: ScopeState) -> dict[str, tuple[Value, int]]:
    """The loop variables of every foreach item around (and including) `scope`, inner ones winning."""
    found: dict[str, tuple[Value, int]] = {}
    here: ScopeState | None = scope
    while here is not None:
        if here.role is Role.ITEM:
            assert here.owner is not None
            body, foreach = here.owner.stage.body, here.owner.body
            assert isinstance(body, ForeachBody) and isinstance(foreach, ForeachState)
            found.setdefault(body.item_variable, (foreach.items, here.position))
            found.setdefault(body.index_variable, (value.inline(here.position), -1))
            found.setdefault(LOOP_TOTAL, (value.inline(foreach.total), -1))
        here = here.parent
    return found


def error_of(scope: ScopeState) -> Failure | None:
    """The failure that the nearest rescue or cleanup around `scope` deals with."""
    here: ScopeState | None = scope
    while here is not None:
        if here.error is not None:
            return here.error
        here = here.parent
    return None


def region_name(pipeline: str, load: Load) -> str:
    """`pipeline/stage`, or `pipeline/first…last (n)`: what dashboards show."""
    parts: list[_Part] = [*load.stages, *load.items]
    if len(parts) == 1:
        return f"{pipeline}/{_part_name(parts[0])}"
    return f"{pipeline}/{_part_name(parts[0])}…{_part_name(parts[-1])} ({len(parts)})"


def _part_name(part: _Part) -> str:
    if isinstance(part, StageState):
        return format_path(part.path)
    stage, ranges = part
    return f"{format_path(stage.path)}[{ranges[0][0]}…{ranges[-1][1] - 1}]"


def region_id(state: RunState, stage: StageState) -> str:
    """The id of an effect's call: the same for every conductor, so that it can be attached to."""
    return f"{state.run_id}/{format_path(stage.path)}/{stage.round}/{stage.attempt}"


def is_effect(stage: StageState) -> bool:
    """Whether the stage's start must be recorded before it is dispatched."""
    return stage.stage.effect is not Effect.PURE


def placement(stage: StageState) -> Placement:
    """Where the stage runs."""
    return stage.stage.placement
