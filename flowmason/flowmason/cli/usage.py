"""`fm usage`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flowmason.cli import console
from flowmason.cli.studio_org import Json, Studio, TargetOrg

BY = ("day", "pipeline", "caller", "model")
_SUMMED = ("calls", "failed", "cached", "input_tokens", "output_tokens", "cached_tokens", "unpriced", "estimated")
_NO_RUN = "(over HTTP)"
_MS = 24 * 3600 * 1000


def usage(
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="How many days back, today included (UTC).")] = 30,
    pipeline: Annotated[str | None, typer.Option("--pipeline", "-p", metavar="NAME", help="Only of this one.")] = None,
    by: Annotated[
        str,
        typer.Option(
            "--by", metavar="KEYS", help="What is added up: some of day, pipeline, caller, model, with commas."
        ),
    ] = "day,pipeline,model",
    forecast: Annotated[
        str | None,
        typer.Option(
            "--forecast", metavar="PIPELINE", help="Instead: what a run of this one may cost, and usually does."
        ),
    ] = None,
    studio: Studio = False,
    target_org: TargetOrg = None,
    as_json: Json = False,
) -> None:
    """What models were asked: calls, tokens and dollars, by day, pipeline and model.

    It counts every call of every run, also of runs that are deleted by now, and in a Studio those that people made of
    served models over HTTP: they are of no pipeline, but of a caller.

    Examples:
      fm usage
      fm usage --days 7 --by model
      fm usage --pipeline triage --studio --json
      fm usage --forecast triage
    """
    if forecast is not None:
        _forecast(forecast, studio or target_org is not None, target_org, as_json)
        return
    keys = [console.choice(key.strip(), BY, "--by") for key in by.split(",") if key.strip()]
    there = studio or target_org is not None
    rows = _there(target_org, days, pipeline) if there else console.run_async(_here(days, pipeline))
    items = _summed(rows, keys)
    total = _summed(rows, [])
    if as_json:
        console.print_json({"items": items, "total": total[0] if total else None})
        return
    if not items:
        console.say(f"no model was asked within {days} days")
        return
    _table(items, total[0], keys)


def _forecast(pipeline: str, there: bool, alias: str | None, as_json: bool) -> None:
    import sys

    from flowmason.cli import forecast_told

    found = _forecast_there(alias, pipeline) if there else console.run_async(_forecast_here(pipeline))
    if as_json:
        console.print_json(found)
    else:
        forecast_told.print_forecast(found, sys.stdout)


async def _forecast_here(pipeline: str) -> dict[str, Any]:
    from flowmason.assembly.engine import open_stores
    from flowmason.assembly.forecasting import forecast
    from flowmason.assembly.workspace import Workspace

    workspace = Workspace.at(pipeline)
    compiled = workspace.compile(pipeline)
    # Where `fm run` of the same pipeline keeps its runs: a file may lie in another project than the one here.
    stores = open_stores(workspace.root, workspace.environ)
    try:
        return await forecast(workspace, compiled, stores.journal)
    finally:
        await stores.close()


def _forecast_there(alias: str | None, pipeline: str) -> dict[str, Any]:
    from flowmason.cli.remote_run import refused_as_here
    from flowmason.cli.studio_org import client_of

    with client_of(alias) as client, refused_as_here():
        found: dict[str, Any] = client.request("POST", "/run/forecast", body={"pipeline": pipeline})
    return found


async def _here(days: int, pipeline: str | None) -> list[dict[str, Any]]:
    import time

    from flowmason.cli.runs import stores_here
    from flowmason.ids import LOCAL_ORG
    from flowmason.ledger import day_of, told

    now = int(time.time() * 1000)
    async with stores_here() as stores:
        found = await stores.journal.usage(LOCAL_ORG, day_of(now - (days - 1) * _MS), day_of(now), pipeline)
    return [told(each) for each in found]


def _there(alias: str | None, days: int, pipeline: str | None) -> list[dict[str, Any]]:
    from flowmason.cli.studio_org import client_of

    with client_of(alias) as client:
        only = {"pipeline": pipeline} if pipeline is not None else {}
        found: list[dict[str, Any]] = client.get("/usage", days=days, **only)["items"]
    return found


def _summed(rows: list[dict[str, Any]], keys: list[str]) -> list[dict[str, Any]]:
    """The rows added up by some keys, in the order in which they come."""
    from decimal import Decimal

    from flowmason.usage import dollars, nanodollars

    table: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in keys) + ((row["provider"],) if "model" in keys else ())
        known = table.setdefault(key, {name: row[name] for name in keys} | dict.fromkeys(_SUMMED, 0) | {"cost": "0"})
        if "model" in keys:
            known["provider"] = row["provider"]
        for name in _SUMMED:
            known[name] += row[name]
        known["cost"] = str(Decimal(known["cost"]) + Decimal(row["cost"]))
    for known in table.values():
        known["cost"] = dollars(nanodollars(known["cost"]))
    return list(table.values())


def _table(items: list[dict[str, Any]], total: dict[str, Any], keys: list[str]) -> None:
    from flowmason.cli.tables import print_table

    def row(item: dict[str, Any], names: list[str]) -> list[str]:
        cost = f"${item['cost']}"
        if item["unpriced"]:
            cost = f"{cost} and {item['unpriced']} calls at an unknown price"
        tokens = (f"{item['input_tokens']:,}", f"{item['output_tokens']:,}", f"{item['cached_tokens']:,}")
        return [*names, f"{item['calls']:,}", *tokens, cost]

    def names(item: dict[str, Any]) -> list[str]:
        found = {key: str(item[key]) for key in keys}
        if "pipeline" in found:
            found["pipeline"] = found["pipeline"] or _NO_RUN
        if "model" in found:
            found["model"] = "/".join(part for part in (item["provider"], item["model"]) if part) or "not known"
        return list(found.values())

    head = [*(key.upper() for key in keys), "CALLS", "INPUT", "OUTPUT", "CACHED", "COST"]
    rows = [row(item, names(item)) for item in items]
    if keys and len(items) > 1:
        rows.append(row(total, ["total", *[""] * (len(keys) - 1)]))
    print_table(head, rows)
