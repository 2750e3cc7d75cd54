"""From drafts without faults to the frozen Plan."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from flowmason.compiler.draft import Draft, Place, Work
from flowmason.compiler.prompts import hints_of
from flowmason.component import ComponentSpec
from flowmason.expressions import Fields, Path, Static, Template
from flowmason.ids import StageId
from flowmason.pipeline.model import Budget as Written
from flowmason.plan import (
    FORMAT,
    Arm,
    Body,
    Budget,
    ComponentRef,
    Fallback,
    ForeachBody,
    Kind,
    Plan,
    PromptRef,
    Scope,
    Stage,
    SubPipelineBody,
    TryCatchBody,
)
from flowmason.policy import LOST_BUDGET, Placement, Resources, RetryPolicy
from flowmason.usage import Limit, limit_of

OUTPUT = StageId("$output")
"""Id (and component) of the stage that holds the pipeline's output against its `output_schema`."""


_NOTES = frozenset({"$schema", "$id", "$comment", "title", "description", "examples", "$defs"})


def says_nothing(schema: dict[str, Any]) -> bool:
    """Whether a schema, like the one that files have by default, lets every object pass."""
    return all(
        key in _NOTES
        or (key == "type" and value == "object")
        or (key in ("properties", "required") and not value)
        or (key == "additionalProperties" and value is True)
        for key, value in schema.items()
    )


def assemble(work: Work) -> Plan:
    """The Plan. Scopes must be sorted."""
    pipeline = work.pipeline
    scope = _scope(work, work.root)
    output_schema = {} if says_nothing(pipeline.output_schema) else pipeline.output_schema
    plan = Plan(
        name=pipeline.name,
        version=pipeline.version,
        scope=scope,
        format=FORMAT,
        components=_components(work.drafts),
        input_schema={} if says_nothing(pipeline.input_schema) else pipeline.input_schema,
        output_schema=output_schema,
        output_stage=pipeline.output_stage_id,
        max_concurrency=pipeline.max_concurrency,
        budget=None if pipeline.budget is None else _limit(pipeline.budget),
        env=work.env,
        prompts={name: PromptRef(prompt.digest, prompt.text) for name, prompt in sorted(work.used.items())},
        plans=dict(sorted(work.plans.items())),
    )
    if not output_schema:
        return plan
    stages = (*scope.stages, _output_stage(plan, len(pipeline.stages)))
    return msgspec.structs.replace(plan, scope=msgspec.structs.replace(scope, stages=stages))


def _scope(work: Work, place: Place) -> Scope:
    last = max(place.members, key=lambda member: member.position).id if place.members else None
    return Scope(stages=tuple(_stage(work, member) for member in place.members), last=last)


def _stage(work: Work, draft: Draft) -> Stage:
    spec = draft.spec
    assert spec is not None and draft.kind is not None
    spec = spec.settle(draft.inputs)
    body = _body(work, draft)
    resources = _resources(spec.resources, draft.source.resources)
    asked, asked_retry = draft.source.timeout_ms, draft.source.retry_config
    settings = hints_of(draft, msgspec.to_builtins(draft.source.llm) if draft.source.llm is not None else {})
    return Stage(
        id=draft.id,
        index=draft.index,
        kind=draft.kind,
        component=spec.name,
        inputs=_inputs(draft.templates),
        reads=_by_index(work, draft.reads),
        needs=_by_index(work, draft.needs),
        data=_by_index(work, draft.data),
        order=_by_index(work, (need for need in draft.order if need not in draft.data)),
        arms=tuple(Arm(guard, tuple(draft.arms[guard])) for guard in _by_index(work, draft.arms)),
        variables=draft.variables,
        effect=spec.effect,
        on_lost=spec.on_lost,
        placement=Placement.TASK if resources else spec.placement,
        retry=_retry(draft, spec),
        lost_budget=0 if asked_retry is not None and asked_retry.max_retries == 0 else LOST_BUDGET,
        timeout_ms=spec.timeout_ms if asked is None or body is not None else asked,
        body_timeout_ms=_body_timeout(draft, body),
        resources=resources,
        llm=msgspec.json.decode(msgspec.json.encode(settings)) or None,
        budget=_budget(draft.source.budget),
        prompts={name: use.prompt.name for name, use in draft.prompts.items()},
        body=body,
    )


def _limit(written: Written) -> Limit:
    return limit_of(written.max_cost, written.max_tokens)


def _budget(written: Written | None) -> Budget | None:
    if written is None:
        return None
    fallback = written.fallback
    return Budget(_limit(written), None if fallback is None else Fallback(fallback.model, fallback.provider))


def _by_index(work: Work, names: Iterable[StageId]) -> tuple[StageId, ...]:
    return tuple(sorted(names, key=lambda name: work.by_id[name].index))


def _inputs(templates: dict[str, Template]) -> Template:
    if all(isinstance(template, Static) for template in templates.values()):
        return Static({name: template.value for name, template in templates.items()})  # type: ignore[union-attr]
    return Fields(templates)


def _body(work: Work, draft: Draft) -> Body | None:
    if draft.kind is Kind.FOREACH:
        return ForeachBody(_scope(work, draft.places["loop"]), *draft.loop)
    if draft.kind is Kind.TRYCATCH:
        return TryCatchBody(*(_scope(work, draft.places[role]) for role in ("try", "catch", "finally")))
    if draft.kind is Kind.SUBPIPELINE:
        return SubPipelineBody(draft.plan.id if draft.plan is not None else None)
    return None


def _body_timeout(draft: Draft, body: Body | None) -> int | None:
    if body is None:
        return None
    own = draft.templates.get("timeout_ms")
    if draft.source.timeout_ms is None and draft.kind is Kind.SUBPIPELINE and isinstance(own, Static):
        return own.value if isinstance(own.value, int) else None
    return draft.source.timeout_ms


def _resources(declared: Resources, asked: Resources | None) -> Resources:
    if asked is None:
        return declared
    given = {
        name: getattr(asked, name) if getattr(asked, name) is not None else getattr(declared, name)
        for name in ("num_cpus", "num_gpus", "memory", "accelerator_type")
    }
    return Resources(**given, custom={**declared.custom, **asked.custom})


def _retry(draft: Draft, spec: ComponentSpec) -> RetryPolicy:
    return draft.source.retry_config or spec.retry


def _components(drafts: Iterable[Draft]) -> dict[str, ComponentRef]:
    found: dict[str, ComponentRef] = {}
    for draft in drafts:
        spec = draft.spec
        if spec is not None and spec.name not in found:
            found[spec.name] = ComponentRef(
                name=spec.name,
                version=spec.version,
                target=spec.target,
                digest=spec.digest,
                package=spec.package,
                archive=spec.archive,
                secrets=spec.secrets,
                models=spec.models,
                hosts=spec.hosts,
            )
    return dict(sorted(found.items()))


def _output_stage(plan: Plan, index: int) -> Stage:
    ends = (plan.output_stage,) if plan.output_stage is not None else plan.terminals
    paths: dict[str, Template] = {end: Path("upstream", (end,)) for end in ends}
    return Stage(
        id=OUTPUT,
        index=index,
        kind=Kind.OUTPUT,
        component=OUTPUT,
        inputs=paths[ends[0]] if len(ends) == 1 else Fields(paths),
        reads=ends,
        needs=ends,
        data=ends,
    )
