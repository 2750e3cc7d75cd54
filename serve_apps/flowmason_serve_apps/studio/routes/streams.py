"""A run's journal: in pages, and live as Server-Sent Events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.types import Receive, Scope, Send

from flowmason.errors import UsageError
from flowmason.ids import RunId
from flowmason.journal import TERMINAL
from flowmason_serve_apps.studio.details import no_run
from flowmason_serve_apps.studio.live import Live
from flowmason_serve_apps.studio.models.events import EventPage
from flowmason_serve_apps.studio.routes.parts import Given, Limit, RunReader, json_response
from flowmason_serve_apps.studio.routes.runs import Run
from flowmason_serve_apps.studio.wire import Item, Resets, events_page

log = logging.getLogger("flowmason.studio")

router = APIRouter(tags=["streams"])
SLOW_S = 30.0
"""A reader that takes nothing for so long is let go; it can come back with the last id that it saw."""
After = Annotated[int, Query(ge=0, le=2**53, description="Events after this seq.")]
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
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """A run's journal as Server-Sent Events, to its end: `id` is the seq, `data` the event.

    Beside it `log`, `delta` and `reset` events (without id; deduplicate them by path, attempt and n), comments as
    heartbeats, and a last event `end`. With Last-Event-ID (or `after`) it goes on where the reader was.
    """
    if last_event_id:
        if not last_event_id.isdigit():
            raise UsageError(f"Last-Event-ID {last_event_id!r} is no seq of an event")
        after = max(after, int(last_event_id))
    row = await services.runs.org(caller.org_id).row(RunId(run_id))
    if row is None:
        raise no_run(run_id)
    if after > row.seq:
        raise UsageError(f"run {run_id} has {row.seq} events; it cannot be followed from {after}")
    if last_event_id and row.status in TERMINAL and after == row.seq:
        return Response(status_code=204)
    following = services.live.follow(caller.org_id, row.run_id, after=after, side_after=side_after if side else None)
    return EventStream(_lines(services.live, following))


async def _lines(live: Live, following: AsyncIterator[Item | None]) -> AsyncIterator[bytes]:
    resets = Resets()
    last = 0
    async with aclosing(following):  # type: ignore[type-var]
        async for item in following:
            if item is None:
                yield b": still here\n\n"
            elif item.beside:
                reset = resets.before(item)
                if reset is not None:
                    yield b"event: reset\ndata: " + reset + b"\n\n"
                yield b"event: " + item.kind.encode() + b"\ndata: " + item.data + b"\n\n"
            else:
                last = item.number
                yield b"id: " + str(last).encode() + b"\ndata: " + item.data + b"\n\n"
    yield b'event: end\ndata: {"seq":' + str(last).encode() + b"}\n\n"


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
