"""The Plan: what is run. Compiled once from a pipeline, frozen, digested, and itself the stored and sent form.

A Plan holds one root `Scope`. A stage that owns a *body* (foreach, trycatch, sub-pipeline) holds the
scopes of that body; stage ids are unique in a whole Plan, so an id alone finds a stage. *Guards*
(conditional, router) own nothing: the stages they steer stay in their scope under `Arm`s.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec

from flowmason import value
from flowmason.expressions import Template
from flowmason.ids import Digest, PlanId, StageId, sha256
from flowmason.policy import LOST_BUDGET, Effect, OnLost, Placement, Resources, RetryPolicy
from flowmason.usage import Limit

FORMAT = 1
"""Rises when a driver of an older FlowMason could misread a Plan."""


class Kind(StrEnum):
    """What makes a stage's output."""

    NODE = "node"
    OPERATOR = "operator"
    CONDITIONAL = "conditional"
    ROUTER = "router"
    FOREACH = "foreach"
    TRYCATCH = "trycatch"
    SUBPIPELINE = "subpipeline"
    RETURN = "return"
    OUTPUT = "output"
    """The synthetic last stage `$output` that holds the pipeline's output against `output_schema`."""


class Arm(msgspec.Struct, frozen=True):
    """A condition on a stage: it runs if `guard` chose one of `choices` (`"true"`, a route, `"default"`)."""

    guard: StageId
    choices: tuple[str, ...]


LOOP_TOTAL = "loop_total"
"""Root under which an expression finds how many items the nearest loop runs over; files write `context.loop_total`."""


class ForeachBody(msgspec.Struct, frozen=True, tag="foreach"):
    """Run `scope` once per item, the item bound to `item_variable`, its position to `index_variable`."""

    scope: Scope
    item_variable: str = "item"
    index_variable: str = "index"


class TryCatchBody(msgspec.Struct, frozen=True, tag="trycatch"):
    """Run `attempt`; on an error that is taken, `rescue`; and `cleanup` whatever happened."""

    attempt: Scope
    rescue: Scope
    cleanup: Scope


class SubPipelineBody(msgspec.Struct, frozen=True, tag="subpipeline"):
    """Run another pipeline. `plan` is pinned for a literal name; None where the name is a template."""

    plan: PlanId | None = None


Body = ForeachBody | TryCatchBody | SubPipelineBody


