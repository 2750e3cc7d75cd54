"""Evaluation: versions of a pipeline, run over cases many at once, and judged."""

from __future__ import annotations

import asyncio
import json
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from flowmason.assembly.crowd import Crowd
from flowmason.assembly.outcome import result
from flowmason.assembly.running import run_options
from flowmason.assembly.workspace import Source, Workspace
from flowmason.compiler import compile_pipeline
from flowmason.errors import ExpressionError, RefusedError, UsageError
from flowmason.evals.cases import Case
from flowmason.evals.graders import VERDICT, Grade, Grader, filled, grade, verdict
from flowmason.evals.report import CaseResult, Version, ordered
from flowmason.inputs import prepare_input
from flowmason.pipeline import LLMSettings, Pipeline, parse_pipeline
from flowmason.plan import Plan
from flowmason.prompt import Prompt

Told = Callable[[str, CaseResult], None]
"""Told of each case of a version as soon as it is judged."""


class Variant(msgspec.Struct, frozen=True):
    """What makes one version differ from the files of the project."""

    name: str
    model: str | None = None
    """`model` or `provider:model`, for every stage that may ask one."""
    prompts: dict[str, Prompt] = {}
    """Prompts that stand in for those of the project."""

    def plan(self, workspace: Workspace, source: Source) -> Plan:
        """What it runs. Raises `RefusedError`, and `UsageError` where a replaced prompt is not used at all."""
        prompts = cast("Mapping[str, Prompt]", ChainMap(dict(self.prompts), cast("Any", workspace.prompts)))
        plan = compile_pipeline(
            self._settled(source.pipeline, workspace),
            workspace.registry,
            find=lambda name: self._settled(workspace.named(name), workspace),
            env=workspace.project.env,
            prompts=prompts,
        )
        used = {name for each in (plan, *plan.plans.values()) for name in each.prompts}
        for name in self.prompts.keys() - used:
            raise UsageError(f"{plan.name} uses no prompt {name!r}; it uses {', '.join(sorted(used)) or 'none'}")
        return plan

    def _settled(self, pipeline: Pipeline, workspace: Workspace) -> Pipeline:
        if self.model is None:
            return pipeline
        provider, colon, model = self.model.partition(":")
        stages = []
        for stage in pipeline.stages:
            spec = workspace.registry.get(stage.component)
            if spec is not None and spec.kind == "node":
                settings = msgspec.structs.replace(stage.llm or LLMSettings(), model=model if colon else provider)
                if colon:
                    settings = msgspec.structs.replace(settings, provider=provider)
                stage = msgspec.structs.replace(stage, llm_settings=settings, provider=None)
            stages.append(stage)
        return msgspec.structs.replace(pipeline, stages=tuple(stages))


