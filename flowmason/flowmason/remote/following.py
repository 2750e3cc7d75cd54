"""A run in a Studio, followed live: the events of its journal as the Studio sends them, each exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec

from flowmason.errors import EngineUnavailableError
from flowmason.remote.client import StudioClient, refusal, unreachable

TRIES = 8
"""How often in a row a broken connection is made anew before the Studio counts as gone."""
_LONGEST_WAIT_S = 10.0
_LATER = frozenset({429, 502, 503, 504})
"""A Studio that is starting, a proxy whose replica went away, too many at once: asked again."""
_SILENT_S = 60.0
"""A Studio sends a sign of life every few seconds; one that is silent for so long is asked anew."""


class Told(msgspec.Struct, frozen=True):
    """One message of a stream."""

    kind: str
    """`event` for one of the journal, else `log`, `delta`, `reset`."""
    data: dict[str, Any]


def follow(client: StudioClient, run_id: str, *, after: int = 0, side: bool = True) -> Iterator[Told]:
    """The run's messages to its end, from after a seq. A connection that breaks is made anew where it broke.

    Raises `EngineUnavailableError` once the Studio has been gone for about a minute, and what it refuses.
    """
    side_after, failures = 0, 0
    while True:
        try:
            for told in _once(client, run_id, after, side_after if side else None):
                failures = 0
                if told is None:
                    return
                if told.kind == "event":
                    after = told.data["seq"]
                elif "number" in told.data:
                    side_after = max(side_after, told.data["number"])
                yield told
        except (httpx2.TransportError, EngineUnavailableError) as error:
            failures += 1
            if failures > TRIES:
                raise unreachable(client.url, error) from error
            time.sleep(min(_LONGEST_WAIT_S, 0.2 * 2**failures))


async def live(client: StudioClient, run_id: str, *, side: bool = True) -> AsyncIterator[list[Told]]:
    """`follow` from the beginning, for an event loop: what has come by then, together.

    It is read in a thread of its own, which nobody waits for: a reader may leave at any time. Raises as `follow` does.
    """
    loop = asyncio.get_running_loop()
    come: asyncio.Queue[Told | BaseException | None] = asyncio.Queue()
    left = threading.Event()

    def read() -> None:
        end: BaseException | None = None
        try:
            for told in follow(client, run_id, side=side):
                if left.is_set():
                    return
                loop.call_soon_threadsafe(come.put_nowait, told)
        except Exception as error:
            end = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(come.put_nowait, end)

    threading.Thread(target=read, name=f"follow {run_id}", daemon=True).start()
    try:
        while True:
            parts = [await come.get()]
            while not come.empty():
                parts.append(come.get_nowait())
            found = [part for part in parts if isinstance(part, Told)]
            if found:
                yield found
            if isinstance(parts[-1], BaseException):
                raise parts[-1]
            if parts[-1] is None:
                return
    finally:
        left.set()


def _once(client: StudioClient, run_id: str, after: int, side_after: int | None) -> Iterator[Told | None]:
    """One connection; the last item is None where the run's end was told of."""
    query: dict[str, Any] = {"after": after, "side": "false"}
    if side_after is not None:
        query |= {"side": "true", "side_after": side_after}
    path = f"/runs/{quote(run_id, safe='')}/stream"
    timeout = httpx2.Timeout(_SILENT_S, connect=5.0)
    with client.streamed(path, query=query, timeout=timeout) as answer:
        if answer.status_code in _LATER:
            raise EngineUnavailableError(f"the Studio answered {answer.status_code}")
        if answer.status_code >= 300:
            answer.read()
            raise refusal(answer)
        kind, data = "event", ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and data:
                if kind == "end":
                    yield None
                    return
                yield Told(kind, msgspec.json.decode(data))
                kind, data = "event", ""
    # Closed without an end: a replica that went away.
    raise EngineUnavailableError("the stream ended before the run did")
