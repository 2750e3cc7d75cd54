"""The root of the command line: a table of commands that are imported when they are invoked."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from flowmason.cli import console
from flowmason.errors import Code, UsageError


class Entry(NamedTuple):
    """A command: where it lives, and its line in the list."""

    module: str
    attribute: str
    help: str


COMMANDS: dict[str, Entry] = {
    "run": Entry("flowmason.cli.run", "run", "Run a pipeline and show it live."),
    "validate": Entry("flowmason.cli.validate", "validate", "Check pipeline files without running them."),
    "test": Entry("flowmason.cli.test", "test", "Run the tests of a project's pipelines."),
    "init": Entry("flowmason.cli.init", "init", "Make a new project that runs as it stands."),
    "list": Entry("flowmason.cli.listing", "list_", "List a project's pipelines and components."),
    "info": Entry("flowmason.cli.info", "info", "Describe a pipeline or a component."),
    "resume": Entry("flowmason.cli.resume", "resume", "Go on with a failed, paused or interrupted run."),
    "pause": Entry("flowmason.cli.control", "pause", "Pause a run."),
    "cancel": Entry("flowmason.cli.control", "cancel", "Cancel a run."),
    "runs": Entry("flowmason.cli.runs", "app", "List, show, watch, export and prune runs."),
    "eval": Entry("flowmason.cli.eval", "eval_", "Run a pipeline over cases, judge and compare."),
    "evals": Entry("flowmason.cli.evals", "app", "List and show the reports of evaluations."),
    "prompts": Entry("flowmason.cli.prompts", "app", "List, show and compare a project's prompts."),
    "answers": Entry("flowmason.cli.answers", "app", "Kept answers of models: an org's switch, and none any more."),
    "usage": Entry("flowmason.cli.usage", "usage", "What models were asked, and what it cost."),
    "secrets": Entry("flowmason.cli.secrets", "app", "Set, list and remove the secrets of a Studio's org."),
    "pack": Entry("flowmason.cli.packages", "pack", "Pack a project into one .fmpkg file."),
    "install": Entry("flowmason.cli.packages", "install", "Install a package."),
    "uninstall": Entry("flowmason.cli.packages", "uninstall", "Remove an installed package."),
    "org": Entry("flowmason.cli.orgs", "app", "Sign in to orgs of Studios, and list them."),
    "auth": Entry("flowmason.cli.auth", "app", "Who you are in a Studio: keys, sign-in, audit log."),
    "deploy": Entry("flowmason.cli.deploying", "deploy", "Bring a project's pipelines to a Studio."),
    "pull": Entry("flowmason.cli.deploying", "pull", "Fetch pipelines from a Studio."),
    "mcp": Entry("flowmason.cli.mcp", "app", "Serve pipelines as MCP tools, and look at MCP servers."),
    "doctor": Entry("flowmason.cli.doctor", "doctor", "Check that everything a run needs is there."),
}
GROUP = "flowmason.commands"
_PARTING_S = 2.0
_HELP = {
    "cluster": "Start, stop and look at a local Ray cluster.",
    "studio": "Start, stop and look at a Studio: the API on Ray Serve.",
    "model": "Serve language models on Ray, and look at them.",
}


_WRONG: Any = typer.BadParameter.__base__
"""The usage error of the click that Typer carries within itself."""


class LazyGroup(TyperGroup):
    """Imports a command when it is invoked; the list of commands needs none of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *sorted(set(_entry_points()) - set(COMMANDS))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        if entry is not None:
            module = importlib.import_module(entry.module)
            return command(cmd_name, getattr(module, entry.attribute))
        point = _entry_points().get(cmd_name)
        return command(cmd_name, console.loaded(point)) if point is not None else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [(name, self._line(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _line(self, name: str) -> str:
        entry = COMMANDS.get(name)
        if entry is not None:
            return entry.help
        distribution = _entry_points()[name].dist
        return _HELP.get(name) or f"From {distribution.name if distribution is not None else 'another package'}."

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        names: Any = dict.fromkeys(self.list_commands(ctx))
        self.commands = names  # only their names are looked at, for "did you mean"
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        self.commands = {name: self.get_command(ctx, name) for name in COMMANDS if name.startswith(incomplete)}
        return super().shell_complete(ctx, incomplete)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _answered():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _answered():
            return super().invoke(ctx)

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        console.streams_open()
        with console.reported(sys.argv[1:] if args is None else list(args)):
            return super().main(args, *more, **kwargs)


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """What Typer itself makes an end of: a wrong command line (told to people only), and Ctrl-C (told to nobody)."""
    try:
        yield
    except KeyboardInterrupt:
        console.answer_error(UsageError("interrupted", code=Code.CANCELLED))
        console.say("interrupted")
        raise
    except _WRONG as error:
        console.answer_error(UsageError(error.format_message()))
        raise


def command(name: str, target: Any) -> Any:
    """A function or a Typer app as a command of the group."""
    if isinstance(target, typer.Typer):
        target.info.name = name
        target.rich_markup_mode = None
        target.pretty_exceptions_enable = False
        target._add_completion = False
        for one in target.registered_commands:
            one.help = one.help or (console.help_of(one.callback) if one.callback is not None else None)
        return typer.main.get_command(target)
    if callable(target) and not hasattr(target, "make_context"):
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(name, help=console.help_of(target))(target)
        return typer.main.get_command(alone)
    return target


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


app = typer.Typer(
    name="fm",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"flowmason {version('flowmason')}")
        raise typer.Exit


def _move(folder: Path | None) -> None:
    if folder is not None:
        try:
            os.chdir(folder)
        except OSError as error:
            raise typer.BadParameter(f"{folder}: {error.strerror}") from None


@app.callback()
def root(
    directory: Annotated[
        Path | None,
        typer.Option("--directory", "-C", metavar="DIR", help="Work in this folder.", is_eager=True, callback=_move),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", "-v", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """FlowMason: AI pipelines as typed, durable, testable files, run on Ray.

    Exit codes: 0 completed, 1 failed, 2 refused file or usage, 3 cancelled, 4 engine not available, 130 interrupted
    but resumable.
    """


def run_app() -> None:
    """Run the command line and end the process."""
    code = 0
    try:
        app()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    if console.abandoned:
        # A component's thread does not stop; the process does.
        console.end_now(code)
    with contextlib.suppress(ValueError):
        # All is told; what Python still waits for as it ends may be cut short without ado.
        signal.signal(signal.SIGINT, lambda *_: console.end_now(code))
    threading.Thread(target=_end_soon, args=[code], daemon=True).start()
    raise SystemExit(code)


def _end_soon(code: int) -> None:
    """Python waits for threads before it ends, and a component may have started one that does not end."""
    from concurrent.futures import thread as pools

    time.sleep(_PARTING_S)
    # Python waits for threads of pools even where they are daemons; those that had nothing to do have ended by now.
    pooled = getattr(pools, "_threads_queues", {})
    waited_for = [each for each in threading.enumerate() if not each.daemon or each in pooled]
    left = [each.name for each in waited_for if each is not threading.main_thread()]
    if left:
        console.say(f"left behind, because it did not end: {', '.join(left)}")
        console.end_now(code)
