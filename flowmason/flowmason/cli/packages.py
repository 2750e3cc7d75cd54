"""`fm pack`, `fm install` and `fm uninstall`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowmason.cli import console


def pack(
    project: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The project. Default: the one we are in.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="Default: packages/<name>-<version>.fmpkg.")
    ] = None,
    version: Annotated[str | None, typer.Option("--version", help="Another version than flowmason.json says.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Pack a project's pipelines, components, prompts and configuration into one file.

    The same project gives the same bytes everywhere.

    Examples:
      fm pack
      fm pack ./triage -o dist/ --version 1.3.0
    """
    from flowmason import package
    from flowmason.errors import UsageError
    from flowmason.project import find_project

    root = find_project(project)
    if root is None:
        raise UsageError(f"there is no project at {project or Path.cwd()}", help="`fm init` makes one.")
    path = package.pack(root, output, version=version)
    if as_json:
        manifest = package.inspect(path)
        console.print_json(
            {
                "path": str(path),
                "name": manifest.name,
                "version": manifest.version,
                "digest": manifest.digest,
                "files": len(manifest.files),
            }
        )
    else:
        print(path)


def install(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .fmpkg file.")],
    force: Annotated[bool, typer.Option("--force", help="Replace another content of the same version.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Check a package and install it for this user. Nothing of it is imported or run.

    Examples:
      fm install packages/triage-1.2.0.fmpkg
    """
    from flowmason import package

    done = package.install(file, replace=force)
    if as_json:
        console.print_json({"name": done.name, "version": done.version, "folder": str(done.folder)})
    else:
        print(f"{done.name}@{done.version} in {done.folder}")


def uninstall(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A package; without a version: all of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Remove an installed package.

    Examples:
      fm uninstall triage
      fm uninstall triage@1.2.0
    """
    from flowmason import package

    gone = package.uninstall(name)
    if as_json:
        console.print_json({"removed": [{"name": item.name, "version": item.version} for item in gone]})
    else:
        for item in gone:
            print(f"removed {item.name}@{item.version}")
