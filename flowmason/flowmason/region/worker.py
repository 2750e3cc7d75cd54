"""What all regions of one worker process share: Plans, components, providers, clients, the pulse."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flowmason import control
from flowmason.errors import Code, Failure, FlowMasonError, StageError
from flowmason.executor import Emit, WorkerSettings
from flowmason.expressions import prepare
from flowmason.ids import LOCAL_ORG, Digest, OrgId, PlanId, StageId
from flowmason.plan import ComponentRef, Kind, Plan, Scope, Stage
from flowmason.plan import decode as decode_plan
from flowmason.region.run import RegionRun
from flowmason.report import Ended, Region, Report
from flowmason.state import StageState
from flowmason.value import Stored, Value

if TYPE_CHECKING:
    from flowmason.control import Decision
    from flowmason.region.data import Data
    from flowmason.region.mocks import Mocks
    from flowmason.region.services import Services
    from flowmason.registry import Loaded
    from flowmason.sandbox import Sandboxes

log = logging.getLogger("flowmason.region")

PULSE_S = 0.02
_NOT_HERE = (Code.COMPONENT_MISSING, Code.COMPONENT_CHANGED)
_KEPT_LISTS = 4
_KEPT_LIST_BYTES = 16 * 1024 * 1024


class Worker:
    """Runs regions in this process. Made once from settings that are sent to it.

    Tests hand in services that reach nobody, and mocks that answer in the place of components.
    """

    def __init__(
        self, settings: WorkerSettings, *, services: Services | None = None, mocks: Mocks | None = None
    ) -> None:
        from flowmason.region.services import Services
        from flowmason.values_fs import open_values

        self.settings = settings
        self.values = open_values(settings.values_url)
        self.services: Services = services or Services(settings)
        self.mocks = mocks
        self.name = f"{os.getpid()}@{socket.gethostname()}"
        self._plans: dict[PlanId, Plan] = {}
        self._templates: dict[int, tuple[Stage, Callable[[Mapping[str, Any], Any], Any]]] = {}
        self._scopes: dict[PlanId, dict[StageId, Scope]] = {}
        self._components: dict[str, Loaded] = {}
        self._lists: dict[tuple[OrgId, Digest], list[Any]] = {}
        self._rng = random.Random()
        self._active: weakref.WeakSet[RegionRun] = weakref.WeakSet()
        self._pulse: threading.Thread | None = None
        self.masker = self.services.masker

    # -- regions ---------------------------------------------------------------------------------

    async def run(self, region: Region, emit: Emit) -> None:
        """The `RegionRunner`: run `region`, hand its reports to `emit`; the last one has `ended`."""
        try:
            plan = self._plan(region.org_id, region.plan)
        except FlowMasonError as error:
            emit(Report(region=region.id, ended=Ended.REFUSED, failure=error.failure, worker=self.name))
            return
        run = RegionRun(self, region, plan, emit)
        self._beat(run)
        try:
            await run.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            from flowmason.region.failures import failure_of

            failure = run.mask_failure(failure_of(error, path=""))
            run.outbox.flush(
                Ended.LOST, Failure(code=Code.INTERNAL, message=f"the worker failed: {failure.message}", cause=failure)
            )
        finally:
            self._active.discard(run)

    def _beat(self, run: RegionRun) -> None:
        self._active.add(run)
        if self._pulse is None:
            self._pulse = threading.Thread(
                target=_pulse, args=(weakref.ref(self),), daemon=True, name="flowmason-pulse"
            )
            self._pulse.start()

    def active(self) -> list[RegionRun]:
        """The regions under way."""
        return list(self._active)

    # -- plans and templates ---------------------------------------------------------------------

    def _plan(self, org_id: OrgId, plan_id: PlanId) -> Plan:
        plan = self._plans.get(plan_id)
        if plan is None:
            plan = decode_plan(self.values.get(org_id, Digest(plan_id)))
            plan.__dict__["id"] = plan_id
            self._plans[plan_id] = plan
            self._plans.update(plan.plans)
        return plan

    def plan_of(self, region: Region, plan_id: PlanId) -> Plan:
        """A Plan by digest: cached, part of the region's own, or read from the value store."""
        return self._plans.get(plan_id) or self._plan(region.org_id, plan_id)

    def scope_of(self, plan: Plan, stage_id: StageId) -> Scope:
        """The scope of `plan` in which a stage stands."""
        table = self._scopes.get(plan.id)
        if table is None:
            table = {}
            pending = [plan.scope]
            while pending:
                scope = pending.pop()
                for stage in scope.stages:
                    table[stage.id] = scope
                    pending.extend(stage.scopes)
            self._scopes[plan.id] = table
        return table[stage_id]

    def template(self, stage: Stage) -> Callable[[Mapping[str, Any], Any], Any]:
        """The stage's inputs as a function of its roots, compiled once."""
        found = self._templates.get(id(stage))
        if found is None or found[0] is not stage:
            found = (stage, prepare(stage.inputs))
            self._templates[id(stage)] = found
        return found[1]

    def items_of(self, org_id: OrgId, source: Value, data: Data) -> list[Any]:
        """A foreach's list. A long one serves many regions, so the latest few stay decoded."""
        if not isinstance(source, Stored) or source.size > _KEPT_LIST_BYTES:
            return cast("list[Any]", data.load(source))
        key = (org_id, source.digest)
        items = self._lists.get(key)
        if items is None:
            items = self._lists[key] = data.load(source)
            while len(self._lists) > _KEPT_LISTS:
                del self._lists[next(iter(self._lists))]
        return items

    # -- components ------------------------------------------------------------------------------

    @cached_property
    def sandboxes(self) -> Sandboxes:
        """Where components of uploaded packages run."""
        from flowmason.sandbox import Sandboxes

        return Sandboxes(self.values.get)

    def component(self, ref: ComponentRef) -> Loaded:
        """The component of a stage, imported once per digest."""
        found = self._components.get(ref.digest)
        if found is None:
            found = self._components[ref.digest] = self._loaded(ref)
        return found

    def _loaded(self, ref: ComponentRef) -> Loaded:
        from flowmason.registry import load_component

        root, packages = self.settings.project_root, self.settings.packages_dir
        packages_dir = Path(packages) if packages else None
        try:
            return load_component(ref, project_root=Path(root) if root else None, packages_dir=packages_dir)
        except StageError as error:
            ours = ref.package is None and ref.target.partition(":")[0].endswith(".py")
            if not ours or self.settings.project_archive is None or error.failure.code not in _NOT_HERE:
                raise
            # This machine does not have the project, or not as it is where the run began.
            return load_component(ref, project_root=self._shipped_project, packages_dir=packages_dir)

    @cached_property
    def _shipped_project(self) -> Path:
        """Where the code lies that was sent along."""
        from flowmason.registry.shipping import unpack_code

        digest = self.settings.project_archive
        assert digest is not None
        try:
            data = self.values.get(LOCAL_ORG, digest)
        except FlowMasonError as error:
            raise StageError(
                f"the project does not lie at {self.settings.project_root}, and its code cannot be fetched: {error}",
                code=Code.COMPONENT_MISSING,
            ) from error
        return unpack_code(data, digest)

    async def decision(self, run: RegionRun, stage: StageState, inputs: Mapping[str, Any]) -> Decision:
        """What a control-flow stage decides: by a mock, by the built-in rules, or by a component of the user's."""
        if self.mocks is not None and self.mocks.of(stage) is not None:
            decided = await self.mocks.decision(stage, inputs)
            if decided is not None:
                return decided
        ref = stage.scope.plan.components.get(stage.stage.component)
        if ref is None or ref.target.startswith("flowmason.lab"):
            return control.decide(stage.stage.kind, inputs)
        from flowmason.region.custom_control import custom_decision

        return await custom_decision(run, stage, inputs)

    def sub_input(self, run: RegionRun, plan_id: PlanId | None, given: Any) -> Any:
        """A sub-pipeline's input with defaults applied; checked where the Plan is known already."""
        if plan_id is None:
            return given
        from flowmason.inputs import prepare_input

        return prepare_input(self.plan_of(run.region, plan_id).input_schema, given)

    def checked_output(self, stage: StageState, upstream: Mapping[str, Any]) -> Any:
        """The pipeline's output, held against its `output_schema`. Raises `StageError`."""
        from flowmason.expressions import ABSENT

        plan = stage.scope.plan
        if plan.output_stage is not None or len(plan.terminals) == 1:
            found = upstream[plan.output_stage or plan.terminals[0]]
            output = None if found is ABSENT else found
        else:
            parts = {end: upstream[end] for end in plan.terminals}
            output = {end: part for end, part in parts.items() if part is not ABSENT}
        self._check_output(plan, output)
        return output

    def check_returned(self, stage: StageState, status: str, output: Any) -> None:
        """Hold what a `return` gives against the `output_schema` of the pipeline it ends (not of an item)."""
        plan = stage.scope.plan
        owners = plan.ancestors[stage.stage.id]
        if status == "completed" and not any(plan.stages[owner].kind is Kind.FOREACH for owner in owners):
            self._check_output(plan, output)

    def _check_output(self, plan: Plan, output: Any) -> None:
        from flowmason.inputs import check_output

        failure = check_output(plan.output_schema, output)
        if failure is not None:
            raise StageError(failure.message, code=failure.code, details=failure.details, help=failure.help)

    # -- what contexts ask for -------------------------------------------------------------------

    def environment(self) -> Mapping[str, str]:
        """What `env.` may read."""
        return self.services.environment

    def cache_of(self, org_id: OrgId) -> Any:
        """The process's cache for components of an org."""
        return self.services.cache_of(org_id)

    def http(self, hosts: tuple[str, ...]) -> Any:
        """The guarded HTTP client of components that declare these hosts."""
        return self.services.http(hosts)

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def jitter(self) -> float:
        """Uniform in 0..1; spreads retries."""
        return self._rng.random()


def _pulse(worker_ref: weakref.ref[Worker]) -> None:
    """Every 20 ms send what regions have finished, also while a component blocks their loop."""
    while True:
        time.sleep(PULSE_S)
        worker = worker_ref()
        if worker is None:
            return
        for run in worker.active():
            try:
                run.outbox.flush()
            except Exception:  # the other regions of the process need their reports all the same
                log.exception("region %s could not report", run.region.id)
        del worker
