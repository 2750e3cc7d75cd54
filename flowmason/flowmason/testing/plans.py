"""A Plan as tests run it: the same, but nobody waits between attempts."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from flowmason.ids import PlanId
from flowmason.plan import ForeachBody, Plan, Scope, Stage, SubPipelineBody, TryCatchBody, walk

_S = TypeVar("_S", bound=msgspec.Struct)


def without_waiting(plan: Plan) -> Plan:
    """`plan` with no delays between the attempts of a stage, its sub-pipelines included."""
    if not any(stage.retry.max_retries for each in (plan, *plan.plans.values()) for stage in walk(each.scope)):
        return plan
    done: dict[PlanId, Plan] = {}
    changed = _plan(plan, plan.plans, done)
    return _replace(changed, plans={each.id: each for each in done.values()})


def _plan(plan: Plan, plans: dict[PlanId, Plan], done: dict[PlanId, Plan]) -> Plan:
    return _replace(plan, scope=_scope(plan.scope, plans, done))


def _scope(scope: Scope, plans: dict[PlanId, Plan], done: dict[PlanId, Plan]) -> Scope:
    return _replace(scope, stages=tuple(_stage(stage, plans, done) for stage in scope.stages))


def _stage(stage: Stage, plans: dict[PlanId, Plan], done: dict[PlanId, Plan]) -> Stage:
    retry = _replace(stage.retry, initial_delay_ms=0, max_delay_ms=0) if stage.retry.max_retries else stage.retry
    body = stage.body
    if isinstance(body, ForeachBody):
        body = _replace(body, scope=_scope(body.scope, plans, done))
    elif isinstance(body, TryCatchBody):
        scopes = (_scope(each, plans, done) for each in (body.attempt, body.rescue, body.cleanup))
        body = TryCatchBody(*scopes)
    elif isinstance(body, SubPipelineBody) and body.plan is not None:
        if body.plan not in done:
            done[body.plan] = _plan(plans[body.plan], plans, done)
        body = SubPipelineBody(done[body.plan].id)
    return _replace(stage, retry=retry, body=body)


def _replace(struct: _S, **changes: object) -> _S:
    return msgspec.structs.replace(struct, **changes)
