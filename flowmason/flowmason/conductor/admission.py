"""What becomes of an event that a worker proposes: admitted, dropped, or turned into what it takes to admit it."""

from __future__ import annotations

import logging
from typing import Any

from flowmason import control, value
from flowmason import event as ev
from flowmason.conductor.submit import keep, new_run
from flowmason.conductor.surroundings import Surroundings
from flowmason.errors import Code, FlowMasonError
from flowmason.ids import Digest, OrgId, child_run_id, format_path
from flowmason.inputs import prepare_input
from flowmason.journal import NewRun
from flowmason.plan import Kind, Plan
from flowmason.state import Role, RunState, ScopeState, StageState, admits
from flowmason.value import Inline, Stored, Value

log = logging.getLogger("flowmason.conductor")

SUBPIPELINE_DEPTH = 20


class Admission:
    """Admits events into one run. Sub-pipelines with templated names are resolved here."""

    def __init__(self, conductor: Surroundings, state: RunState, org_id: OrgId) -> None:
        self._conductor = conductor
        self._state = state
        self._org_id = org_id
        self._children: list[NewRun] = []

    async def admit(self, proposed: ev.StageEvent) -> list[ev.Event]:
        """The events to record for `proposed`; none where it is refused."""
        reason = admits(self._state, proposed)
        if reason is not None:
            log.debug("run %s: dropped %s: %s", self._state.run_id, ev.kind(proposed), reason)
            return []
        if isinstance(proposed, ev.StageExpanded):
            stage = self._state.find(proposed.path)
            if stage.stage.kind is Kind.SUBPIPELINE:
                return [await self._subpipeline(stage, proposed)]
        return [proposed]

    def take_children(self) -> list[NewRun]:
        """Runs to submit together with the events admitted since the last call."""
        taken, self._children = self._children, []
        return taken

    async def _subpipeline(self, stage: StageState, proposed: ev.StageExpanded) -> ev.Event:
        try:
            return await self._resolved(stage, proposed)
        except FlowMasonError as error:
            failure = error.failure.at(format_path(stage.path))
            return ev.StageFailed(path=stage.path, attempt=proposed.attempt, failure=failure)

    async def _resolved(self, stage: StageState, proposed: ev.StageExpanded) -> ev.Event:
        if _depth(stage.scope) >= SUBPIPELINE_DEPTH:
            raise FlowMasonError(
                f"sub-pipelines are nested more than {SUBPIPELINE_DEPTH} deep", code=Code.PIPELINE_DEPTH
            )
        given = proposed.input or value.NULL
        if proposed.plan is None:
            options = {**self._state.options, "org_id": self._org_id}
            plan = await self._conductor.resolve(proposed.pipeline, options)
            await self._learn(plan)
            given = keep(self._conductor.values, self._org_id, prepare_input(plan.input_schema, self._load(given)))
        else:
            plan = self._state.plans[proposed.plan]
        if control.own_run(proposed.settings):
            return self._child(stage, proposed, plan, self._load(given))
        return ev.StageExpanded(
            path=proposed.path,
            attempt=proposed.attempt,
            settings=proposed.settings,
            input=given,
            pipeline=proposed.pipeline,
            plan=plan.id,
            variables=proposed.variables,
            started_at=proposed.started_at,
        )

    def _child(self, stage: StageState, proposed: ev.StageExpanded, plan: Plan, given: Any) -> ev.StageFinished:
        """An asynchronous sub-pipeline is a run of its own, submitted in our transaction."""
        state, now = self._state, self._conductor.now()
        if state.capped and state.budgets(stage):
            raise FlowMasonError(
                f"{plan.name} would run on its own and spend beyond the budget of its caller",
                code=Code.NOT_SUPPORTED,
                help="Let the stage wait for it (wait_for_completion: true), or take the budget away.",
            )
        child = child_run_id(state.run_id, stage.path)
        self._children.append(
            new_run(
                plan,
                given,
                run_id=child,
                now=now,
                by=self._conductor.id,
                values=self._conductor.values,
                org_id=self._org_id,
                options=dict(state.options),
                parent=state.run_id,
                variables=proposed.variables,
            )
        )
        output = {
            "pipeline_id": plan.name,
            "pipeline_version": plan.version,
            "run_id": child,
            "status": "queued",
            "input_data": given,
            "result": None,
            "execution_time_ms": None,
            "error": None,
        }
        return ev.StageFinished(
            path=stage.path, attempt=proposed.attempt, output=value.inline(output), started_at=proposed.started_at
        )

    async def _learn(self, plan: Plan) -> None:
        for each in (plan, *plan.plans.values()):
            self._state.plans[each.id] = each
            self._conductor.values.put(self._org_id, Digest(each.id), each.encoded)
        await self._conductor.journal.put_plan(plan.id, plan.encoded)

    def _load(self, source: Value) -> Any:
        if isinstance(source, Inline):
            return value.decode(source.data)
        if isinstance(source, Stored):
            return value.decode(self._conductor.values.get(self._org_id, source.digest))
        raise FlowMasonError("a sub-pipeline's input must be one value", code=Code.INTERNAL)


def _depth(scope: ScopeState) -> int:
    depth = 0
    here: ScopeState | None = scope
    while here is not None:
        depth += here.role is Role.PIPELINE
        here = here.owner.scope if here.owner is not None else None
    return depth
