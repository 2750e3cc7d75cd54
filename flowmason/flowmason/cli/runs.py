"""`fm runs`: what the journal tells of runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console, control, runs_told
from flowmason.cli.studio_org import Studio, TargetOrg

if TYPE_CHECKING:
    from flowmason.assembly.engine import Stores
    from flowmason.journal import RunRow

app = typer.Typer(no_args_is_help=True, help="List, show, watch, export and prune runs.", rich_markup_mode=None)
for _command in (control.pause, control.cancel):
    app.command(help=console.help_of(_command))(_command)

_Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or the end of it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
_POLL_S = 0.2


@asynccontextmanager
async def stores_here() -> AsyncIterator[Stores]:
    """The stores of the project we are in."""
    from flowmason.assembly.engine import open_stores
    from flowmason.assembly.workspace import Workspace

    here = Workspace.at()
    stores = open_stores(here.root, here.environ)
    try:
        yield stores
    finally:
        await stores.close()


@app.command("list")
def list_(
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="Only runs in this state. Repeatable.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this pipeline.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
    before: Annotated[
        str | None, typer.Option(metavar="RUN", help="The next page: the `next_cursor` of the page before.")
    ] = None,
    studio: Studio = False,
    target_org: TargetOrg = None,
    as_json: _Json = False,
) -> None:
    """List runs, the newest first.

    Examples:
      fm runs list --status failed --status cancelled
      fm runs list -t production --pipeline triage --json
    """
    from flowmason.ids import LOCAL_ORG, RunId
    from flowmason.journal import STATUSES

    for each in status or ():
        console.choice(each, STATUSES, "--status")
    if studio or target_org is not None:
        from flowmason.cli import remote_runs

        runs_told.print_list(remote_runs.listed(target_org, status or (), pipeline, limit, before), as_json)
        return

    async def read() -> list[RunRow]:
        async with stores_here() as stores:
            last = RunId(before) if before else None
            return await stores.journal.rows(
                LOCAL_ORG, status=tuple(status or ()), pipeline=pipeline, limit=limit, before=last
            )

    rows = console.run_async(read())
    cursor = rows[-1].run_id if len(rows) == limit else None
    runs_told.print_list({"items": [_row(row) for row in rows], "next_cursor": cursor}, as_json)


@app.command()
def show(
    run_id: _Run,
    items: Annotated[bool, typer.Option("--items", help="The stages of foreach items, too.")] = False,
    studio: Studio = False,
    target_org: TargetOrg = None,
    as_json: _Json = False,
) -> None:
    """Show one run: its stages, its output, what it used."""
    if studio or target_org is not None:
        from flowmason.cli import remote_runs

        runs_told.print_run(*remote_runs.shown(target_org, run_id, items), as_json)
        return

    async def read() -> tuple[Any, Any]:
        from flowmason.assembly.hosting import picture_of
        from flowmason.assembly.outcome import result
        from flowmason.assembly.resuming import find_run

        async with stores_here() as stores:
            row = await find_run(stores.journal, run_id)
            picture = await picture_of(stores.journal, row.run_id, items=items)
            executor = str(picture.options.get("executor") or "")
            return row, result(picture, stores.values, executor=executor, items=items)

    row, outcome = console.run_async(read())
    runs_told.print_run(_row(row), outcome, as_json)


@app.command()
def watch(
    run_id: _Run,
    studio: Studio = False,
    target_org: TargetOrg = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the run as one JSON object once it has ended.")
    ] = False,
) -> None:
    """Follow a run live until it ends, wherever it runs. Ctrl-C stops watching, not the run.

    Exit codes are those of `fm run`.
    """
    if studio or target_org is not None:
        from flowmason.cli import remote_runs

        raise typer.Exit(remote_runs.watch(target_org, run_id, as_json))
    raise typer.Exit(console.run_async(_watch(run_id, as_json)))


async def _watch(wanted: str, as_json: bool) -> int:
    from flowmason.assembly.hosting import SETTLED, learn
    from flowmason.assembly.outcome import result
    from flowmason.assembly.resuming import find_run
    from flowmason.cli.live import LiveModel
    from flowmason.cli.running import Show, feeds_of, finish
    from flowmason.conductor.loading import load_plan
    from flowmason.event import StageExpanded
    from flowmason.policy import INLINE_LIMIT
    from flowmason.report import Report

    began = time.monotonic()
    show = Show(json=as_json)
    async with stores_here() as stores:
        row = await find_run(stores.journal, wanted)
        model = LiveModel(await load_plan(stores.journal, row.plan_id), row.run_id)
        feeds, view = feeds_of(model, show)
        log_after = delta_after = 0
        async with view:
            while True:
                row = await find_run(stores.journal, row.run_id)
                recorded = await stores.journal.read(row.run_id, after=model.picture.seq)
                for each in recorded:
                    if isinstance(each.event, StageExpanded):
                        await learn(stores.journal, model.picture, each.event)
                lines = await stores.journal.logs(row.run_id, after=log_after)
                deltas = await stores.journal.deltas(row.run_id, after=delta_after)
                log_after = lines[-1][0] if lines else log_after
                delta_after = deltas[-1][0] if deltas else delta_after
                report = Report("", logs=tuple(line for _, line in lines), deltas=tuple(delta for _, delta in deltas))
                for feed in feeds:
                    feed.beside(row.run_id, report)
                    feed.committed(row.run_id, recorded)
                if row.status in SETTLED and model.picture.seq >= row.seq:
                    break
                await asyncio.sleep(_POLL_S)
        executor = str(model.picture.options.get("executor") or "")
        limit = INLINE_LIMIT if as_json else None
        outcome = result(model.picture, stores.values, executor=executor, limit=limit)
    return finish(outcome, show, time.monotonic() - began)


@app.command()
def logs(
    run_id: _Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    studio: Studio = False,
    target_org: TargetOrg = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Print what components logged."""
    if studio or target_org is not None:
        from flowmason.cli import remote_runs

        for line in remote_runs.logs(target_org, run_id, follow):
            runs_told.print_line(line, as_json)
        return
    console.run_async(_logs(run_id, follow, as_json))


