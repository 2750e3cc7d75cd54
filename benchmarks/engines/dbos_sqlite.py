"""DBOS on SQLite: a workflow per run, a recorded step per stage, independent steps gathered."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.workloads import BLOB_BYTES, MODULUS, NAP_S, Node, Workload

F = TypeVar("F")


def _levels(nodes: tuple[Node, ...]) -> list[list[Node]]:
    level: dict[str, int] = {}
    for node in nodes:
        level[node.id] = 1 + max((level[parent] for parent in node.parents), default=-1)
    found: list[list[Node]] = [[] for _ in range(1 + max(level.values()))]
    for node in nodes:
        found[level[node.id]].append(node)
    return found


def _typed(decorator: Any) -> Callable[[F], F]:
    found: Callable[[F], F] = decorator
    return found


class Dbos:
    """Workflows of asynchronous steps."""

    async def start(self, folder: Path) -> None:
        self.dbos: Any = import_module("dbos").DBOS
        self.dbos(
            config={
                "name": "benchmarks",
                "system_database_url": f"sqlite:///{folder / 'dbos.db'}",
                "console_log_level": "ERROR",
                "log_level": "ERROR",
            }
        )
        self.graphs: dict[str, Workload] = {}
        self.flows = self._declare(self.dbos)
        self.dbos.launch()

    def _declare(self, dbos: Any) -> dict[str, Any]:
        graphs = self.graphs
        step, workflow = _typed(dbos.step()), _typed(dbos.workflow())

        @step
        async def add(*values: int) -> int:
            return (sum(values) + 1) % MODULUS

        @step
        async def blob(data: bytes) -> bytes:
            return bytes(((data[0] + 1) % 251,)) + os.urandom(15) + b"\x07" * (BLOB_BYTES - 16)

        @step
        async def nap(value: int) -> int:
            await asyncio.sleep(NAP_S)
            return value + 1

        @workflow
        async def graph(name: str) -> dict[str, int]:
            values: dict[str, int] = {}
            for level in _levels(graphs[name].nodes):
                made = await asyncio.gather(*(add(*([values[p] for p in node.parents] or [1])) for node in level))
                values.update(zip((node.id for node in level), made, strict=True))
            return {end: values[end] for end in graphs[name].ends}

        @workflow
        async def foreach(name: str) -> list[int]:
            items = graphs[name].given["items"]
            one = await asyncio.gather(*(add(item) for item in items))
            return list(await asyncio.gather(*(add(value) for value in one)))

        @workflow
        async def blobs(name: str) -> int:
            data = graphs[name].given["seed"].encode()
            for _ in range(graphs[name].stages):
                data = await blob(data)
            return len(data) * 251 + int(data[0])

        @workflow
        async def naps(name: str) -> list[int]:
            found: list[int] = []
            for start in range(0, graphs[name].stages, 100):
                found += await asyncio.gather(*(nap(n) for n in range(start, start + 100)))
            return found

        return {"graph": graph, "foreach": foreach, "blobs": blobs, "naps": naps}

    async def prepare(self, workload: Workload) -> bool:
        self.graphs[workload.name] = workload
        return not workload.only_ours

    async def run(self, workload: Workload) -> tuple[float, list[Any]]:
        flow = self.flows[workload.shape]
        begun = time.perf_counter()
        found = await asyncio.gather(*(flow(workload.name) for _ in range(workload.runs)))
        took = time.perf_counter() - begun
        return took, [self._output(workload, each) for each in found]

    def _output(self, workload: Workload, found: Any) -> Any:
        if workload.shape == "blobs":
            return {"value": found}
        if workload.shape == "foreach":
            return [{"value": value} for value in found]
        if workload.shape == "naps":
            return {f"n{n}": {"value": value} for n, value in enumerate(found)}
        if len(workload.ends) == 1:
            return {"value": found[workload.ends[0]]}
        return {end: {"value": value} for end, value in found.items()}

    async def close(self) -> None:
        self.dbos.destroy()
