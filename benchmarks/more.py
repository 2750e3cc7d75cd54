"""What is no race: folding a large journal, memory, short stages beside a long one, cold starts."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.engines.ours import PROJECT, Ours
from benchmarks.workloads import Workload, foreach

FOLDED = 300_000
LOOPED = 100_000
LONG_S = 2.0


def more(wanted: str, on: str) -> dict[str, Any]:
    """Run the named measurements (comma-separated, or `all`), each in a process of its own, and print them."""
    known: dict[str, Callable[[str], dict[str, Any]]] = {"fold": fold, "memory": memory, "short": short, "cold": cold}
    names = list(known) if wanted == "all" else wanted.split(",")
    found = {}
    for name in names:
        if name not in known:
            raise SystemExit(f"there is no measurement {name!r}; there is {', '.join(known)}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(known[name], (on,))
        print(f"{name}: {found[name]}", flush=True)
    return found


def fold(on: str) -> dict[str, Any]:
    """Read and fold the journal of a real foreach over `FOLDED` items."""
    return asyncio.run(_with(on, _fold))


def memory(on: str) -> dict[str, Any]:
    """Resident memory of the conductor's process while a foreach over `LOOPED` items runs, three times over."""
    return asyncio.run(_with(on, _memory))


def short(on: str) -> dict[str, Any]:
    """When the last of 200 short stages is committed that stand beside one that holds its worker for `LONG_S`."""
    return asyncio.run(_with(on, _short))


def cold(on: str) -> dict[str, Any]:
    """Seconds of whole commands, from a process that does not exist yet to its end."""
    with tempfile.TemporaryDirectory(prefix="flowmason-bench-") as folder:
        root = Path(folder) / "project"
        shutil.copytree(PROJECT, root)
        fm = str(Path(sys.executable).parent / "fm")
        file = "pipelines/small.pipeline.json"
        commands = {
            "fm --help": [fm, "--help"],
            "fm validate": [fm, "validate", file],
            "fm run --on local": [fm, "run", file, "--on", "local", "--quiet"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(8):
            for name, command in commands.items():
                begun = time.perf_counter()
                subprocess.run(command, cwd=root, check=True, capture_output=True)
                taken[name].append(time.perf_counter() - begun)
    return {name: round(statistics.median(times[1:]), 3) for name, times in taken.items()}


async def _with(on: str, work: Callable[[Ours], Any]) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="flowmason-bench-"))
    engine = Ours(on)
    try:
        await engine.start(folder)
        found: dict[str, Any] = await work(engine)
        await engine.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"on": on, **found}


async def _checked(engine: Ours, workload: Workload) -> float:
    await engine.prepare(workload)
    seconds, outputs = await engine.run(workload)
    if outputs != [workload.expected]:
        raise RuntimeError(f"{workload.name}: wrong result")
    return seconds


async def _fold(engine: Ours) -> dict[str, Any]:
    from flowmason.conductor.loading import load_state

    ran = await _checked(engine, foreach("fold", "", FOLDED))
    journal = engine.stores.journal
    row = await journal.row(engine.last)
    assert row is not None
    frames = await journal.frames(engine.last)
    events = sum(len(frame.events) for frame in frames)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        state = await load_state(journal, row)
        times.append(time.perf_counter() - begun)
    assert state.ended
    return {
        "items": FOLDED,
        "run_s": round(ran, 2),
        "events": events,
        "frames": len(frames),
        "read_and_fold_s": round(statistics.median(times), 4),
    }


async def _memory(engine: Ours) -> dict[str, Any]:
    samples: list[tuple[float, int]] = []
    begun = time.perf_counter()

    async def watch() -> None:
        while True:
            samples.append((time.perf_counter() - begun, rss_mb()))
            await asyncio.sleep(0.05)

    await _checked(engine, foreach("warm", "", 1000))
    watching = asyncio.create_task(watch())
    workload = foreach("memory", "", LOOPED)
    before, runs = rss_mb(), []
    for _ in range(3):
        start = len(samples)
        seconds = await _checked(engine, workload)
        here = [mb for _, mb in samples[start:]]
        runs.append({"s": round(seconds, 2), "peak_mb": max(here), "half_way_mb": here[len(here) // 2]})
    watching.cancel()
    return {"items": LOOPED, "before_mb": before, "runs": runs}


async def _short(engine: Ours) -> dict[str, Any]:
    stages: list[dict[str, Any]] = [
        {"id": "long", "component": "bench-block", "config": {"value": 1, "seconds": LONG_S}}
    ]
    for n in range(100):
        stages.append({"id": f"a{n}", "component": "bench-inc", "config": {"value": n}})
        stages.append({"id": f"b{n}", "component": "bench-inc", "config": {"value": f"{{{{upstream.a{n}.value}}}}"}})
    expected = {"long": {"value": 2}, **{f"b{n}": {"value": n + 2} for n in range(100)}}
    document = {"name": "bench-short", "version": "1.0.0", "stages": stages}
    workload = Workload("short", "", "graph", len(stages), "ms/stage", document, {}, expected)
    await _checked(engine, foreach("warm", "", 1000))
    found = []
    for _ in range(3):
        seconds = await _checked(engine, workload)
        recorded = await engine.stores.journal.read(engine.last)
        paths = {getattr(each.event, "path", ()): each.at for each in recorded}
        start = recorded[0].at
        last = max(at for path, at in paths.items() if path and path != ("long",))
        found.append({"short_ms": last - start, "run_ms": round(seconds * 1000)})
    return {"long_ms": LONG_S * 1000, "runs": found}


def rss_mb() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024**2
