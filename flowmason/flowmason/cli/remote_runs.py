"""Runs of an org of a Studio, for `fm runs`, `fm resume`, `fm pause` and `fm cancel`: asked over HTTP, told as here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flowmason.cli.remote_run import followed, outcome_of, refuse, refused_as_here

if TYPE_CHECKING:
    from flowmason.assembly.outcome import RunResult
    from flowmason.cli.running import Show
    from flowmason.remote.client import StudioClient

_POLL_S = 0.2
_MOST = 500
"""So many of the latest runs are looked through for the end of an id."""
_RESUME_S = 15.0


def listed(
    alias: str | None, status: Sequence[str], pipeline: str | None, limit: int, before: str | None
) -> dict[str, Any]:
    """A page of the org's runs, the newest first, in the shape of `fm runs list --json`."""
    with _client(alias) as (client, _):
        page = client.get("/runs", status=list(status), pipeline=pipeline, limit=limit, cursor=before)
    return {"items": [_row(each) for each in page["items"]], "next_cursor": page["next_cursor"]}


def shown(alias: str | None, wanted: str, items: bool) -> tuple[dict[str, Any], RunResult]:
    """A run as lists show it, and how it went."""
    from flowmason.cli.running import Show

    refuse(Show(items=items))
    with _client(alias) as (client, _):
        detail = _find(client, wanted)
        return _row(detail), outcome_of(client, detail["id"])


def watch(alias: str | None, wanted: str, as_json: bool) -> int:
    """Follow a run until it ends; returns the exit code."""
    from flowmason.cli.running import Show

    with _client(alias) as (client, name):
        return followed(client, _find(client, wanted), Show(json=as_json), alias=name, own=False)


def resume(alias: str | None, wanted: str | None, request: Mapping[str, Any], show: Show) -> int:
    """Have a paused or failed run go on, and follow it; returns the exit code."""
    from flowmason.cli import console
    from flowmason.errors import UsageError

    if wanted is None:
        raise UsageError("no run is named", help="`fm runs list --studio` shows those there are.")
    refuse(show, on=request["on"], ray=request["address"], accept_changes=request["accept_changes"])
    with _client(alias) as (client, name):
        before = _find(client, wanted)
        path = f"/runs/{quote(before['id'], safe='')}"
        client.request(
            "POST",
            f"{path}/resume",
            body={
                "rerun_unknown": request["rerun_unknown"],
                **({"budget": request["budget"]} if request["budget"] else {}),
            },
        )
        show.say(f"resuming {console.paint(before['id'], 'bold')} of {before['pipeline']} in {name}")
        # Until a conductor has taken the command, the run is what it was: paused, or failed.
        deadline = time.monotonic() + _RESUME_S
        while (now := client.get(path))["seq"] == before["seq"]:
            if time.monotonic() > deadline:
                console.say(f"it has not gone on within {_RESUME_S:g} s; `fm runs show` tells how it stands")
                break
            time.sleep(_POLL_S)
        return followed(client, now, show, alias=name, timeout_s=request["timeout"])


def steer(alias: str | None, wanted: str, command: str, reason: str, wait_s: float) -> tuple[str, str]:
    """Tell a run to pause or to end; returns its id, and its state once it did so, or after a while."""
    from flowmason.journal import TERMINAL

    with _client(alias) as (client, _):
        run_id = _find(client, wanted)["id"]
        path = f"/runs/{quote(run_id, safe='')}"
        client.request("POST", f"{path}/{command}", body={"reason": reason})
        deadline = time.monotonic() + wait_s
        while True:
            status = str(client.get(path)["status"])
            if status in TERMINAL or (status == "paused" and command == "pause"):
                return run_id, status
            if time.monotonic() > deadline:
                return run_id, "cancelling" if command == "cancel" else "pausing"
            time.sleep(_POLL_S)


def logs(alias: str | None, wanted: str, follow: bool) -> Iterator[dict[str, Any]]:
    """Lines that components wrote, in the shape of `fm runs logs --json`; with `follow` until the run ends."""
    from flowmason.remote.following import follow as following

    with _client(alias) as (client, _):
        run_id = _find(client, wanted)["id"]
        if follow:
            lines: Iterator[Any] = (told.data for told in following(client, run_id) if told.kind == "log")
        else:
            lines = client.pages(f"/runs/{quote(run_id, safe='')}/logs", limit=1000)
        for line in lines:
            yield _line(line)


def events(alias: str | None, wanted: str) -> Iterator[dict[str, Any]]:
    """The events of a run's journal, for reading."""
    with _client(alias) as (client, _):
        path, after = f"/runs/{quote(_find(client, wanted)['id'], safe='')}/events", 0
        while True:
            page = client.get(path, after=after, limit=1000)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            after = int(page["next_cursor"])


@contextmanager
def _client(alias: str | None) -> Iterator[tuple[StudioClient, str]]:
    from flowmason.cli.studio_org import opened

    org, client = opened(alias)
    with client, refused_as_here():
        yield client, org.alias


def _find(client: StudioClient, wanted: str) -> dict[str, Any]:
    """A run in full, by its id or by the end or beginning of it. Raises `UsageError`."""
    from flowmason.assembly.resuming import the_one
    from flowmason.remote.client import RemoteError

    try:
        found: dict[str, Any] = client.get(f"/runs/{quote(wanted, safe='')}")
    except RemoteError as error:
        if error.status not in (404, 422):
            raise
        latest = client.get("/runs", limit=_MOST)["items"]
        found = client.get(f"/runs/{quote(the_one(wanted, [each['id'] for each in latest]), safe='')}")
    return found


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run of a Studio's list, in the shape that a run of this machine has in ours."""
    summary: dict[str, Any] = {"stages": run["counts"]}
    if run["usage"]["calls"]:
        summary["usage"] = run["usage"]
    if run["duration_ms"] is not None:
        summary["duration_ms"] = run["duration_ms"]
    if run["error"] is not None:
        summary["failure"] = run["error"]
    names = ("pipeline", "version", "status", "created_at", "updated_at", "parent")
    return {"run_id": run["id"], **{name: run[name] for name in names}, "summary": summary}


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    from flowmason.assembly.outcome import moment

    names = ("attempt", "message", "fields")
    return {
        "at": moment(line["at"]),
        "level": line["level"],
        "stage": line["path"],
        **{name: line[name] for name in names},
    }
