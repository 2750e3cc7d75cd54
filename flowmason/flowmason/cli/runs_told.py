"""Runs as `fm runs` prints them, wherever they are."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from flowmason.cli import console

if TYPE_CHECKING:
    from pathlib import Path

    from flowmason.assembly.outcome import RunResult


def print_list(page: Mapping[str, Any], as_json: bool) -> None:
    """A page of runs: as a table, or as it is."""
    if as_json:
        console.print_json(page)
        return
    from flowmason.cli.live.words import duration
    from flowmason.cli.tables import brief, print_table

    rows, table = page["items"], []
    families = any(row["parent"] for row in rows)
    for row in rows:
        took = row["summary"].get("duration_ms")
        failure = row["summary"].get("failure") or {}
        table.append(
            [
                row["run_id"],
                f"{row['pipeline']}@{row['version']}",
                *([row["parent"] or ""] if families else []),
                row["status"],
                _when(row["created_at"]),
                duration(took) if took is not None else "",
                brief(str(failure.get("message", ""))),
            ]
        )
    print_table(("RUN", "PIPELINE", *(["PARENT"] if families else []), "STATUS", "SUBMITTED", "TOOK", ""), table)
    if not table:
        console.say("no runs")


def print_run(row: Mapping[str, Any], outcome: RunResult, as_json: bool) -> None:
    """One run: its stages, its output, what it used."""
    if as_json:
        console.print_json({**outcome.document(), **({"parent": row["parent"]} if row["parent"] else {})})
        return
    from flowmason.cli.live.words import duration, models_words, usage_words
    from flowmason.cli.tables import print_table

    print(f"{row['run_id']}  {row['pipeline']}@{row['version']}  {row['status']}  {_when(row['created_at'])}")
    if row["parent"]:
        print(f"called by {row['parent']}")
    print_table(
        ("STAGE", "STATUS", "ATTEMPTS", "TOOK", ""),
        [
            [
                path,
                stage.status,
                str(stage.attempts or ""),
                duration(stage.duration_ms) if stage.duration_ms is not None else "",
                stage.error.message if stage.error is not None else models_words(stage.models),
            ]
            for path, stage in outcome.stages.items()
        ],
    )
    for name, digest in outcome.prompts.items():
        print(f"prompt {name}@{digest}")
    if outcome.error is not None:
        console.print_failure(outcome.error)
    elif outcome.status == "completed":
        print(console.to_json(outcome.output))
    if outcome.usage.calls:
        print(usage_words(outcome.usage))
    if told := models_words(outcome.models):
        print(told)


def print_line(line: Mapping[str, Any], as_json: bool) -> None:
    """A line that a component wrote."""
    if as_json:
        print(console.to_json(line, indent=0), flush=True)
        return
    fields = "".join(f" {key}={console.to_json(item, indent=0)}" for key, item in line["fields"].items())
    text = f"{line['at']} {line['level']:<7} {line['stage']}: {line['message']}{fields}"
    print(console.visible(text), flush=True)


def write_lines(lines: Iterable[Any], output: Path | None) -> None:
    """JSON lines into a file, or on stdout."""
    import msgspec

    # The first one is asked for before the file is made: a run that is not there leaves none behind.
    lines = iter(lines)
    first = list(islice(lines, 1))
    target = output.open("wb") if output is not None else sys.stdout.buffer
    try:
        for data in chain(first, lines):
            target.write(msgspec.json.encode(data) + b"\n")
        target.flush()
    finally:
        if output is not None:
            target.close()


def _when(moment: str | None) -> str:
    from datetime import datetime

    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
