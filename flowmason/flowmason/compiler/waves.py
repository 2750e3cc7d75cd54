"""Waves: a way of drawing a Plan, and nothing more."""

from __future__ import annotations

from flowmason.ids import StageId
from flowmason.plan import Kind, Plan


def explain(plan: Plan) -> list[list[StageId]]:
    """The root stages by how many others stand before them at the least, each wave in file order.

    A drawing only: a stage starts when its own needs have ended. `$output` is left out.
    """
    depth: dict[StageId, int] = {}
    waves: list[list[StageId]] = []
    index = {stage.id: stage.index for stage in plan.scope.stages}
    for stage in plan.scope.stages:
        if stage.kind is Kind.OUTPUT:
            continue
        level = depth[stage.id] = 1 + max((depth[need] for need in stage.needs), default=-1)
        if level == len(waves):
            waves.append([])
        waves[level].append(stage.id)
    return [sorted(wave, key=index.__getitem__) for wave in waves]