async def _logs(wanted: str, follow: bool, as_json: bool) -> None:
    from flowmason.assembly.hosting import SETTLED
    from flowmason.assembly.outcome import moment, plain
    from flowmason.assembly.resuming import find_run
    from flowmason.ids import format_path

    after = 0
    async with stores_here() as stores:
        row = await find_run(stores.journal, wanted)
        while True:
            over = row.status in SETTLED
            lines = await stores.journal.logs(row.run_id, after=after)
            for number, line in lines:
                after = number
                entry: dict[str, Any] = {"at": moment(line.at), "level": line.level, "stage": format_path(line.path)}
                entry |= {"attempt": line.attempt, "message": line.message, "fields": plain(line.fields)}
                runs_told.print_line(entry, as_json)
            if lines:
                continue
            if over or not follow:
                return
            await asyncio.sleep(_POLL_S)
            row = await find_run(stores.journal, row.run_id)


@app.command()
def export(
    run_id: _Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Write values as JSON, for reading; else they are kept as they are stored.")
    ] = False,
    studio: Studio = False,
    target_org: TargetOrg = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, which is what it always prints.")] = False,
) -> None:
    """Write a run's recorded events as JSON lines, one event each. A Studio gives them for reading (`--decode`)."""
    if studio or target_org is not None:
        from flowmason.cli import remote_runs

        runs_told.write_lines(remote_runs.events(target_org, run_id), output)
        return
    runs_told.write_lines(console.run_async(_events(run_id, decode)), output)


async def _events(wanted: str, decode: bool) -> list[Any]:
    from flowmason.assembly.outcome import Shown
    from flowmason.assembly.readable import readable
    from flowmason.assembly.resuming import find_run

    async with stores_here() as stores:
        row = await find_run(stores.journal, wanted)
        shown = Shown(stores.values)
        recorded = await stores.journal.read(row.run_id)
        return [readable(each, shown) if decode else each for each in recorded]


@app.command()
def prune(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Such as 30d, 12h or 90m.")] = "30d",
    status: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS", help="Only completed, failed or cancelled runs. Repeatable. Default: all three."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: _Json = False,
) -> None:
    """Delete ended runs that nobody has touched for a while, and the values that only they needed."""
    age = parse_age(older_than)
    for each in status or ():
        console.choice(each, ("completed", "failed", "cancelled"), "--status")

    async def work() -> Any:
        from flowmason.assembly.hosting import now_ms
        from flowmason.ids import LOCAL_ORG
        from flowmason.retention import prune as prune_runs

        async with stores_here() as stores:
            return await prune_runs(
                stores.journal,
                stores.values,
                LOCAL_ORG,
                older_than_s=age,
                now_ms=now_ms(),
                statuses=tuple(status or ()),
                dry_run=dry_run,
            )

    pruned = console.run_async(work())
    if as_json:
        sizes = {"values": pruned.swept.values, "bytes": pruned.swept.bytes}
        console.print_json({"dry_run": dry_run, "runs": list(pruned.runs), "swept": sizes})
        return
    would = "would be " if dry_run else ""
    for each in pruned.runs:
        print(each)
    swept = f"{console.count(pruned.swept.values, 'value')} ({console.count(pruned.swept.bytes, 'byte')})"
    console.say(f"{console.count(len(pruned.runs), 'run')} {would}deleted, {swept} {would}removed")


def parse_age(text: str) -> float:
    """`30d`, `12h`, `90m`, `45s` as seconds. Raises a usage error."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * units[unit]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 <= seconds < 1e10:
        raise typer.BadParameter(f"{text!r} is not an age such as 30d, 12h or 90m.", param_hint="--older-than")
    return seconds


def _row(row: RunRow) -> dict[str, Any]:
    from flowmason.assembly.outcome import moment

    return {
        "run_id": row.run_id,
        "pipeline": row.pipeline,
        "version": row.version,
        "status": row.status,
        "created_at": moment(row.created_at),
        "updated_at": moment(row.updated_at),
        "parent": row.parent,
        "summary": row.summary,
    }
