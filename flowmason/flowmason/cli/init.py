"""`fm init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowmason.cli import console


def init(
    name: Annotated[
        str,
        typer.Argument(metavar="[NAME|DIR]", help="The folder to make; its name is the project's. Default: this one."),
    ] = ".",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Make a new project that runs, validates and tests as it stands.

    It has a pipeline of operators with a component of its own, a pipeline with a language model, and tests of both.
    Nothing that is there already is overwritten.

    Examples:
      fm init shop && cd shop && fm run --on local
    """
    import re
    import shlex

    from flowmason.cli.scaffold import files
    from flowmason.errors import UsageError
    from flowmason.registry.packages import package_name_faults

    root = Path(name).resolve()
    project = re.sub(r"[^a-z0-9._-]+", "-", root.name.lower()).strip("-._") or "project"
    faults = [reason for _, reason in package_name_faults(project, "0.1.0")]
    if faults:
        raise UsageError(f"{root.name!r} does not do as a project's name: {faults[0]}")
    contents = files(project)
    there = [path for path in contents if (root / path).exists()]
    if there:
        raise UsageError(f"{root} has {', '.join(there[:4])} already; nothing was written", help="Name another folder.")
    try:
        for path, text in contents.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from None
    if as_json:
        console.print_json({"name": project, "root": str(root), "files": list(contents)})
        return
    for path in contents:
        print(f"  {path}")
    console.say(f"{console.paint(project, 'bold')} is ready:")
    steps = [] if root == Path.cwd() else [f"cd {shlex.quote(name)}"]
    for step in (*steps, "fm validate", "fm run --on local", "fm test"):
        console.say(f"  {step}")
