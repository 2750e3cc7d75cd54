"""One WebSocket of somebody who follows runs and steers them. It keeps cursors, and no events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from contextlib import aclosing

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from flowmason.errors import Code, FlowMasonError, UsageError
from flowmason.ids import RunId
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.credentials import new_id
from flowmason.studio.identity.permissions import Permission
from flowmason_serve_apps.studio import socket_messages as sm
from flowmason_serve_apps.studio import steering
from flowmason_serve_apps.studio.details import no_run
from flowmason_serve_apps.studio.guard.callers import require
from flowmason_serve_apps.studio.older import Older
from flowmason_serve_apps.studio.services import Services
from flowmason_serve_apps.studio.wire import Item, Resets

log = logging.getLogger("flowmason.studio")

SLOW_S = 30.0
"""A reader that takes nothing for so long is let go; it comes back with the last seq that it saw."""
RENEW_S = 60.0
"""How often it is asked whether the caller still is who they were."""
BELIEVED_S = 2.0
"""A command is answered by what was asked no longer ago."""
MOST_RUNS = 50
"""Runs that one socket follows at once."""
PER_S, BURST = 20.0, 60.0
"""Messages of a client."""
NOT_TEXT, TOO_BIG, BROKEN = 1003, 1009, 1011
OVER, SLOW, TOO_MANY = 4401, 4408, 4429
"""Close codes: the credential is over; the reader is too slow; too many messages."""
_ORDERS: dict[type[sm.Message], tuple[str, Permission]] = {
    sm.Pause: ("pause", Permission.RUNS_CONTROL),
    sm.Resume: ("resume", Permission.RUNS_CONTROL),
    sm.Stop: ("cancel", Permission.RUNS_CONTROL),
    sm.Continue: ("continue", Permission.DEBUG_CONTROL),
    sm.Step: ("step", Permission.DEBUG_CONTROL),
}


class _Closed(Exception):
    """The socket ends, by us."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class RunSocket:
    """Serves one accepted socket until either side closes it."""

    def __init__(
        self,
        websocket: WebSocket,
        services: Services,
        caller: Caller,
        *,
        older: bool = False,
        slow_s: float = SLOW_S,
        renew_s: float | None = None,
    ) -> None:
        self._websocket = websocket
        self._services = services
        self._caller = caller
        self._older = older
        self._slow_s, self._renew_s = slow_s, RENEW_S if renew_s is None else renew_s
        self._asked = time.monotonic()
        self._following: dict[str, asyncio.Task[None]] = {}
        self._sending = asyncio.Lock()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Read and answer until the end."""
        own = [asyncio.create_task(self._guarded(work)) for work in (self._listen, self._renew)]
        code, reason = 1000, ""
        try:
            await asyncio.shield(self._over)
        except _Closed as closed:
            code, reason = closed.code, closed.reason
        except WebSocketDisconnect:
            code = 0
        finally:
            tasks = [*own, *self._following.values()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if not self._over.cancel():
                self._over.exception()  # looked at, even where we were cancelled ourselves
        if code:
            with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect, OSError):
                await asyncio.wait_for(self._websocket.close(code, reason[:120]), 1.0)

    async def _guarded(self, work: object) -> None:
        """Whatever ends one part ends the socket."""
        try:
            await work()  # type: ignore[operator]
        except Exception as error:
            if not isinstance(error, _Closed | WebSocketDisconnect):
                log.exception("a socket of runs failed")
                error = _Closed(BROKEN, "it failed here; come back with the last seq that you saw")
            if not self._over.done():
                self._over.set_exception(error)

    async def _listen(self) -> None:
        await self._send(sm.answer("connected", client_id=new_id("client")))
        room, at = BURST, time.monotonic()
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1000)
            now = time.monotonic()
            room, at = min(BURST, room + (now - at) * PER_S) - 1, now
            if room < 0:
                raise _Closed(TOO_MANY, f"more than {PER_S:g} messages a second")
            text = message.get("text")
            if text is None:
                raise _Closed(NOT_TEXT, "messages are JSON texts")
            if len(text) > sm.MOST_BYTES or len(text.encode("utf-8", "replace")) > sm.MOST_BYTES:
                raise _Closed(TOO_BIG, f"a message has at most {sm.MOST_BYTES} bytes")
            await self._take(text)

    async def _take(self, text: str) -> None:
        asked: sm.Known | None = None
        try:
            asked = sm.read(text)
            if isinstance(asked, sm.Subscribe):
                await self._subscribe(asked)
            elif isinstance(asked, sm.Unsubscribe):
                await self._unsubscribe(asked)
            elif isinstance(asked, sm.Ping):
                await self._send(sm.answer("pong", asked))
            else:
                await self._order(asked)
        except FlowMasonError as error:
            run = {"run_id": asked.run_id} if asked is not None and asked.run_id is not None else {}
            await self._send(sm.failed(error.failure, asked, **run))

    async def _subscribe(self, asked: sm.Subscribe) -> None:
        if asked.run_id in self._following:
            raise UsageError(f"run {asked.run_id} is followed already", code=Code.CONFLICT)
        if len(self._following) >= MOST_RUNS:
            raise UsageError(f"a socket follows at most {MOST_RUNS} runs", code=Code.RESOURCE_EXHAUSTED)
        row = await self._services.runs.org(self._caller.org_id).row(RunId(asked.run_id))
        if row is None:
            raise no_run(asked.run_id)
        if asked.after > row.seq:
            raise UsageError(f"run {asked.run_id} has {row.seq} events; it cannot be followed from {asked.after}")
        await self._send(
            sm.answer("subscribed", asked, run_id=asked.run_id, after=asked.after, seq=row.seq, status=row.status)
        )
        self._following[asked.run_id] = asyncio.create_task(self._guarded(lambda: self._follow(asked)))

    async def _unsubscribe(self, asked: sm.Unsubscribe) -> None:
        task = self._following.pop(asked.run_id, None)
        if task is None:
            raise UsageError(f"run {asked.run_id} is not followed here", code=Code.NOT_FOUND)
        task.cancel()
        await asyncio.wait([task])
        await self._send(sm.answer("unsubscribed", asked, run_id=asked.run_id))

    async def _order(self, asked: sm.Known) -> None:
        assert asked.run_id is not None
        name, permission = _ORDERS[type(asked)]
        if time.monotonic() - self._asked > BELIEVED_S:
            await self._renewed()
        require(self._caller, permission)
        arguments = {key: getattr(asked, key) for key in ("reason", "kind") if hasattr(asked, key)}
        await steering.order(self._services, self._caller, asked.run_id, name, **arguments)
        await self._send(sm.answer("accepted", asked, run_id=asked.run_id, command=name))

    async def _follow(self, asked: sm.Subscribe) -> None:
        run_id = RunId(asked.run_id)
        org_id = self._caller.org_id
        following = self._services.live.follow(
            org_id, run_id, after=asked.after, side_after=asked.side_after if asked.side else None
        )
        resets, older, last = Resets(), Older(run_id) if self._older else None, asked.after
        try:
            async with aclosing(following):  # type: ignore[type-var]
                async for item in following:
                    if item is None:
                        continue
                    for text in _words(item, resets, older):
                        await self._send(text)
                    last = last if item.beside else item.number
            row = await self._services.runs.org(org_id).row(run_id)
            text = sm.answer("end", run_id=run_id, seq=last, status=row.status if row is not None else "deleted")
        except FlowMasonError as error:
            text = sm.failed(error.failure, asked, run_id=run_id, after=last)
        # From here on it may be subscribed to again; an unsubscribe that comes now finds nothing.
        self._following.pop(asked.run_id, None)
        await self._send(text)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            await self._renewed()

    async def _renewed(self) -> None:
        asked = time.monotonic()
        try:
            self._caller = await self._services.authenticator.renewed(self._caller)
            require(self._caller, Permission.RUNS_READ)
        except UsageError as error:
            raise _Closed(OVER, error.failure.message) from None
        self._asked = asked

    async def _send(self, text: str) -> None:
        async with self._sending:
            try:
                async with asyncio.timeout(self._slow_s):
                    await self._websocket.send_text(text)
            except TimeoutError:
                log.info("a reader of a socket took nothing for %g s and was let go", self._slow_s)
                raise _Closed(SLOW, "too slow; come back with the last seq that you saw") from None
            except (RuntimeError, OSError) as error:  # it went away while we were sending
                raise WebSocketDisconnect from error


def _words(item: Item, resets: Resets, older: Older | None) -> list[str]:
    reset = resets.before(item)
    if older is not None:
        return [*(older.reset(reset) if reset is not None else ()), *older.words(item)]
    return [*([reset.decode()] if reset is not None else ()), sm.event(item)]
