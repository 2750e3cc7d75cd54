"""The engines that are measured, each behind the same small face; missing ones are told by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.workloads import Workload


class Engine(Protocol):
    """An engine that has been started in this process.

    `run` returns the seconds from submit to the end (committed, where the engine keeps a journal) and the output
    of every run, in the shape of `Workload.expected`; None where the engine has no such workload.
    """

    async def start(self, folder: Path) -> None: ...
    async def prepare(self, workload: Workload) -> bool: ...
    async def run(self, workload: Workload) -> tuple[float, list[Any]]: ...
    async def close(self) -> None: ...


def _ours_local() -> Engine:
    from benchmarks.engines.ours import Ours

    return Ours("local")


def _ours_ray() -> Engine:
    from benchmarks.engines.ours import Ours

    return Ours("ray")


def _plain_ray() -> Engine:
    from benchmarks.engines.plain_ray import PlainRay

    return PlainRay()


def _floor() -> Engine:
    from benchmarks.engines.floor import Floor

    return Floor()


def _langgraph() -> Engine:
    from benchmarks.engines.langgraph_sqlite import LangGraph

    return LangGraph()


def _dbos() -> Engine:
    from benchmarks.engines.dbos_sqlite import Dbos

    return Dbos()


ENGINES: dict[str, Callable[[], Engine]] = {
    "ours-local": _ours_local,
    "ours-ray": _ours_ray,
    "ray": _plain_ray,
    "floor": _floor,
    "langgraph": _langgraph,
    "dbos": _dbos,
}

TOGETHER = [["ours-ray", "ray", "floor"]]
"""Engines that share one process: all stand on the same Ray."""

NEEDS = {
    "ours-ray": ["ray"],
    "ray": ["ray"],
    "floor": ["ray"],
    "langgraph": ["langgraph", "langgraph.checkpoint.sqlite"],
    "dbos": ["dbos"],
}
"""Modules without which an engine is left out."""
