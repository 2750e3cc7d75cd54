"""A run's journal: in pages, and live as Server-Sent Events."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.types import Receive, Scope, Send

from flowmason.errors import UsageError
from flowmason.ids import RunId
from flowmason.journal import TERMINAL
from flowmason_serve_apps.studio.details import no_run
from flowmason_serve_apps.studio.models.events import EventPage
from flowmason_serve_apps.studio.routes.parts import Given, Limit, RunReader, json_response
from flowmason_serve_apps.studio.routes.runs import Run
from flowmason_serve_apps.studio.wire import Item, Resets, events_page, side_pages

log = logging.getLogger("flowmason.studio")

router = APIRouter(tags=["streams"])
SLOW_S = 30.0
"""A reader that takes nothing for so long is let go; it can come back with the last id that it saw."""
After = Annotated[int, Query(ge=0, le=2**53, description="Events after this seq.")]
_PLACE = re.compile(r"([0-9]{1,16})(?:\.([0-9]{1,16}))?")
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/runs/{run_id}/events", operation_id="runs_events", response_model=EventPage)
async def events(services: Given, caller: RunReader, run_id: Run, after: After = 0, limit: Limit = 100) -> Response:
    """Events of a run's journal, in order."""
    runs = services.runs.org(caller.org_id)
    found = await events_page(runs, services.values, RunId(run_id), after, limit + 1)
    if not found and await runs.row(RunId(run_id)) is None:
        raise no_run(run_id)
    more = str(found[limit - 1].number).encode() if len(found) > limit else None
    listed = b",".join(item.data for item in found[:limit])
    cursor = b'"' + more + b'"' if more else b"null"
    return json_response(b'{"items":[' + listed + b'],"next_cursor":' + cursor + b"}")


@router.get(
    "/runs/{run_id}/stream",
    operation_id="runs_stream",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The run, live."},
        204: {"description": "The run has ended, and Last-Event-ID is its last event: do not come back."},
    },
)
async def stream(
    services: Given,
    caller: RunReader,
    run_id: Run,
    after: After = 0,
    side_after: Annotated[int, Query(ge=0, le=2**53, description="Lines and deltas after this number.")] = 0,
    side: Annotated[bool, Query(description="Whether log lines and token deltas are wanted.")] = True,
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> Response:
    """A run's journal as Server-Sent Events, to its end: `id` is the seq, `data` the event.

    Beside it `log` and `delta` events, whose `id` is `seq.number`, `reset` events, comments as heartbeats, and a last
    event `end`. With Last-Event-ID (or `after` and `side_after`) it goes on where the reader was, and repeats nothing.
    """
    place = _PLACE.fullmatch(last_event_id or "0")
    if place is None:
        raise UsageError(f"Last-Event-ID {last_event_id!r} is no place in the stream of a run")
    after, side_after = max(after, int(place[1])), max(side_after, int(place[2] or 0))
    row = await services.runs.org(caller.org_id).row(RunId(run_id))
    if row is None:
        raise no_run(run_id)
    if after > row.seq:
        raise UsageError(f"run {run_id} has {row.seq} events; it cannot be followed from {after}")
    if last_event_id and row.status in TERMINAL and after == row.seq:
        rest = (
            await side_pages(services.runs, [(caller.org_id, row.run_id, side_after)], 1) if side and place[2] else []
        )
        if not any(rest):
            return Response(status_code=204)
    following = services.live.follow(caller.org_id, row.run_id, after=after, side_after=side_after if side else None)
    return EventStream(_lines(following, after, side_after if side else None))


async def _lines(following: AsyncIterator[Item | None], seq: int, number: int | None) -> AsyncIterator[bytes]:
    """`seq` and `number` are where the reader is: of the journal, and of the lines beside it (None: it wants none)."""
    resets = Resets()
    async with aclosing(following):  # type: ignore[type-var]
        async for item in following:
            if item is None:
                yield b": still here\n\n"
            elif item.beside:
                reset = resets.before(item)
                if reset is not None:
                    yield b"event: reset\ndata: " + reset + b"\n\n"
                number = item.number
                yield b"event: %b\nid: %d.%d\ndata: %b\n\n" % (item.kind.encode(), seq, number, item.data)
            else:
                seq = item.number
                yield b"id: %d\ndata: %b\n\n" % (seq, item.data)
                if number is not None:
                    # An id without data is no event, but readers remember it: where they are beside the journal, too.
                    yield b"id: %d.%d\n\n" % (seq, number)
    yield b'event: end\ndata: {"seq":%d}\n\n' % seq


class EventStream(Response):
    """Sends chunks as they come; ends when the reader goes away, or takes nothing for `SLOW_S`."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes], *, slow_s: float = SLOW_S) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._chunks = chunks
        self._slow_s = slow_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._chunks):  # type: ignore[type-var]
            async for chunk in self._chunks:
                message: Any = {"type": "http.response.body", "body": chunk, "more_body": True}
                try:
                    await asyncio.wait_for(send(message), self._slow_s)
                except TimeoutError:
                    log.info("a reader of a stream took nothing for %g s and was let go", self._slow_s)
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
