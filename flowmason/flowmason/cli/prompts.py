"""`fm prompts`."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.assembly.workspace import Workspace
    from flowmason.errors import Fault
    from flowmason.prompt import Prompt

app = typer.Typer(no_args_is_help=True, help="List, show and compare a project's prompts.")

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
_VERSION = "A prompt's name, a file, or NAME@RUN for the version that a run used."


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List the prompts below prompts/, with what they take. Exit code 2 where one is faulty."""
    from flowmason.assembly.workspace import Workspace
    from flowmason.cli.tables import print_table
    from flowmason.errors import RefusedError

    workspace = Workspace.at()
    faults: list[Fault] = []
    found: list[Prompt] = []
    for name in workspace.prompts:
        try:
            found.append(workspace.prompts[name])
        except RefusedError as error:
            faults += error.faults
    if as_json:
        console.print_json({"items": [_document(prompt) for prompt in found]})
    else:
        rows = [[prompt.name, _short(prompt), ", ".join(_taken(prompt)), prompt.description] for prompt in found]
        if rows:
            print_table(("PROMPT", "DIGEST", "VARIABLES", ""), rows)
        elif not faults:
            console.say("no prompts: a file prompts/<name>.md makes one")
    if faults:
        console.print_faults(faults)
        raise typer.Exit(console.REFUSED)


@app.command()
def show(version: Annotated[str, typer.Argument(metavar="PROMPT", help=_VERSION)], as_json: _Json = False) -> None:
    """Show one version of a prompt.

    Examples:
      fm prompts show summarise
      fm prompts show summarise@run_01JX
    """
    from flowmason.assembly.workspace import Workspace

    prompt = _version(Workspace.at(), version)
    if as_json:
        console.print_json({**_document(prompt), "text": prompt.text})
    else:
        console.say(console.paint(prompt.id, "dim"))
        print(prompt.text.rstrip("\n"))


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help=_VERSION)],
    new: Annotated[
        str | None, typer.Argument(metavar="[NEW]", help="The same. Default: what OLD's prompt says now.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Compare two versions of a prompt, word by word. Exit code 1 where they differ.

    Examples:
      fm prompts diff summarise@run_01JX
      fm prompts diff summarise prompts/summarise.v2.md
    """
    from flowmason.assembly.workspace import Workspace
    from flowmason.errors import UsageError

    workspace = Workspace.at()
    first = _version(workspace, old)
    if new is None and "@" not in old:
        raise UsageError("there is nothing to compare it with", help="Name a second version: a file, or NAME@RUN.")
    second = _version(workspace, new if new is not None else old.rpartition("@")[0])
    changes = words_changed(first.text, second.text)
    if as_json:
        changed = [{"old": a, "new": b} for a, b in changes if a != b]
        console.print_json({"old": _document(first), "new": _document(second), "changes": changed})
    elif first.digest != second.digest:
        console.say(f"{console.paint(first.id, 'red')}\n{console.paint(second.id, 'green')}")
        print("".join(a if a == b else _change(a, b) for a, b in changes).rstrip("\n"))
    else:
        console.say(f"no difference: both are {first.id}")
    raise typer.Exit(console.FAILED if first.digest != second.digest else console.OK)


def words_changed(old: str, new: str) -> list[tuple[str, str]]:
    """The two texts in pieces, side by side; pieces that differ are whole words."""
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (old, new))
    matched = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return [("".join(before[a:b]), "".join(after[c:d])) for _, a, b, c, d in matched.get_opcodes()]


def _version(workspace: Workspace, wanted: str) -> Prompt:
    """The version that somebody names. Raises `UsageError` and `RefusedError`."""
    from flowmason.document.prompts import load_prompt, parse_prompt
    from flowmason.errors import Code, UsageError, did_you_mean

    name, at, run = wanted.rpartition("@")
    if at:
        text = console.run_async(_used(name, run))
        return parse_prompt(text, name, named=False)
    if wanted in workspace.prompts:
        return workspace.prompts[wanted]
    path = Path(wanted)
    if path.is_file():
        return load_prompt(path, path.name.removesuffix(".md"), named=False)
    near = did_you_mean(wanted, list(workspace.prompts))
    hint = f"; did you mean {near!r}?" if near else ""
    raise UsageError(f"there is no prompt {wanted!r}{hint}", code=Code.NOT_FOUND)


async def _used(name: str, run: str) -> str:
    """The text of a prompt as a run used it."""
    from flowmason.assembly.hosting import picture_of
    from flowmason.assembly.resuming import find_run
    from flowmason.cli.runs import stores_here
    from flowmason.errors import Code, UsageError, did_you_mean

    async with stores_here() as stores:
        row = await find_run(stores.journal, run)
        plan = (await picture_of(stores.journal, row.run_id)).plan
    plans = [] if plan is None else [plan, *plan.plans.values()]
    known = {key: ref.text for each in plans for key, ref in each.prompts.items()}
    if name in known:
        return known[name]
    near = did_you_mean(name, list(known))
    hint = f"; did you mean {near!r}?" if near else ""
    raise UsageError(f"run {row.run_id} used no prompt {name!r}{hint}", code=Code.NOT_FOUND)


def _document(prompt: Prompt) -> dict[str, Any]:
    return {
        "name": prompt.name,
        "digest": prompt.digest,
        "file": prompt.file,
        "description": prompt.description,
        "variables": prompt.variables,
        **prompt.hints,
    }


def _short(prompt: Prompt) -> str:
    return prompt.digest.removeprefix("sha256:")[:12]


def _taken(prompt: Prompt) -> list[str]:
    return [f"{name}?" if "default" in schema else name for name, schema in prompt.variables.items()]


def _change(old: str, new: str) -> str:
    import sys

    gone = console.paint(f"[-{old}-]", "red", stream=sys.stdout) if old else ""
    return gone + (console.paint(f"{{+{new}+}}", "green", stream=sys.stdout) if new else "")
