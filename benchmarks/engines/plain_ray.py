"""Plain Ray: a task per stage that passes references; nothing is recorded.

The sleeps of W7 are calls of one asynchronous actor: as tasks they would start a process each.
"""

from __future__ import annotations

import asyncio
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.workloads import BLOB_BYTES, MODULUS, NAP_S, Workload


def _add(*values: int) -> int:
    return (sum(values) + 1) % MODULUS


def _blob(data: bytes) -> bytes:
    return bytes(((data[0] + 1) % 251,)) + os.urandom(15) + b"\x07" * (BLOB_BYTES - 16)


def _size(data: bytes) -> int:
    return len(data) * 251 + data[0]


class _Napper:
    async def nap(self, value: int) -> int:
        await asyncio.sleep(NAP_S)
        return value + 1


class PlainRay:
    """Tasks and references."""

    async def start(self, folder: Path) -> None:
        # Ray's own types bind a task's signature; a graph has stages of every width.
        ray: Any = import_module("ray")
        self.own = not ray.is_initialized()
        if self.own:
            from flowmason_cluster import ray_start

            ray_start.connect("local")
        self.ray = ray
        self.add = ray.remote(num_cpus=1, max_retries=0)(_add)
        self.blob = ray.remote(num_cpus=1, max_retries=0)(_blob)
        self.size = ray.remote(num_cpus=1, max_retries=0)(_size)
        self.napper = ray.remote(num_cpus=0, max_concurrency=100)(_Napper).remote()

    async def prepare(self, workload: Workload) -> bool:
        return not workload.only_ours

    async def run(self, workload: Workload) -> tuple[float, list[Any]]:
        begun = time.perf_counter()
        outputs = getattr(self, f"_{workload.shape}")(workload)
        return time.perf_counter() - begun, outputs

    def _graph(self, workload: Workload) -> list[Any]:
        runs = []
        for _ in range(workload.runs):
            refs: dict[str, Any] = {}
            for node in workload.nodes:
                given = [refs[parent] for parent in node.parents] or [1]
                refs[node.id] = self.add.remote(*given)
            runs.append([refs[end] for end in workload.ends])
        found = [self.ray.get(ends) for ends in runs]
        if len(workload.ends) == 1:
            return [{"value": values[0]} for values in found]
        return [{end: {"value": value} for end, value in zip(workload.ends, values, strict=True)} for values in found]

    def _foreach(self, workload: Workload) -> list[Any]:
        refs = [self.add.remote(self.add.remote(item)) for item in workload.given["items"]]
        return [[{"value": value} for value in self.ray.get(refs)]]

    def _blobs(self, workload: Workload) -> list[Any]:
        ref: Any = workload.given["seed"].encode()
        for _ in range(workload.stages):
            ref = self.blob.remote(ref)
        return [{"value": self.ray.get(self.size.remote(ref))}]

    def _naps(self, workload: Workload) -> list[Any]:
        values = self.ray.get([self.napper.nap.remote(n) for n in range(workload.stages)])
        return [{f"n{n}": {"value": value} for n, value in enumerate(values)}]

    async def close(self) -> None:
        if self.own:
            from flowmason_cluster import ray_start

            ray_start.disconnect()
