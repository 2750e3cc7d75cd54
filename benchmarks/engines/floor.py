"""The floor: a bare Ray program that does only what a durable engine on Ray cannot leave out.

A lone stage is one streaming task whose report is awaited and committed as a row before the next one is submitted.
The sleeps are coroutines of one loop in one such task, and one commit of all their rows. There is no pipeline, no
validation, no schema, no recovery: what an engine takes above this is its own; below it comes only who saves round
trips.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.workloads import MODULUS, NAP_S, Workload

AT_ONCE = 100


def _stage(value: int) -> Iterator[int]:
    yield (value + 1) % MODULUS


def _naps(count: int) -> Iterator[list[int]]:
    async def all_of_them() -> list[int]:
        room = asyncio.Semaphore(AT_ONCE)

        async def nap(value: int) -> int:
            async with room:
                await asyncio.sleep(NAP_S)
                return value + 1

        return await asyncio.gather(*(nap(value) for value in range(count)))

    yield asyncio.run(all_of_them())


class Floor:
    """Streaming tasks and rows of SQLite; it knows lone chains and sleeps alone."""

    async def start(self, folder: Path) -> None:
        # Ray's own types bind a task's signature.
        ray: Any = import_module("ray")
        self.ray = ray
        self.own = not ray.is_initialized()
        if self.own:
            from flowmason_cluster import ray_start

            ray_start.connect("local")
        streaming = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")
        self.stage = streaming(_stage)
        self.naps = streaming(_naps)
        self.rows = sqlite3.connect(folder / "floor.sqlite", isolation_level=None)
        self.rows.execute("PRAGMA journal_mode=WAL")
        self.rows.execute("PRAGMA synchronous=NORMAL")
        self.rows.execute("CREATE TABLE IF NOT EXISTS done (seq INTEGER PRIMARY KEY, stage TEXT, value INTEGER)")

    async def prepare(self, workload: Workload) -> bool:
        return workload.name in {"W1-lone", "W7"}

    async def run(self, workload: Workload) -> tuple[float, list[Any]]:
        begun = time.perf_counter()
        output = await (self._sleeps(workload) if workload.shape == "naps" else self._lone(workload))
        return time.perf_counter() - begun, [output]

    async def _lone(self, workload: Workload) -> dict[str, int]:
        value = 1
        for node in workload.nodes:
            value = self.ray.get(await anext(self.stage.remote(value)))  # it is here: no second round trip
            self._commit([(node.id, value)])
        return {"value": value}

    async def _sleeps(self, workload: Workload) -> dict[str, Any]:
        values: list[int] = []
        async for report in self.naps.remote(workload.stages):
            values = await report
        self._commit([(f"n{n}", value) for n, value in enumerate(values)])
        return {f"n{n}": {"value": value} for n, value in enumerate(values)}

    def _commit(self, rows: list[tuple[str, int]]) -> None:
        self.rows.execute("BEGIN IMMEDIATE")
        self.rows.executemany("INSERT INTO done (stage, value) VALUES (?, ?)", rows)
        self.rows.execute("COMMIT")

    async def close(self) -> None:
        self.rows.close()
        if self.own:
            from flowmason_cluster import ray_start

            ray_start.disconnect()
