"""`fm run --studio`: a pipeline that an org of a Studio has, run there and shown here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.cli.running import Show
    from flowmason.remote.client import StudioClient

_MARKS = {
    "stage.finished": "✓",
    "stage.failed": "✗",
    "stage.skipped": "○",
    "stage.cancelled": "⊘",
    "stage.retried": "↻",
    "stage.lost": "↻",
}


class _Over(Exception):
    """The run has taken as long as it may. No `TimeoutError`: an HTTP client would take that for its own."""


def run(name: str | None, alias: str | None, request: Mapping[str, Any], show: Show) -> int:
    """Submit a run by the pipeline's name, follow it, and print how it went. Returns the exit code.

    The first Ctrl-C cancels the run, the second leaves it. Raises what the Studio refuses.
    """
    from flowmason.cli.studio_org import opened
    from flowmason.errors import UsageError
    from flowmason.ids import Ids

    if name is None:
        raise UsageError("no pipeline is named", help="Name one that the org has: NAME or NAME@VERSION.")
    for option, given in (("--ray", request["address"]), ("--submit", request["submit"])):
        if given:
            raise UsageError(f"{option} does not go with --studio")
    org, client = opened(alias)
    with client:
        options = {key: request[key] for key in ("provider", "max_concurrency") if request[key] is not None}
        body = {"pipeline": name, "input": _input(client, name, request), "options": options}
        # A request that is sent again, because its answer was lost, starts no second run.
        key = Ids(time.time).command()
        accepted = client.request("POST", "/run", body=body, headers={"Idempotency-Key": key})
        run_id = accepted["id"]
        label = console.paint(accepted["pipeline"], "bold")
        show.say(f"{label}@{accepted['version']} in {org.alias}: {run_id}")
        return followed(client, run_id, show, timeout_s=request["timeout"])


def followed(client: StudioClient, run_id: str, show: Show, *, timeout_s: float | None = None, own: bool = True) -> int:
    """Follow a run to its end, and print how it went; returns the exit code. `own`: Ctrl-C cancels it."""
    began = time.monotonic()
    interrupts = 0
    after = 0
    while True:
        try:
            with _limited(timeout_s, began):
                for told in _told(client, run_id, after, show):
                    after = told
            break
        except (KeyboardInterrupt, _Over) as error:
            interrupts += 1
            if interrupts > 1 or not own:
                console.say(f"\nleaving {run_id}")
                return console.INTERRUPTED
            timed = isinstance(error, _Over)
            console.say(f"\ncancelling {run_id}" + ("" if timed else "; once more leaves it"))
            reason = f"it took longer than {timeout_s:g} s" if timed else "interrupted"
            client.request("POST", f"/runs/{quote(run_id, safe='')}/cancel", body={"reason": reason})
            timeout_s = None
    return finish(client, run_id, show, time.monotonic() - began)


def finish(client: StudioClient, run_id: str, show: Show, elapsed_s: float) -> int:
    """Print how a run went; returns the exit code."""
    from flowmason.cli.live.words import duration
    from flowmason.cli.running import CODES, print_output

    detail = client.get(f"/runs/{quote(run_id, safe='')}")
    code = CODES.get(detail["status"], console.INTERRUPTED)
    if show.json:
        console.print_json(document(detail))
    elif detail["status"] == "completed":
        print_output(detail["output"])
    if detail["error"] is not None and not show.json:
        _print_failure(detail["error"])
    if not show.quiet:
        colour = {0: "green", 1: "red", 3: "yellow"}.get(code, "yellow")
        used = detail["usage"]
        words = [console.paint(detail["status"], colour, "bold"), run_id, duration(elapsed_s * 1000)]
        if used["calls"]:
            cost = f" · ${used['cost']}" if used["cost"] is not None else ""
            words.append(f"{used['calls']} calls, {used['total_tokens']} tokens{cost}")
        console.say(" · ".join(words))
    return code


def document(detail: Mapping[str, Any]) -> dict[str, Any]:
    """A run as `--json` prints it, wherever it ran."""
    names = ("pipeline", "version", "status", "output", "error", "stages", "usage")
    return {"run_id": detail["id"], **{name: detail[name] for name in names}, "executor": "studio"}


def _input(client: StudioClient, name: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
    from flowmason.cli.given import Blobs, read_input
    from flowmason.errors import UsageError
    from flowmason.remote.deploying import in_org

    if any("=@" in text for text in request["assignments"]):
        raise UsageError("files (--set name=@file) cannot be sent to a Studio yet")
    given = request["input"] is not None or request["input_file"] is not None or request["assignments"]
    if not given and not request["sample"]:
        return None
    sample = None
    if request["sample"]:
        found = in_org(client, name.partition("@")[0])
        sample = None if found is None else found["document"].get("sample_input")
    return read_input(
        request["input"],
        request["input_file"],
        sample=request["sample"],
        sample_input=sample,
        assignments=request["assignments"],
        blobs=Blobs(),
    )


def _told(client: StudioClient, run_id: str, after: int, show: Show) -> Iterator[int]:
    """Print what happens as it happens; yields the seq of each event."""
    from flowmason.remote.following import follow

    progress = show.progress and not show.quiet
    for told in follow(client, run_id, after=after, side=show.verbose):
        data = told.data
        if told.kind == "log" and show.verbose:
            console.say(f"    {data['level']:<7} {data['path']}: {data['message']}")
        if told.kind != "event":
            continue
        if progress:
            line = _line(data)
            if line:
                console.say(line)
        yield data["seq"]


def _line(event: Mapping[str, Any]) -> str:
    from flowmason.cli.live.words import duration

    path, kind = str(event.get("path") or ""), event["kind"]
    if kind == "run.cancelling":
        return f"  cancelling: {event.get('reason', '')}"
    if kind not in _MARKS or "[" in path or path == "$output":
        return ""
    words = [f"  {_MARKS[kind]} {path}"]
    if kind == "stage.finished":
        words.append(duration(event.get("duration_ms", 0)))
        if event.get("choice"):
            words.append(f"→ {', '.join(event['choice'])}")
    elif kind == "stage.skipped":
        words.append(f"skipped: {event.get('reason', '')}")
    elif "failure" in event:
        words.append(event["failure"].get("message", ""))
    return "  ".join(words)


def _print_failure(error: Mapping[str, Any]) -> None:
    where = f"{error['stage']}: " if error.get("stage") else ""
    console.say(f"{console.paint('error', 'red', 'bold')} [{error['code']}] {where}{error['message']}")
    if error.get("help"):
        console.say(f"  help: {error['help']}")


@contextmanager
def _limited(timeout_s: float | None, began: float) -> Iterator[None]:
    """Raise `_Over` inside once so long has passed since the beginning."""
    import signal

    if timeout_s is None:
        yield
        return

    def over(*_: object) -> None:
        raise _Over

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, timeout_s - (time.monotonic() - began)))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
