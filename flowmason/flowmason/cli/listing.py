"""`fm list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.assembly.workspace import Workspace


def list_(
    what: Annotated[
        str | None, typer.Argument(metavar="[pipelines|components]", help="Only these. Default: both.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """List a project's pipelines and the components that they may use.

    Examples:
      fm list
      fm list components --json
    """
    from flowmason.assembly.workspace import Workspace

    if what is not None:
        console.choice(what, ("pipelines", "components"), "[pipelines|components]")
    workspace = Workspace.at()
    found: dict[str, list[dict[str, Any]]] = {}
    if what != "components":
        found["pipelines"] = _pipelines(workspace)
    if what != "pipelines":
        found["components"] = _components(workspace)
        console.print_faults(workspace.component_faults(), label="cannot be read", colour="yellow")
    if as_json:
        console.print_json(found)
        return
    from flowmason.cli.tables import print_table

    if "pipelines" in found:
        rows = [
            [item["name"], item["version"], item["path"], "" if item["ok"] else "cannot be read"]
            for item in found["pipelines"]
        ]
        print_table(("PIPELINE", "VERSION", "FILE", ""), rows)
        if not rows:
            console.say("no pipelines here; `fm init` makes a project")
    if len(found) > 1:
        print()
    if "components" in found:
        rows = [
            [item["name"], item["version"], item["kind"], item["effect"], item["from"], item["description"]]
            for item in found["components"]
        ]
        print_table(("COMPONENT", "VERSION", "KIND", "EFFECT", "FROM", ""), rows)


def _pipelines(workspace: Workspace) -> list[dict[str, Any]]:
    from flowmason.assembly.workspace import shown

    return [
        {
            "name": entry.name,
            "version": entry.version,
            "path": shown(entry.path),
            "ok": not entry.faults,
            "faults": [str(fault) for fault in entry.faults],
        }
        for entry in workspace.project.pipelines()
    ]


def _components(workspace: Workspace) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "version": spec.version,
            "kind": spec.control_flow_type or spec.kind,
            "effect": str(spec.effect),
            "from": origin(spec),
            "description": " ".join(spec.description.split()),
            "digest": spec.digest,
        }
        for spec in workspace.registry.specs()
    ]


def origin(spec: Any) -> str:
    """Where a component comes from, in a word or two."""
    if spec.package:
        return str(spec.package)
    place = str(spec.target).partition(":")[0]
    if place.startswith("flowmason.lab"):
        return "built in"
    return place if place.endswith(".py") else place.partition(".")[0]