class Fallback(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cheaper model that a stage asks once its own no longer fits in what is left."""

    model: str
    provider: str | None = None
    """None: the stage's own."""


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a stage may spend: all its attempts, items and rounds in a run, and all that is in its body, together."""

    limit: Limit = Limit()
    fallback: Fallback | None = None


class Stage(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """One stage as the machine sees it."""

    id: StageId
    index: int
    """Position in the file; breaks ties wherever order is free."""
    kind: Kind
    component: str
    """Key of `Plan.components`."""
    inputs: Template
    """The component's Input as a template: an object whose values may hold expressions."""
    name: str = ""
    reads: tuple[StageId, ...] = ()
    """Stages whose outputs the stage (or, for one with a body, anything in it) reads, wherever they stand."""
    needs: tuple[StageId, ...] = ()
    """Stages of the same scope that must have ended first: data, guards and `depends_on`."""
    data: tuple[StageId, ...] = ()
    """Those of `needs` whose output is read."""
    order: tuple[StageId, ...] = ()
    """Those of `needs` that `depends_on` lists without reading them."""
    arms: tuple[Arm, ...] = ()
    variables: dict[str, tuple[StageId, ...]] = {}
    """Variables visible here: name → the setters among the ancestors, the latest first."""
    effect: Effect = Effect.PURE
    on_lost: OnLost = OnLost.RERUN
    placement: Placement = Placement.TASK
    retry: RetryPolicy = RetryPolicy()
    lost_budget: int = LOST_BUDGET
    """How many attempts may be lost with their workers; none where the file says `max_retries: 0`."""
    timeout_ms: int = 30_000
    """Of one attempt; for a stage with a body, of its own evaluation."""
    body_timeout_ms: int | None = None
    """Of a whole body, where the stage sets `timeout_ms` itself."""
    resources: Resources = Resources()
    llm: dict[str, Any] | None = None
    """The stage's `llm_settings`."""
    budget: Budget | None = None
    prompts: dict[str, str] = {}
    """Input → the prompt (a key of `Plan.prompts`) that it was made from."""
    body: Body | None = None

    @cached_property
    def light(self) -> bool:
        """Whether the stage itself (not its body) is pure and an ordinary task: it may travel with others."""
        return self.effect is Effect.PURE and self.placement is Placement.TASK and not self.resources

    @cached_property
    def pure(self) -> bool:
        """Whether the stage and everything in its body is light, so that a worker may run all of it."""
        if not self.light or isinstance(self.body, SubPipelineBody):
            return False
        return all(stage.pure for scope in self.scopes for stage in scope.stages)

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes of the body that stand in the same Plan."""
        if isinstance(self.body, ForeachBody):
            return (self.body.scope,)
        if isinstance(self.body, TryCatchBody):
            return (self.body.attempt, self.body.rescue, self.body.cleanup)
        return ()

    @property
    def is_guard(self) -> bool:
        """Whether the stage chooses among others."""
        return self.kind in (Kind.CONDITIONAL, Kind.ROUTER)


class Scope(msgspec.Struct, frozen=True, dict=True):
    """Stages that start by the same rules and end together, in topological order."""

    stages: tuple[Stage, ...] = ()
    last: StageId | None = None
    """The stage listed last: its output is the result of a foreach item or a trycatch body."""

    @cached_property
    def dependents(self) -> dict[StageId, tuple[StageId, ...]]:
        """For each stage, the stages of this scope that need it."""
        table: dict[StageId, list[StageId]] = {stage.id: [] for stage in self.stages}
        for stage in self.stages:
            for need in stage.needs:
                table[need].append(stage.id)
        return {key: tuple(ids) for key, ids in table.items()}

    @cached_property
    def flat(self) -> bool:
        """Whether every stage is a plain pure component without guards or retries.

        The items of such a foreach body are recorded in columns (`items.finished`) rather than
        stage by stage.
        """
        return all(
            stage.pure and stage.kind in (Kind.NODE, Kind.OPERATOR) and not stage.arms and not stage.retry.max_retries
            for stage in self.stages
        )


class ComponentRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """The component a stage runs, pinned by digest."""

    name: str
    version: str
    target: str
    """`module:attribute`, or `path/in/project.py:attribute`."""
    digest: str
    package: str | None = None
    """`name@version` of the installed package it comes from."""
    archive: Digest | None = None
    """Digest of the uploaded package that holds it, among the org's values. Such a component runs in a sandbox only."""
    secrets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


class PromptRef(msgspec.Struct, frozen=True):
    """The version of a prompt that a Plan was made from."""

    digest: Digest
    """Of `text`."""
    text: str
    """The prompt's file. Nothing runs by it: the stages hold their templates."""


class Plan(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """A compiled pipeline."""

    name: str
    version: str
    scope: Scope
    format: int = 1
    """`FORMAT` of the compiler; the default is that of the first Plans, which say none, and never changes."""
    components: dict[str, ComponentRef] = {}
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    """Empty: nothing to check."""
    output_stage: StageId | None = None
    """The stage whose output is the pipeline's; None: the outputs of `terminals`."""
    max_concurrency: int | None = None
    """How many stages may run at once; None: as many as the executor has room for."""
    budget: Limit | None = None
    """What one run may spend; of a sub-pipeline, what one call of it may."""
    env: tuple[str, ...] = ()
    """Names that `env.` may read."""
    prompts: dict[str, PromptRef] = {}
    """The prompts by reference, by name."""
    plans: dict[PlanId, Plan] = {}
    """Every sub-pipeline with a literal name, however deep; those Plans hold none themselves."""

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes: what is stored, sent and digested."""
        return msgspec.msgpack.encode(self, order="deterministic")

    @cached_property
    def id(self) -> PlanId:
        """Digest of `encoded`."""
        return PlanId(sha256(self.encoded))

    @cached_property
    def stages(self) -> dict[StageId, Stage]:
        """Every stage by id, those in bodies included."""
        return {stage.id: stage for stage in walk(self.scope)}

    @cached_property
    def capped(self) -> bool:
        """Whether it, a stage of it or a sub-pipeline is under a budget."""
        if self.budget is not None or any(stage.budget is not None for stage in self.stages.values()):
            return True
        return any(plan.capped for plan in self.plans.values())

    @cached_property
    def terminals(self) -> tuple[StageId, ...]:
        """Root stages that no other needs, in file order, without `$output`."""
        ends = [s for s in self.scope.stages if not self._needed(s.id) and s.kind is not Kind.OUTPUT]
        return tuple(stage.id for stage in sorted(ends, key=lambda stage: stage.index))

    @cached_property
    def ancestors(self) -> dict[StageId, tuple[StageId, ...]]:
        """For each stage, the owners of the bodies it stands in, outermost first."""
        table: dict[StageId, tuple[StageId, ...]] = {}
        pending: list[tuple[Scope, tuple[StageId, ...]]] = [(self.scope, ())]
        while pending:
            scope, chain = pending.pop()
            for stage in scope.stages:
                table[stage.id] = chain
                pending.extend((inner, (*chain, stage.id)) for inner in stage.scopes)
        return table

    @cached_property
    def exports(self) -> dict[StageId, frozenset[StageId]]:
        """For each owner of a body, the stages in it (however deep) that something outside reads."""
        found: dict[StageId, set[StageId]] = {}
        for reader in self.stages.values():
            around = {*self.ancestors[reader.id], reader.id}
            for name in reader.reads:
                for owner in self.ancestors.get(name, ()):
                    if owner not in around:
                        found.setdefault(owner, set()).add(name)
        return {owner: frozenset(names) for owner, names in found.items()}

    def _needed(self, stage_id: StageId) -> bool:
        return any(self.stages[other].kind is not Kind.OUTPUT for other in self.scope.dependents[stage_id])

    def output_of(self, outputs: dict[StageId, value.Value | None]) -> value.Value:
        """The pipeline's output, given each root stage's output (None: it did not run)."""
        if self.output_stage is not None:
            return outputs.get(self.output_stage) or value.NULL
        if len(self.terminals) == 1:
            return outputs.get(self.terminals[0]) or value.NULL
        found = {end: outputs.get(end) for end in self.terminals}
        return value.Record({end: part for end, part in found.items() if part is not None})


def walk(scope: Scope) -> Iterator[Stage]:
    """Every stage of `scope` and of the bodies in it, outer stages first."""
    for stage in scope.stages:
        yield stage
        for inner in stage.scopes:
            yield from walk(inner)


_decoder = msgspec.msgpack.Decoder(Plan)


def decode(data: bytes) -> Plan:
    """The Plan that `Plan.encoded` wrote. Raises `FormatError` for one of a newer format."""
    from flowmason.errors import FormatError

    written = msgspec.msgpack.decode(data)
    if isinstance(written, dict) and written.get("format", 1) > FORMAT:
        raise FormatError(
            f"this Plan has format {written['format']}; this FlowMason knows {FORMAT}",
            help="Update FlowMason where the run is driven.",
        )
    return _decoder.decode(data)
