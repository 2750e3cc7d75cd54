"""`fm answers`: answers of models that are kept and given again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flowmason.cli import console
from flowmason.cli.studio_org import Json, Studio, TargetOrg, client_of

app = typer.Typer(no_args_is_help=True, help="Kept answers of models: whether an org has any, and none any more.")

_AS_STAGES = "stages"
_OFF = "off"


@app.command("set")
def set_(
    wanted: Annotated[
        str, typer.Argument(metavar="SECONDS|off|stages", help="How old an answer may be that is given again.")
    ],
    target_org: TargetOrg = None,
    as_json: Json = False,
) -> None:
    """Say for an org of a Studio whether its runs are given kept answers. It holds for runs that start from now on.

    SECONDS holds for stages that say nothing of it (`cache_s` in llm_settings), `off` for all, and with `stages`, as at
    first, only those have kept answers that say so.

    Examples:
      fm answers set 86400
      fm answers set off -t production
    """
    max_age_s = None if wanted == _AS_STAGES else 0 if wanted == _OFF else _seconds(wanted)
    with client_of(target_org) as client:
        done = client.request("PUT", "/storage/answers", body={"max_age_s": max_age_s})
    if as_json:
        console.print_json(done)
    else:
        console.say(_words(done["max_age_s"]))


@app.command()
def show(target_org: TargetOrg = None, as_json: Json = False) -> None:
    """Say whether runs of an org of a Studio are given kept answers."""
    with client_of(target_org) as client:
        found: dict[str, Any] = client.get("/storage/answers")
    if as_json:
        console.print_json(found)
    else:
        typer.echo(_words(found["max_age_s"]))


@app.command()
def clear(studio: Studio = False, target_org: TargetOrg = None, as_json: Json = False) -> None:
    """Remove all kept answers, here or in an org of a Studio: whatever is asked next is asked of a model.

    Examples:
      fm answers clear
      fm answers clear -t production
    """
    if studio or target_org is not None:
        with client_of(target_org) as client:
            removed = client.request("DELETE", "/storage/answers")["removed"]
    else:
        removed = console.run_async(_clear_here())
    if as_json:
        console.print_json({"removed": removed})
    else:
        console.say(f"{removed} kept answer{'' if removed == 1 else 's'} removed")


async def _clear_here() -> int:
    import asyncio

    from flowmason.answers_fs import Answers
    from flowmason.cli.runs import stores_here
    from flowmason.ids import LOCAL_ORG

    async with stores_here() as stores:
        return await asyncio.to_thread(lambda: Answers(stores.values.location).forget(LOCAL_ORG, 0.0))


def _seconds(wanted: str) -> int:
    if not wanted.isdecimal() or int(wanted) < 1:
        raise typer.BadParameter(f"a whole number of seconds, {_OFF} or {_AS_STAGES}", param_hint="SECONDS|off|stages")
    return int(wanted)


def _words(max_age_s: int | None) -> str:
    if max_age_s is None:
        return "stages that say so are given kept answers"
    if max_age_s == 0:
        return "no stage is given kept answers"
    return f"stages that say nothing else are given answers of up to {max_age_s:,} s"
