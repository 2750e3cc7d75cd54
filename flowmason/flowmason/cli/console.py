"""What every command shares: exit codes, colours, and how errors are printed."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

from flowmason.errors import Code, EngineUnavailableError, Failure, Fault, FlowMasonError, RefusedError, UsageError

OK, FAILED, REFUSED, CANCELLED, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130

abandoned: list[str] = []
"""Threads of components that did not stop when they were asked to."""
_verbose = False
_asked: Sequence[str] = ()
"""The command line, where it asks for `--json` and nothing was printed there yet."""

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
_SNIPPET = 160
_STEERING = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tabs and line ends, and what turns the direction of writing round."""
_MOST_FAULTS = 50


def end_now(code: int) -> NoReturn:
    """End the process without waiting for anything that does not end by itself."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def be_verbose(wanted: bool) -> None:
    """From now on print the tracebacks of our own errors, too."""
    global _verbose
    _verbose = _verbose or wanted


def say(text: str = "") -> None:
    """A line for people, on stderr."""
    print(visible(text), file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """`text` without what would steer a terminal; colours stay.

    Names, messages and answers are written by others: a file, a model, a server.
    """
    return text if text.isprintable() else _STEERING.sub("\ufffd", text)


def streams_open() -> None:
    """Open what a caller closed of stdin, stdout and stderr (`>&-`), as nothing.

    Else the next file that is opened, the journal perhaps, would get the number of one of them.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def colourful(stream: TextIO | None = None) -> bool:
    """Whether colours make sense on a stream (default: stderr)."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return (stream or sys.stderr).isatty() and os.environ.get("TERM") != "dumb"


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def paint(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """`text` in colour, where the stream (default: stderr) shows colours."""
    if not text or not colourful(stream):
        return text
    return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"


def exit_code(error: FlowMasonError) -> int:
    """What the process ends with for an error of ours."""
    if isinstance(error, RefusedError | UsageError):
        return REFUSED
    if isinstance(error, EngineUnavailableError):
        return UNAVAILABLE
    return FAILED


@contextmanager
def reported(arguments: Sequence[str]) -> Iterator[None]:
    """Print what goes wrong inside, and end with its exit code."""
    global _verbose, _asked
    _verbose = False
    _asked = arguments if "--json" in arguments else ()
    try:
        yield
    except FlowMasonError as error:
        answer_error(error)
        print_error(error)
        raise SystemExit(exit_code(error)) from None
    except BrokenPipeError:
        # Whoever read us has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            _own_fault(error)
        say(f"{paint('error', 'red', 'bold')} {paint(f'[{Code.STORAGE}]', 'dim')} cannot write: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is not tried again when Python flushes
        raise SystemExit(FAILED) from None
    except Exception as error:
        _own_fault(error)


def _own_fault(error: Exception) -> NoReturn:
    """Tell of what nobody expected, with its traceback."""
    import traceback

    answer_error(FlowMasonError(f"{type(error).__name__}: {error}", code=Code.INTERNAL))
    traceback.print_exception(error)
    say("\nfm: this is a fault in FlowMason itself; please report it with the lines above.")
    raise SystemExit(FAILED) from None


def answer_error(error: FlowMasonError) -> None:
    """The one object of `--json` where a command has no other answer."""
    if not _asked:
        return
    from flowmason.assembly.outcome import failure_document, unfinished

    a_run = next((word for word in _asked if not word.startswith("-")), "") in ("run", "resume")
    print_json(unfinished("", error, None, None) if a_run else {"error": failure_document(error.failure)})


def print_error(error: FlowMasonError) -> None:
    """An error of ours for people, on stderr."""
    if _verbose:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, RefusedError) and error.faults:
        print_faults(error.faults)
        if error.failure.help:
            say(f"  {paint('help:', 'cyan')} {error.failure.help}")
        return
    print_failure(error.failure)


def print_failure(failure: Failure) -> None:
    """A failure for people, on stderr."""
    where = f"{failure.stage}: " if failure.stage else ""
    say(f"{paint('error', 'red', 'bold')} {paint(f'[{failure.code}]', 'dim')} {where}{failure.message}")
    cause = failure.cause
    while cause is not None:
        say(f"  caused by [{cause.code}] {cause.message}")
        cause = cause.cause
    if failure.trace and _verbose:
        say(failure.trace.rstrip())
    if failure.help:
        say(f"  {paint('help:', 'cyan')} {failure.help}")


def print_faults(faults: Sequence[Fault], *, label: str = "refused", colour: str = "red") -> None:
    """Faults with their source lines, on stderr."""
    lines: dict[str, list[str]] = {}
    for fault in faults[:_MOST_FAULTS]:
        for line in fault_lines(fault, lines, label, colour):
            say(line)
    if len(faults) > _MOST_FAULTS:
        say(f"… and {len(faults) - _MOST_FAULTS} more faults; --format json shows them all")


def fault_lines(fault: Fault, sources: dict[str, list[str]], label: str, colour: str) -> Iterator[str]:
    """One fault: place, reason, the line with a caret, the nearest right name."""
    place = ":".join(str(part) for part in (fault.file, fault.line, fault.column) if part is not None)
    pointer = f" {paint(fault.pointer, 'dim')}" if fault.pointer not in ("", "$") else ""
    yield f"{paint(place, 'bold')}{': ' if place else ''}{paint(label, colour, 'bold')}{pointer}"
    yield f"  {fault.reason}"
    if fault.file is not None and fault.line is not None:
        yield from _snippet(fault.file, fault.line, fault.column, sources)
    if fault.nearest:
        yield f"  {paint('did you mean', 'cyan')} {fault.nearest!r}?"


def _snippet(file: str, line: int, column: int | None, sources: dict[str, list[str]]) -> Iterator[str]:
    if file not in sources:
        try:
            sources[file] = Path(file).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            sources[file] = []
    text = sources[file]
    if not 0 < line <= len(text):
        return
    shown, at = text[line - 1].replace("\t", " ").rstrip("\r"), (column or 1) - 1
    if len(shown) > _SNIPPET:
        start = max(0, at - _SNIPPET // 2)
        shown, at = shown[start : start + _SNIPPET], at - start
    number = str(line)
    yield f"  {paint(number + ' |', 'blue')} {visible(shown)}"
    if column is not None:
        yield f"  {paint(' ' * len(number) + ' |', 'blue')} {' ' * at}{paint('^', 'red', 'bold')}"


@contextmanager
def stdout_kept() -> Iterator[None]:
    """What is printed inside (by components, by programs that they start) goes to stderr; stdout is for the answer."""
    from contextlib import redirect_stdout

    sys.stdout.flush()
    kept = None
    if sys.stdout is sys.__stdout__:
        try:
            kept = os.dup(1)
            os.dup2(2, 1)
        except OSError:
            kept = None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def print_json(data: Any) -> None:
    """Data as JSON on stdout."""
    global _asked
    _asked = ()
    sys.stdout.write(to_json(data) + "\n")
    sys.stdout.flush()


def to_json(data: Any, *, indent: int = 2) -> str:
    """Plain data as JSON; numbers that JSON does not have become null, and what is no character is escaped."""
    import msgspec

    try:
        encoded = msgspec.json.encode(data)
    except UnicodeEncodeError:  # the name of a file that is no UTF-8
        import json

        return json.dumps(msgspec.to_builtins(data), indent=indent or None)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def loaded(point: Any) -> Any:
    """What an entry point names. Raises `EngineUnavailableError` where its extra is not installed."""
    try:
        return point.load()
    except ImportError as error:
        missing = error.name or str(error)
        raise EngineUnavailableError(
            f"`fm {point.name}` is not available: {missing} is not installed",
            help="Install flowmason[ray] (pip install 'flowmason[ray]').",
        ) from error


def help_of(function: Callable[..., Any]) -> str:
    """A command's help: its docstring. The lines after `Examples:` are kept as they are."""
    text = inspect.cleandoc(function.__doc__ or "")
    head, mark, examples = text.partition("Examples:\n")
    return f"{head}{mark and chr(8)}\n{mark}{examples}" if mark else text


def run_async(coroutine: Any) -> Any:
    """Run a coroutine in a fresh event loop. One that was interrupted raises `KeyboardInterrupt`."""
    import asyncio

    try:
        return asyncio.run(coroutine)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def choice(value: str, known: Sequence[str], option: str) -> str:
    """`value`, if it is one of `known`. Raises a usage error with the nearest right one."""
    from flowmason.errors import did_you_mean

    if value in known:
        return value
    near = did_you_mean(value, known)
    hint = f" Did you mean {near!r}?" if near else ""
    raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}.{hint}", param_hint=option)


def _finite(value: float | None) -> float | None:
    # `inf` and `nan` are floats, too.
    import math

    if value is None or math.isfinite(value):
        return value
    raise typer.BadParameter(f"{value} is not a number of seconds.")


Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", "-t", metavar="SECONDS", min=0.001, callback=_finite, help="Cancel the run after so long."
    ),
]


def money(value: str | None, option: str) -> str | None:
    """An amount of dollars as a decimal text. Raises a usage error."""
    import re

    if value is None or re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return value
    raise typer.BadParameter(f"{value!r} is not an amount of dollars such as 0.50.", param_hint=option)
