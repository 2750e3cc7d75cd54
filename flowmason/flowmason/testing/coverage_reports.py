"""Coverage for people, for programs (JSON) and for coverage tools (lcov)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowmason.testing.coverage import (
    EXECUTED,
    FAILED,
    SKIPPED,
    UNCOVERED,
    Coverage,
    PipelineCoverage,
    StageLine,
    percent,
)


def coverage_lines(coverage: Coverage) -> Iterator[str]:
    """Coverage as lines of text: a line for each pipeline, then what its tests do not reach."""
    width = max((len(each.file) for each in coverage.pipelines), default=0)
    for each in coverage.pipelines:
        yield _line(each.file.ljust(width), each.reached, len(each.stages), each.taken, each.branches)
        for status, words in ((UNCOVERED, "never reached"), (SKIPPED, "always skipped"), (FAILED, "always failed")):
            names = [_at(stage) for stage in each.stages if stage.status == status]
            if names:
                yield f"    {words}: {', '.join(names)}"
        missed = [f"{stage.id} → {name}" for stage in each.stages for name, n in stage.branches.items() if not n]
        if missed:
            yield f"    branches not taken: {', '.join(missed)}"
    reached, stages, taken, branches = coverage.totals()
    yield _line("total".ljust(width), reached, stages, taken, branches) + f", {coverage.percent:.1f} % in all"


def _line(head: str, reached: int, stages: int, taken: int, branches: int) -> str:
    text = f"{head}  stages {reached}/{stages} ({percent(reached, stages):.0f} %)"
    return text + (f", branches {taken}/{branches} ({percent(taken, branches):.0f} %)" if branches else "")


def _at(stage: StageLine) -> str:
    return f"{stage.id} (line {stage.line})" if stage.line is not None else stage.id


def coverage_document(coverage: Coverage) -> dict[str, Any]:
    """Coverage as plain JSON data."""
    return {"percent": coverage.percent, **_numbers(*coverage.totals()), "pipelines": [*map(_one, coverage.pipelines)]}


def _one(each: PipelineCoverage) -> dict[str, Any]:
    stages = {
        stage.id: {
            "status": stage.status,
            "hits": stage.hits,
            "file": stage.file,
            "line": stage.line,
            "branches": dict(stage.branches),
        }
        for stage in each.stages
    }
    numbers = _numbers(each.reached, len(each.stages), each.taken, each.branches)
    head = {"pipeline": each.pipeline, "version": each.version, "file": each.file}
    return {**head, "percent": percent(each.reached + each.taken, len(each.stages) + each.branches), **numbers} | {
        "by_stage": stages
    }


def _numbers(reached: int, stages: int, taken: int, branches: int) -> dict[str, Any]:
    return {
        "stages": {"covered": reached, "total": stages, "percent": percent(reached, stages)},
        "branches": {"covered": taken, "total": branches, "percent": percent(taken, branches)},
    }


def lcov(coverage: Coverage) -> str:
    """Coverage as an lcov tracefile: a line is a stage, its hits are the runs of the stage."""
    by_file: dict[str, list[StageLine]] = {}
    for each in coverage.pipelines:
        for stage in each.stages:
            if stage.line is not None:
                by_file.setdefault(stage.file, []).append(stage)
    return "".join(line + "\n" for file, stages in by_file.items() for line in _record(file, stages))


def _record(file: str, stages: list[StageLine]) -> Iterator[str]:
    yield "TN:fm_test"  # only letters, digits and "_" may stand here
    yield f"SF:{Path(file).as_posix()}"
    hits: dict[int, int] = {}
    branches: list[tuple[int, int, int, str]] = []
    for block, stage in enumerate(stages):
        assert stage.line is not None
        hits[stage.line] = hits.get(stage.line, 0) + stage.hits
        reached = stage.status in (EXECUTED, FAILED)
        for number, taken in enumerate(stage.branches.values()):
            branches.append((stage.line, block, number, str(taken) if reached else "-"))
    for line, block, number, taken_text in sorted(branches):
        yield f"BRDA:{line},{block},{number},{taken_text}"
    yield f"BRF:{len(branches)}"
    yield f"BRH:{sum(taken_text not in ('-', '0') for *_, taken_text in branches)}"
    for line in sorted(hits):
        yield f"DA:{line},{hits[line]}"
    yield f"LF:{len(hits)}"
    yield f"LH:{sum(count > 0 for count in hits.values())}"
    yield "end_of_record"
