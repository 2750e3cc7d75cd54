"""The command line, the turns that engines take, and the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.engines import ENGINES, NEEDS, TOGETHER
from benchmarks.serving import BenchmarkError, Server
from benchmarks.workloads import Workload, workloads

GOALS = {
    ("ours-ray", "W1"): ("<=", 0.08),
    ("ours-ray", "W1-lone"): ("<=", 1.4),
    ("ours-ray", "W2"): ("<=", 0.5),
    ("ours-ray", "W3"): ("<=", 0.5),
    ("ours-ray", "W4"): ("<=", 0.1),
    ("ours-ray", "W5"): (">=", 3.0),
    ("ours-ray", "W6"): ("<=", 1.0),
}
"""Time (for W5 runs/s) of ours on Ray ÷ that of plain Ray."""
FIXED = {
    ("ours-ray", "W7"): (">=", 88.0),
    ("ours-ray", "W7-host"): (">=", 88.0),
    ("ours-local", "W1"): ("<=", 0.1),
}
"""Figures that are goals by themselves."""

Times = dict[tuple[str, str], list[float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m benchmarks`."""
    given = _parser().parse_args(arguments)
    if given.more:
        from benchmarks.more import more

        found = more(given.more, on="local" if _missing("ours-ray") else given.on)
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
        return
    chosen = _pick(given.only, {workload.name: workload for workload in workloads()}, "workload")
    names = list(_pick(given.engines, dict.fromkeys(ENGINES), "engine"))
    for name in [name for name in names if (missing := _missing(name))]:
        print(f"{name} is left out: {', '.join(missing)} is not installed", file=sys.stderr)
        names.remove(name)
    times, problems = measure(list(chosen.values()), names, given.repeats)
    print(table(list(chosen.values()), names, times))
    report: dict[str, Any] = {"machine": machine(), "repeats": given.repeats, "seconds": _plain(times)}
    if given.json:
        Path(given.json).write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help="workloads, such as W1,W4 (default: all)")
    parser.add_argument("--engines", help=f"default: {','.join(ENGINES)}")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds after two that warm up")
    parser.add_argument("--json", help="write every time that was measured to this file")
    parser.add_argument("--more", help="instead of workloads: fold, memory, short, cold, or all")
    parser.add_argument("--on", default="ray", choices=["local", "ray"], help="where --more runs its runs")
    return parser


def _pick(wanted: str | None, known: dict[str, Any], what: str) -> dict[str, Any]:
    if not wanted:
        return known
    by_name = {name.lower(): name for name in known}
    found = {}
    for each in wanted.split(","):
        name = by_name.get(each.strip().lower())
        if name is None:
            raise SystemExit(f"there is no {what} {each!r}; there is {', '.join(known)}")
        found[name] = known[name]
    return found


def _missing(engine: str) -> list[str]:
    missing = []
    for module in NEEDS.get(engine, ()):
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            missing.append(module)
    return missing


def measure(chosen: Sequence[Workload], names: Sequence[str], repeats: int) -> tuple[Times, list[str]]:
    """Seconds by (engine, workload). Engines take turns within each round; the first two rounds are not counted."""
    times: Times = {}
    problems: list[str] = []
    servers: dict[str, Server] = {}
    groups = [[name for name in group if name in names] for group in TOGETHER]
    groups += [[name] for name in names if not any(name in group for group in TOGETHER)]
    for group in filter(None, groups):
        try:
            server = Server(group)
        except BenchmarkError as error:
            problems.append(str(error))
            continue
        servers.update(dict.fromkeys(group, server))
    try:
        for workload in chosen:
            for round_ in range(-2, repeats):
                # Every other round runs backwards, so that nobody always follows the same neighbour.
                turn = [name for name in names if name in servers]
                for name in turn if round_ % 2 else turn[::-1]:
                    _turn(servers[name], name, workload, round_ >= 0, times, problems)
            print(_line(workload, names, times), file=sys.stderr)
    finally:
        for server in dict.fromkeys(servers.values()):
            server.close()
    return times, problems


def _turn(server: Server, name: str, workload: Workload, counts: bool, times: Times, problems: list[str]) -> None:
    key = (name, workload.name)
    if times.get(key) == []:
        return  # it failed before
    try:
        seconds = server.run(name, workload)
    except BenchmarkError as error:
        problems.append(str(error))
        times[key] = []
        return
    if seconds is not None and counts:
        times.setdefault(key, []).append(seconds)


def _line(workload: Workload, names: Sequence[str], times: Times) -> str:
    parts = []
    for name in names:
        found = times.get((name, workload.name))
        if found:
            parts.append(f"{name} {workload.score(statistics.median(found)):.3g}")
    return f"{workload.name} ({workload.unit}): " + ", ".join(parts)


def table(chosen: Sequence[Workload], names: Sequence[str], times: Times) -> str:
    """Medians with their spread, and the ratio of ours on Ray to plain Ray with its goal, as Markdown."""
    heads = ["workload", "unit", *names, "ours-ray ÷ ray", "goal"]
    rows = [heads, ["---"] * len(heads)]
    for workload in chosen:
        cells = [f"{workload.name}: {workload.title}", workload.unit]
        cells += [_cell(workload, times.get((name, workload.name))) for name in names]
        rows.append([*cells, *_against_ray(workload, times)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(workload: Workload, seconds: list[float] | None) -> str:
    if not seconds:
        return "–" if seconds is None else "failed"
    scores = sorted(workload.score(each) for each in seconds)
    return f"{statistics.median(scores):.3g} ({scores[0]:.3g}–{scores[-1]:.3g})"


def _against_ray(workload: Workload, times: Times) -> list[str]:
    ours = times.get(("ours-ray", workload.name))
    plain = times.get(("ray", workload.like or workload.name))
    ratio = None
    if ours and plain:
        ratio = statistics.median(ours) / statistics.median(plain)
        if workload.unit == "runs/s":
            ratio = 1 / ratio
    cells = [f"{ratio:.3g}" if ratio is not None else "–"]
    goals = []
    for (engine, name), (sign, bound) in GOALS.items():
        if name == workload.name and engine == "ours-ray" and ratio is not None:
            goals.append(f"{sign} {bound:g}: {_met(ratio, sign, bound)}")
    for (engine, name), (sign, bound) in FIXED.items():
        found = times.get((engine, name))
        if name == workload.name and found:
            score = workload.score(statistics.median(found))
            goals.append(f"{engine} {sign} {bound:g}: {_met(score, sign, bound)}")
    return [*cells, "; ".join(goals) or "–"]


def _met(value: float, sign: str, bound: float) -> str:
    return "met" if (value <= bound if sign == "<=" else value >= bound) else "missed"


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()}


def _plain(times: Times) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for (engine, workload), seconds in times.items():
        found.setdefault(engine, {})[workload] = seconds
    return found
