"""`fm doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from flowmason.cli import console

_EXTRAS = {
    "ray": ("ray", "runs on Ray"),
    "postgres": ("psycopg", "a journal in PostgreSQL"),
    "anthropic": ("anthropic", "Anthropic's models"),
    "openai": ("openai", "OpenAI-shaped servers"),
    "llamacpp": ("xllamacpp", "a model in this process"),
    "mcp": ("mcp", "MCP servers and fm mcp"),
    "watch": ("watchfiles", "fm test --watch"),
}
_LITTLE, _TOO_LITTLE = 1 << 30, 100 << 20
_PORTS = {6379: "Ray's head (GCS)", 8265: "Ray's dashboard", 10001: "Ray's client server"}


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    status: str
    """ok, info, warning or failed."""
    detail: str
    help: str | None = None


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Check that everything a run needs is there: Python, extras, Ray, the journal, values, a model, disk, ports.

    Nothing is installed, started or called over a network. Exit code 1 if something that every run needs is broken.

    Examples:
      fm doctor
      fm doctor --json | jq '.checks[] | select(.status == "failed")'
    """
    checks = list(_checks())
    failed = [check for check in checks if check.status == "failed"]
    if as_json:
        console.print_json({"ok": not failed, "checks": msgspec.to_builtins(checks)})
    else:
        _print(checks)
    if failed:
        raise typer.Exit(console.FAILED)


