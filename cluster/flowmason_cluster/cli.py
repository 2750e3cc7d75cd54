"""`fm cluster up|down|status`: a Ray on this machine that stays warm between runs."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from flowmason_cluster import warm

app = typer.Typer(help="Start, stop and look at a local Ray cluster.", no_args_is_help=True, rich_markup_mode=None)

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def up(
    num_cpus: Annotated[int | None, typer.Option("--num-cpus", min=1, help="CPUs to use (default: all).")] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard/--no-dashboard", help="Start Ray's dashboard.")] = True,
    as_json: _JSON = False,
) -> None:
    """Start a Ray cluster on this machine, protected by a token. `fm run` then uses it by itself.

    Where one runs already, it is left as it is.
    """
    state, started = warm.up(num_cpus=num_cpus, dashboard=dashboard)
    if as_json:
        _print({"started": started, **_document(state)})
        return
    _say(f"{'started' if started else 'running already'}: Ray at {state.address}")
    _details(state)


@app.command()
def down(as_json: _JSON = False) -> None:
    """End the cluster that `fm cluster up` started, and nothing else."""
    state = warm.down()
    if as_json:
        _print({"stopped": state is not None, "address": state.address if state else None})
    else:
        _say(f"stopped: Ray at {state.address}" if state else "no cluster is running")


@app.command()
def status(as_json: _JSON = False) -> None:
    """Say whether the cluster is running, and where. Exit code 4 where it is not."""
    state = warm.running()
    if as_json:
        _print(_document(state))
    elif state is None:
        _say("no cluster is running (fm cluster up starts one)")
    else:
        _say(f"running: Ray at {state.address}")
        _details(state)
    if state is None:
        raise typer.Exit(4)


def _document(state: warm.ClusterState | None) -> dict[str, Any]:
    if state is None:
        return {"running": False}
    return {
        "running": True,
        "address": state.address,
        "dashboard": state.dashboard,
        "token_path": state.token_path,
        "pids": state.pids,
        "started_at": state.started_at,
    }


def _details(state: warm.ClusterState) -> None:
    if state.dashboard:
        _say(f"  dashboard  {state.dashboard} (asks for the token)")
    _say(f"  token      {state.token_path}")
    if state.dashboard:
        _say("  jobs       fm run PIPELINE --submit, or, for ray job submit:")
        named = f"RAY_API_SERVER_ADDRESS={state.dashboard} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={state.token_path}"
        _say(f"             export {named}")
    _say(f"  process    {state.pids[0]}, and those it supervises")


def _print(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=2), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