class Evaluation:
    """Runs cases and judges what comes out. `stop` ends it early; what is there by then is kept."""

    def __init__(
        self,
        workspace: Workspace,
        crowd: Crowd,
        graders: Sequence[Grader],
        *,
        width: int = 8,
        provider: str | None = None,
        told: Told | None = None,
    ) -> None:
        """Raises `RefusedError` where the prompt of a judge cannot be compiled."""
        self._workspace = workspace
        self._crowd = crowd
        self._graders = tuple(graders)
        self._judges = {each.title: judge_plan(workspace, each) for each in graders if each.type == "judge"}
        self._room = asyncio.Semaphore(width)
        self._options = run_options(workspace, crowd.executor, {"provider": provider})
        self._told = told
        self.stopped = False

    async def version(self, name: str, plan: Plan, cases: Sequence[Case]) -> Version:
        """All cases with one version. Raises what makes it impossible to go on."""
        done: list[CaseResult] = []

        async def one(case: Case) -> None:
            async with self._room:
                if self.stopped:
                    return
                found = await self._case(plan, case)
            if self.stopped and found.status == "cancelled":
                return
            done.append(found)
            if self._told is not None:
                self._told(name, found)

        async with asyncio.TaskGroup() as group:
            for case in cases:
                group.create_task(one(case))
        prompts = {key: str(ref.digest) for key, ref in plan.prompts.items()}
        return Version(name, plan.id, prompts, ordered(done, [case.id for case in cases]))

    async def stop(self) -> None:
        """Start nothing more, and cancel what runs."""
        self.stopped = True
        await self._crowd.cancel("the evaluation was interrupted")

    async def _case(self, plan: Plan, case: Case) -> CaseResult:
        try:
            picture = await self._crowd.run(plan, case.input, self._options)
        except RefusedError as error:
            return CaseResult(id=case.id, status="refused", error=str(error), tags=case.tags)
        ended = result(picture, self._crowd.stores.values, executor=self._crowd.executor.name, limit=None)
        found = CaseResult(
            id=case.id,
            status=ended.status,
            run_id=ended.run_id,
            error=None if ended.error is None else f"[{ended.error.code}] {ended.error.message}",
            output=ended.output,
            latency_ms=float(max(0, picture.ended_at - picture.submitted_at)),
            tokens=ended.usage.total_tokens,
            cost_nanodollars=ended.usage.cost_nanodollars,
            tags=case.tags,
        )
        if ended.status != "completed":
            return found
        given = prepare_input(plan.input_schema, case.input) if plan.input_schema else case.input
        roots = {"input": given, "output": ended.output, "expected": case.expected}
        grades: dict[str, Grade] = {}
        for grader in self._graders:
            if grader.type != "judge":
                grades[grader.title] = await asyncio.to_thread(grade, grader, roots)
                continue
            grades[grader.title], tokens, failed = await self._judge(grader, roots)
            found = msgspec.structs.replace(
                found, judge_tokens=found.judge_tokens + tokens, error=failed or found.error
            )
        return msgspec.structs.replace(found, grades=grades)

    async def _judge(self, grader: Grader, roots: dict[str, Any]) -> tuple[Grade, int, str | None]:
        """The verdict, the tokens that it took, and why there is none."""
        template = grader.prompt.get("variables", {}) if isinstance(grader.prompt, dict) else grader.prompt
        try:
            asked = filled(template, roots)
        except ExpressionError as error:
            return Grade(False, 0.0, error.failure.message), 0, f"grader {grader.title}: {error.failure.message}"
        if not isinstance(grader.prompt, dict) and not isinstance(asked, str):
            asked = json.dumps(asked, ensure_ascii=False)
        picture = await self._crowd.run(self._judges[grader.title], {"given": asked}, self._options)
        ended = result(picture, self._crowd.stores.values, executor=self._crowd.executor.name, limit=None)
        tokens = ended.usage.total_tokens
        try:
            if ended.error is not None:
                raise ValueError(ended.error.message)
            return verdict(ended.output.get("data")), tokens, None
        except ValueError as error:
            return Grade(False, 0.0, str(error)), tokens, f"grader {grader.title}: {error}"


def judge_plan(workspace: Workspace, grader: Grader) -> Plan:
    """A judge is a pipeline of one stage: it asks as any stage does, and what it asked stands in the journal.

    Raises `RefusedError` for a prompt that cannot be had.
    """
    prompt: Any = "{{input.given}}"
    if isinstance(grader.prompt, dict):
        variables = {name: f"{{{{input.given.{name}}}}}" for name in grader.prompt.get("variables", {})}
        prompt = {**grader.prompt, "variables": variables}
    settings = {key: value for key, value in (("model", grader.model), ("provider", grader.provider)) if value}
    stage = {
        "id": "judge",
        "component_type": "generator",
        "config": {"prompt": prompt, "output_format": "json", "output_schema": VERDICT, "temperature": 0},
        **({"llm_settings": settings} if settings else {}),
    }
    faults: list[Any] = []
    pipeline = parse_pipeline({"name": f"judge {grader.title}"[:200], "stages": [stage]}, faults)
    if pipeline is None:
        raise RefusedError(faults)
    return compile_pipeline(pipeline, workspace.registry, env=(), prompts=workspace.prompts)


def variants(models: Sequence[str], replaced: Mapping[str, Prompt]) -> list[Variant]:
    """The versions to run: each model by itself, and with replaced prompts after what is there now."""
    found = [Variant(model, model) for model in models] or [Variant("current")]
    if replaced:
        name = " ".join(f"{key}={prompt.file or prompt.digest}" for key, prompt in replaced.items())
        found += [Variant(f"{each.name} {name}" if models else name, each.model, dict(replaced)) for each in found]
    return found
