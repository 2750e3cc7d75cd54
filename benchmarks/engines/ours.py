"""FlowMason: one warm conductor in this process, the journal in SQLite, every stage recorded."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workloads import Workload
from flowmason.assembly.engine import Stores, make_executor, open_stores
from flowmason.assembly.workspace import Workspace
from flowmason.compiler import compile_pipeline
from flowmason.conductor import Conductor, new_run
from flowmason.event import Recorded, RunCancelled, RunCompleted, RunFailed
from flowmason.executor import Executor
from flowmason.ids import LOCAL_ORG, Ids, RunId
from flowmason.pipeline import parse_pipeline
from flowmason.plan import Plan
from flowmason.region.data import Data
from flowmason.report import Report

PROJECT = Path(__file__).parents[1] / "project"


class _Ends:
    """Follows runs to their committed ends."""

    def __init__(self) -> None:
        self.waiting: dict[RunId, asyncio.Future[Any]] = {}

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        last = events[-1].event if events else None
        if isinstance(last, RunCompleted | RunFailed | RunCancelled):
            waiter = self.waiting.get(run_id)
            if waiter is not None and not waiter.done():
                waiter.set_result(last)

    def beside(self, run_id: RunId, report: Report) -> None:
        pass


class Ours:
    """FlowMason on one of its executors."""

    def __init__(self, on: str, providers: Mapping[str, Any] | None = None) -> None:
        self.on = on
        self._providers = {"default": "mock"} if providers is None else dict(providers)
        self.plans: dict[str, Plan] = {}
        self.last = RunId("")
        """The run that was submitted last."""

    async def start(self, folder: Path) -> None:
        root = folder / "project"
        shutil.copytree(PROJECT, root)
        manifest = root / "flowmason.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "providers": self._providers}))
        values = f"file://{folder / 'values'}"
        self.workspace = Workspace.at(root)
        self.stores: Stores = open_stores(root, {}, journal=f"sqlite:///{folder / 'journal.db'}", values=values)
        settings = self.workspace.worker_settings(values)
        address = "local" if self.on == "ray" else None
        self.executor: Executor = make_executor(self.on, settings, address=address)
        await self.executor.start()
        self.ids = Ids(time.time)
        self.ends = _Ends()
        self.conductor = Conductor(
            journal=self.stores.journal,
            values=self.stores.values,
            executor=self.executor,
            now=_now,
            ids=self.ids,
            rng=random.Random(),
            host="benchmark",
            pid=os.getpid(),
        )
        self.conductor.follow(self.ends)
        self.conducting = asyncio.create_task(self.conductor.run())

    async def prepare(self, workload: Workload) -> bool:
        if workload.name not in self.plans:
            faults: list[Any] = []
            pipeline = parse_pipeline(workload.document, faults)
            assert pipeline is not None and not faults, faults
            self.plans[workload.name] = compile_pipeline(pipeline, self.workspace.registry)
        return True

    async def run(self, workload: Workload) -> tuple[float, list[Any]]:
        plan = self.plans[workload.name]
        ids = [self.ids.run() for _ in range(workload.runs)]
        loop = asyncio.get_running_loop()
        self.ends.waiting = {run_id: loop.create_future() for run_id in ids}
        begun = time.perf_counter()
        await asyncio.gather(*(self._submit(plan, workload, run_id) for run_id in ids))
        ended = await asyncio.gather(*self.ends.waiting.values())
        took = time.perf_counter() - begun
        self.last = ids[-1]
        return took, [self._output(workload, end) for end in ended]

    async def _submit(self, plan: Plan, workload: Workload, run_id: RunId) -> None:
        run = new_run(
            plan,
            workload.given,
            run_id=run_id,
            now=_now(),
            by="benchmark",
            values=self.stores.values,
            options=dict(workload.options),
        )
        await self.conductor.submit(run)

    def _output(self, workload: Workload, end: Any) -> Any:
        if not isinstance(end, RunCompleted):
            raise RuntimeError(f"{workload.name} on {self.on} ended as {end}")
        output = Data(self.stores.values, LOCAL_ORG).load(end.output)
        return output["results"] if workload.shape == "foreach" else output

    async def close(self) -> None:
        self.conductor.stop()
        await self.conducting
        await self.executor.close()
        await self.stores.close()


def _now() -> int:
    return time.time_ns() // 1_000_000
