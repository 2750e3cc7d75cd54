"""What `run` and `resume` share: signals, the view, the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from flowmason.assembly.engine import Stores
from flowmason.assembly.hosting import picture_of
from flowmason.assembly.outcome import RunResult, unfinished
from flowmason.assembly.picture import RunPicture
from flowmason.cli import console
from flowmason.cli.live import LiveModel
from flowmason.cli.live.words import duration, usage_words
from flowmason.errors import EngineUnavailableError, Failure, FlowMasonError, UsageError
from flowmason.executor import Executor
from flowmason.ids import RunId

CODES = {
    "completed": console.OK,
    "failed": console.FAILED,
    "cancelled": console.CANCELLED,
}


class Show(msgspec.Struct, frozen=True):
    """How much is told while a run runs, and how it ends up on stdout."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    progress: bool = True
    items: bool = False

    def say(self, text: str) -> None:
        """A line for people, unless they want quiet."""
        if not self.quiet:
            console.say(text)


class Steered(Protocol):
    """What walks a run, here or elsewhere, as Ctrl-C steers it."""

    def command(self, run_id: RunId, name: str, **arguments: Any) -> Coroutine[Any, Any, None]:
        """Put a command into the run's inbox."""
        ...

    def leave(self, *, withdraw: bool = False) -> None:
        """Have no more to do with the run. `withdraw` takes back the cancel, where that is ours to do."""
        ...


class Signals:
    """The first Ctrl-C cancels the run, the second leaves it resumable, the third ends the process."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._host: Steered | None = None
        self._leaving = ""
        self._run_id: RunId | None = None
        self._count = 0
        self._main: asyncio.Task[Any] | None = None
        self._posting: set[asyncio.Task[None]] = set()

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Handle Ctrl-C and termination inside the running loop."""
        loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        handled = []
        for number, handler in ((signal.SIGINT, self._interrupted), (signal.SIGTERM, self._terminated)):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, handler)
                handled.append(number)
        try:
            yield self
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def attach(self, host: Steered, run_id: RunId, leaving: str = "leaves it to be resumed") -> None:
        """From here on there is a run to cancel. `leaving`: what a second Ctrl-C does."""
        self._host, self._run_id, self._leaving = host, run_id, leaving

    def _interrupted(self) -> None:
        self._count += 1
        if self._host is None or self._run_id is None:
            if self._main is not None:
                self._main.cancel()
        elif self._count == 1:
            console.say(f"\ncancelling {self._run_id}; once more {self._leaving}")
            coroutine = self._host.command(self._run_id, "cancel", reason="interrupted")
            task = asyncio.get_running_loop().create_task(coroutine)
            self._posting.add(task)
            task.add_done_callback(self._posting.discard)
        elif self._count == 2:
            console.say(f"\nleaving {self._run_id}")
            self._host.leave(withdraw=True)
        else:
            os._exit(console.INTERRUPTED)

    def _terminated(self) -> None:
        if self._host is not None:
            self._host.leave()
        elif self._main is not None:
            self._main.cancel()


def feeds_of(model: LiveModel, show: Show) -> tuple[list[Any], Any]:
    """The feeds of a run and what draws them; the latter is entered by the caller once the run exists."""
    if show.quiet or not show.progress:
        return [], None
    view: Any
    if sys.stderr.isatty():
        from flowmason.cli.live.terminal import TerminalView

        view = TerminalView(model, logs=show.verbose)
        return [model], view
    from flowmason.cli.live.plain import PlainView

    view = PlainView(model, logs=show.verbose)
    return [model, view], view


def remember_abandoned(executor: Executor, show: Show) -> None:
    """Name the threads that did not stop; they end with the process."""
    left: Sequence[str] = getattr(executor, "left_behind", ())
    if left:
        show.say(f"left behind, because it did not stop when cancelled: {', '.join(left)}")
        console.abandoned.extend(left)


async def walked(
    walking: Awaitable[RunPicture], stores: Stores, request: Mapping[str, Any], show: Show
) -> tuple[RunPicture, Failure | None]:
    """The picture of a run that is walked, and why it is walked no longer where its executor is gone for good."""
    try:
        return await walking, None
    except EngineUnavailableError as error:
        if request.get("run_id") is None:
            raise
        return await picture_of(stores.journal, request["run_id"], items=show.items), error.failure


def finish(
    result: RunResult, show: Show, elapsed_s: float, lost: Failure | None = None, *, again: str | None = None
) -> int:
    """Print how a run went; returns the exit code.

    `lost`: its executor is gone, and the process ends here. `again`: the command that goes on with it.
    """
    code = CODES.get(result.status, console.INTERRUPTED)
    if lost is not None:
        if code == console.INTERRUPTED:
            code, result = console.UNAVAILABLE, msgspec.structs.replace(result, error=lost)
        _tell(result, show, elapsed_s, code, again)
        console.end_now(code)  # what is left of the executor may wait for ever, or end us with a code of its own
    return _tell(result, show, elapsed_s, code, again)


def _tell(result: RunResult, show: Show, elapsed_s: float, code: int, again: str | None) -> int:
    if show.json:
        console.print_json(result.document())
    elif result.status == "completed":
        print_output(result.output)
    if result.error is not None and not show.json:
        console.print_failure(result.error)
    if show.quiet:
        return code
    used = usage_words(result.usage)
    colour = {0: "green", 1: "red", 3: "yellow"}.get(code, "yellow")
    words = [console.paint(result.status, colour, "bold"), result.run_id, duration(elapsed_s * 1000)]
    console.say(" · ".join([*words, *([used] if used else [])]))
    if code in (console.FAILED, console.INTERRUPTED, console.UNAVAILABLE):
        say_again(again or f"fm resume {result.run_id}")
    return code


def say_again(command: str) -> None:
    """Name the command that goes on with a run."""
    console.say(f"  {console.paint('watch:' if ' watch ' in command else 'resume:', 'cyan')} {command}")


def print_output(output: Any) -> None:
    """A run's output on stdout; to people, a very long one is shortened."""
    text = output if isinstance(output, str) else console.to_json(output)
    if sys.stdout.isatty():
        text = console.visible(text)
    lines = text.splitlines()
    if sys.stdout.isatty() and len(lines) > 200:
        text = "\n".join([*lines[:180], f"… {len(lines) - 180} more lines; redirect the output to see them all"])
    print(text, flush=True)


def stopped(error: FlowMasonError, show: Show, pipeline: str, executor: str, run_id: str | None) -> int:
    """Tell why there is no outcome; returns the exit code. With a run, it was given up and can be resumed."""
    if show.json:
        console.print_json(unfinished(pipeline, error, executor, run_id))
    console.print_error(error)
    if run_id is None or isinstance(error, UsageError):
        return console.exit_code(error)
    say_again(f"fm resume {run_id}")
    return console.INTERRUPTED
