"""Engines in processes of their own, told over a pipe what to run next."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import shutil
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.engines import ENGINES, Engine
from benchmarks.workloads import Workload, workloads

START_S = 180.0
RUN_S = 300.0
SETTLE_S = 0.2


class BenchmarkError(Exception):
    """An engine failed, or gave a wrong result."""


class Server:
    """A process with one or more engines in it."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(names, there), daemon=False)
        self._process.start()
        there.close()
        self._answer(START_S)

    def run(self, engine: str, workload: Workload) -> float | None:
        """Seconds of one run of a workload; None where the engine has none such. Raises `BenchmarkError`."""
        self._here.send((engine, workload.name))
        found: float | None = self._answer(RUN_S)
        return found

    def close(self) -> None:
        """End the process."""
        try:
            self._here.send(None)
        except OSError:
            pass
        self._process.join(60)
        if self._process.is_alive():
            self._process.terminate()

    def _answer(self, within_s: float) -> Any:
        if not self._here.poll(within_s):
            raise BenchmarkError(f"{', '.join(self.names)}: no answer within {within_s:g} s")
        try:
            problem, found = self._here.recv()
        except EOFError:
            raise BenchmarkError(f"{', '.join(self.names)}: the process died") from None
        if problem:
            raise BenchmarkError(problem)
        return found


def _serve(names: list[str], pipe: Connection) -> None:
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="flowmason-bench-"))
    try:
        asyncio.run(_serving(names, pipe, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _serving(names: list[str], pipe: Connection, folder: Path) -> None:
    known = {workload.name: workload for workload in workloads()}
    engines: dict[str, Engine] = {}
    try:
        for name in names:
            engines[name] = ENGINES[name]()
            (folder / name).mkdir()
            await engines[name].start(folder / name)
    except Exception:
        pipe.send((f"{', '.join(names)} did not start:\n{traceback.format_exc()}", None))
        return
    pipe.send((None, None))
    while True:
        wanted = await asyncio.to_thread(_next, pipe)
        if wanted is None:
            break
        name, workload = wanted[0], known[wanted[1]]
        try:
            pipe.send((None, await _one(engines[name], workload)))
        except Exception:
            pipe.send((f"{name}, {workload.name}:\n{traceback.format_exc()}", None))
    for engine in reversed(list(engines.values())):
        await engine.close()


def _next(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return None


async def _one(engine: Engine, workload: Workload) -> float | None:
    if not await engine.prepare(workload):
        return None
    gc.collect()
    # What the engine before has left to tidy up is not for this one to pay.
    await asyncio.sleep(SETTLE_S)
    seconds, outputs = await engine.run(workload)
    if len(outputs) != workload.runs:
        raise BenchmarkError(f"{len(outputs)} results for {workload.runs} runs")
    for output in outputs:
        if output != workload.expected:
            raise BenchmarkError(f"wrong result: {str(output)[:200]} instead of {str(workload.expected)[:200]}")
    return seconds
