"""`fm deploy` and `fm pull`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console
from flowmason.cli.studio_org import Json, TargetOrg

if TYPE_CHECKING:
    from flowmason.assembly.workspace import Workspace
    from flowmason.remote.client import StudioClient
    from flowmason.remote.deploying import Local, Step

_MARKS = {"create": "+", "update": "~", "same": "=", "conflict": "!", "failed": "✗"}
_COLOURS = {"create": "green", "update": "yellow", "same": "dim", "conflict": "red", "failed": "red"}
_SHOWN = 80

_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done, and what differs.")]


def deploy(
    path: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="A file or a name. Default: all of the project.")
    ] = None,
    target_org: TargetOrg = None,
    dry_run: _DryRun = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite what somebody else has written since.")
    ] = False,
    gate: Annotated[
        list[Path] | None,
        typer.Option("--gate", metavar="EVAL", help="Deploy only if the gate of this *.eval.json holds. Repeatable."),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", envvar="FLOWMASON_ON", metavar="EXECUTOR", help="With --gate: ray or local.")
    ] = "ray",
    as_json: Json = False,
) -> None:
    """Bring pipelines of this project to an org of a Studio, with the components and prompts it has.

    A pipeline that the org has in another form than it was brought there is a conflict: it is shown, and left alone
    without --force. Exit code 1 where anything was not brought over.

    Examples:
      fm deploy --dry-run
      fm deploy pipelines/triage.pipeline.json -t production
      fm deploy --gate triage.eval.json
    """
    from flowmason.assembly.workspace import Workspace
    from flowmason.cli.studio_org import opened
    from flowmason.remote import deploying

    workspace = Workspace.at(path)
    for file in gate or ():
        _through(file, on)
    org, client = opened(target_org)
    with client:
        memory = deploying.Memory(_folder(workspace), f"{org.url} {org.org_id}")
        files = [workspace.find(path)] if path is not None else workspace.project.pipeline_files()
        local = [_local(workspace, file) for file in files]
        steps = deploying.plan_deploy(client, local, memory.known(), force=force)
        wanted = any(step.action != "conflict" for step in steps)
        package = _package(workspace, client, dry_run=dry_run) if wanted else None
        done = [step for step in steps if step.action not in ("create", "update")]
        if dry_run:
            done = steps
        else:
            try:
                for step in deploying.deploy(client, steps):
                    done.append(step)
            finally:
                # Also of a deploy that breaks off: what it wrote was not written by somebody else.
                digests = {each.name: each.digest for each in local}
                same = {each.name: digests[each.name] for each in done if each.action in ("create", "update", "same")}
                memory.note(same)
    _tell(done, "deploy", org.alias, dry_run, as_json, package=package)


def pull(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all of the org.")] = None,
    target_org: TargetOrg = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="For new files. Default: pipelines/.")
    ] = None,
    dry_run: _DryRun = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite what was changed here since.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch pipelines from an org of a Studio into this project.

    A file that was changed here since it was fetched or deployed is a conflict: it is shown, and left alone without
    --force. Exit code 1 where anything was not fetched.

    Examples:
      fm pull --dry-run
      fm pull triage -t production -o pipelines/
    """
    from flowmason.assembly.workspace import Workspace
    from flowmason.cli.studio_org import opened
    from flowmason.remote import deploying

    workspace = Workspace.at()
    org, client = opened(target_org)
    local = {each.name: each for each in (_local(workspace, file) for file in workspace.project.pipeline_files())}
    with client:
        memory = deploying.Memory(_folder(workspace), f"{org.url} {org.org_id}")
        steps = deploying.plan_pull(client, names or (), local, memory.known(), force=force)
    if not dry_run:
        folder = output or workspace.project.root / "pipelines"
        steps = [_fetched(step, folder) for step in steps]
        same = [step for step in steps if step.action in ("create", "update", "same") and step.remote is not None]
        memory.note({step.name: deploying.digest_of(step.remote["document"]) for step in same if step.remote})
    _tell(steps, "pull", org.alias, dry_run, as_json)


def _through(file: Path, on: str) -> None:
    """Run the evaluation of a gate; ends the command where it does not hold."""
    from flowmason.cli import evals
    from flowmason.cli.eval import exit_code, gate_of

    report = gate_of(file, on=on)
    version = report.versions[-1]
    if exit_code(report) == console.OK:
        console.say(f"gate {file}: {report.gate} holds, {evals.rate(version)}")
        return
    why = "was ended early" if report.partial else f"{report.gate} does not hold, {evals.rate(version)}"
    console.say(f"{console.paint('not deployed', 'red')}: gate {file} {why}; `fm evals show {report.id}` tells more")
    raise typer.Exit(exit_code(report))