def _print(checks: list[Check]) -> None:
    glyphs = {"ok": ("✓", "green"), "info": ("·", "dim"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
    width = max(len(check.name) for check in checks)
    for check in checks:
        glyph, colour = glyphs[check.status]
        print(f"{console.paint(glyph, colour, stream=sys.stdout)} {check.name:<{width}}  {check.detail}")
        if check.help:
            print(f"  {'':<{width}}  {console.paint('help: ' + check.help, 'cyan', stream=sys.stdout)}")


def _checks() -> Iterator[Check]:
    from flowmason.assembly.workspace import Workspace
    from flowmason.errors import FlowMasonError

    yield _python()
    try:
        workspace = Workspace.at()
    except FlowMasonError as error:
        yield Check("project", "failed", str(error))
        return
    yield _project(workspace)
    yield from _extras()
    yield _ray(workspace)
    yield from _stores(workspace)
    yield _model(workspace)
    yield _disk(workspace)
    yield from _ports()


def _python() -> Check:
    from importlib.metadata import version

    here = ".".join(str(part) for part in sys.version_info[:3])
    detail = f"{here} at {sys.executable}; flowmason {version('flowmason')}"
    return Check("python", "ok" if sys.version_info >= (3, 11) else "failed", detail)


def _project(workspace: Any) -> Check:
    if workspace.root is None:
        return Check("project", "info", f"none in {workspace.project.root} or above", "`fm init` makes one.")
    faults = workspace.component_faults()
    files = len(workspace.project.pipeline_files())
    detail = f"{workspace.project.name} in {workspace.root}: {files} pipelines, {len(workspace.registry)} components"
    if faults:
        return Check("project", "warning", f"{detail}; {len(faults)} cannot be read: {faults[0]}", "See `fm validate`.")
    return Check("project", "ok", detail)


def _extras() -> Iterator[Check]:
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    for extra, (package, purpose) in _EXTRAS.items():
        if find_spec(package) is None:
            yield Check(f"extra {extra}", "info", f"not installed ({purpose})", f"pip install 'flowmason[{extra}]'")
            continue
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "of unknown version"
        yield Check(f"extra {extra}", "ok", f"{package} {found}")


def _ray(workspace: Any) -> Check:
    import json
    from importlib.util import find_spec

    from flowmason.assembly.engine import pid_alive
    from flowmason.registry import home_dir

    if find_spec("ray") is None:
        return Check("ray", "warning", "not installed; runs need --on local", "pip install 'flowmason[ray]'")
    if workspace.environ.get("RAY_ADDRESS"):
        return Check("ray", "ok", f"RAY_ADDRESS is {workspace.environ['RAY_ADDRESS']}")
    try:
        [supervisor, *_] = json.loads((home_dir() / "cluster.json").read_bytes())["pids"]
    except (OSError, ValueError, KeyError, TypeError):
        supervisor = None
    if supervisor is not None and pid_alive(int(supervisor)):
        return Check("ray", "ok", "a local cluster was started by `fm cluster up` (`fm cluster status` looks at it)")
    if supervisor is not None:
        gone = "the cluster of `fm cluster up` is gone; each run starts its own"
        return Check("ray", "warning", gone, "`fm cluster up` starts it anew.")
    return Check("ray", "ok", "each run starts its own; `fm cluster up` keeps one warm")


def _stores(workspace: Any) -> Iterator[Check]:
    from flowmason.errors import FlowMasonError

    for name, look in (("journal", _journal), ("values", _values)):
        try:
            yield Check(name, "ok", console.run_async(look(workspace)))
        except FlowMasonError as error:
            yield Check(name, "failed", error.failure.message, error.failure.help)
        except Exception as error:  # whatever a database driver or a file system raises
            yield Check(name, "failed", f"{type(error).__name__}: {error}")


async def _journal(workspace: Any) -> str:
    from flowmason.assembly.engine import journal_url
    from flowmason.database.urls import without_password
    from flowmason.ids import LOCAL_ORG
    from flowmason.journal_sql import open_journal

    url = journal_url(workspace.root, workspace.environ)
    journal = open_journal(url)
    try:
        rows = await journal.rows(LOCAL_ORG, limit=1)
    finally:
        await journal.close()
    last = f"; last run {rows[0].run_id} {rows[0].status}" if rows else "; no runs yet"
    return f"{without_password(url)}{last}"


async def _values(workspace: Any) -> str:
    import os

    from flowmason.assembly.engine import values_url
    from flowmason.ids import LOCAL_ORG, sha256
    from flowmason.values_fs import open_values

    url = values_url(workspace.root, workspace.environ)
    values = open_values(url)
    probe = b"doctor " + os.urandom(16)
    digest = sha256(probe)
    values.put(LOCAL_ORG, digest, probe)
    values.get(LOCAL_ORG, digest)
    values.delete(LOCAL_ORG, digest)
    return url


def _model(workspace: Any) -> Check:
    from flowmason.assembly.workspace import local_model
    from flowmason.errors import FlowMasonError
    from flowmason.providers import chain_of, missing_for, settings_of

    name = workspace.project.default_provider or local_model()
    if name is None:
        return Check(
            "model", "info", "no default provider", 'Set "providers": {"default": …} in flowmason.json, or --provider.'
        )
    providers = dict(workspace.project.providers)
    faults = []
    for each in chain_of(name, providers):
        try:
            missing = missing_for(each.provider, settings_of(each.provider, providers), environ=workspace.environ)
        except FlowMasonError as error:
            missing = str(error)
        faults += [f"{each.provider}: {missing}"] if missing else []
    return Check("model", "warning" if faults else "ok", "; ".join(faults) or name)


def _disk(workspace: Any) -> Check:
    import shutil

    from flowmason.errors import FlowMasonError
    from flowmason.places import state_dir

    try:
        folder: Path = state_dir(workspace.root, workspace.environ)
    except FlowMasonError as error:
        return Check("disk", "failed", str(error), error.failure.help)
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    status = "failed" if free < _TOO_LITTLE else "warning" if free < _LITTLE else "ok"
    return Check("disk", status, f"{free / (1 << 30):.1f} GiB free at {there}")


def _ports() -> Iterator[Check]:
    import socket

    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
    except OSError as error:
        yield Check("ports", "failed", f"no port of 127.0.0.1 can be opened: {error}")
        return
    taken = [f"{port} ({what})" for port, what in _PORTS.items() if _answers(port)]
    if taken:
        yield Check("ports", "info", f"something answers on {', '.join(taken)}")
    else:
        yield Check("ports", "ok", "loopback ports can be opened; Ray's usual ones are free")


def _answers(port: int) -> bool:
    import socket

    with socket.socket() as client:
        client.settimeout(0.2)
        return client.connect_ex(("127.0.0.1", port)) == 0