def _local(workspace: Workspace, file: Path) -> Local:
    from flowmason.pipeline import dump_pipeline
    from flowmason.remote.deploying import Local

    written = workspace.source(file).written
    return Local(written.name, file, dump_pipeline(written))


def _folder(workspace: Workspace) -> Path:
    return workspace.project.root / ".flowmason"


def _package(workspace: Workspace, client: StudioClient, *, dry_run: bool) -> str | None:
    """Upload the project's components and prompts, where the org has not got them; returns `name@version`."""
    from flowmason import package
    from flowmason.errors import UsageError
    from flowmason.ids import sha256

    root = workspace.project.root
    carried = any((root / "components").rglob("*.py")) or any((root / "prompts").rglob("*.md"))
    if not workspace.project.manifest or not carried:
        return None
    # Pipelines are brought over by themselves: one that changes must not ask for a new version of the package.
    data = package.pack_bytes(workspace.project, with_pipelines=False)
    manifest = package.inspect_bytes(data, file="the project's package")
    name = f"{manifest.name}@{manifest.version}"
    for each in client.pages("/registry/packages", limit=1000):
        if (each["name"], each["version"]) == (manifest.name, manifest.version):
            if each["digest"] == sha256(data):
                return None
            raise UsageError(
                f"the org has another content of {name}",
                help="Packages never change: give flowmason.json a new version.",
            )
    if not dry_run:
        files = {"file": (f"{manifest.name}-{manifest.version}.fmpkg", data, "application/octet-stream")}
        client.request("POST", "/registry/deploy", files=files)
    return name


def _fetched(step: Step, folder: Path) -> Step:
    import json
    import re

    import msgspec

    if step.action not in ("create", "update") or step.remote is None:
        return step
    file = Path(step.file) if step.file else folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', step.name)}.pipeline.json"
    if step.action == "create" and file.exists():
        return msgspec.structs.replace(step, action="conflict", file=str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(json.dumps(step.remote["document"], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(file)
    return msgspec.structs.replace(step, file=str(file))


def _tell(
    steps: Sequence[Step], verb: str, alias: str, dry_run: bool, as_json: bool, *, package: str | None = None
) -> None:
    """Print how it went, and end: 1 where anything was not brought over."""
    from flowmason.errors import Code

    failed = [step for step in steps if step.action in ("conflict", "failed")]
    if as_json:
        console.print_json(
            {
                "dry_run": dry_run,
                "org": alias,
                "package": package,
                "items": [_item(step, verb) for step in steps],
            }
        )
    else:
        if package:
            console.say(f"{'would upload' if dry_run else 'uploaded'} {package}")
        for step in steps:
            mark = console.paint(f"{_MARKS[step.action]} {step.action:<8}", _COLOURS[step.action])
            console.say(f"{mark} {step.name}")
            if step.failure is not None:
                console.say(f"    [{step.failure.code}] {step.failure.message}")
                if step.failure.help and step.failure.code != Code.INVALID_DOCUMENT:
                    console.say(f"    {step.failure.help}")
            if dry_run or step.action == "conflict":
                for line in _differences(step, verb):
                    console.say(f"    {line}")
        if not steps:
            console.say(f"nothing to {verb}")
    raise typer.Exit(console.FAILED if failed else console.OK)


def _item(step: Step, verb: str) -> dict[str, Any]:
    import msgspec

    from flowmason.assembly.outcome import failure_document

    before, after = _sides(step, verb)
    found = [] if before is None or after is None else _compared(before, after)
    return {
        "name": step.name,
        "action": step.action,
        "file": step.file or None,
        "differences": msgspec.to_builtins(found),
        "error": failure_document(step.failure),
    }


def _sides(step: Step, verb: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    remote = None if step.remote is None else step.remote["document"]
    return (remote, step.local) if verb == "deploy" else (step.local, remote)


def _compared(before: dict[str, Any], after: dict[str, Any]) -> list[Any]:
    from flowmason.studio.differences import differences

    return differences(before, after)


def _differences(step: Step, verb: str) -> list[str]:
    before, after = _sides(step, verb)
    if before is None or after is None:
        return []
    return [
        f"{each.pointer}: {_short(each.before)} → {_short(each.after)}"
        if each.change == "changed"
        else f"{each.pointer}: {each.change} {_short(each.after if each.change == 'added' else each.before)}"
        for each in _compared(before, after)
    ]


def _short(value: Any) -> str:
    text = console.to_json(value, indent=0)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
