"""Following runs while they go on: one poller per process asks how far they are, whoever listens is woken.

The database is asked once for all runs that somebody follows. What is new is read and encoded once, whoever reads it:
a channel remembers the latest of it, and a reader that is further behind reads pages of the journal at its own pace.
So a slow reader costs a cursor, and no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flowmason.errors import JournalError, UsageError
from flowmason.ids import OrgId, RunId
from flowmason.journal import TERMINAL
from flowmason.journal_sql.tenant import RunStore
from flowmason.values import ValueStore
from flowmason_serve_apps.studio.details import no_run
from flowmason_serve_apps.studio.wire import PAGE, Item, Window, events_page, side_pages

log = logging.getLogger("flowmason.studio")

POLL_S = 0.015
HEARTBEAT_S = 15.0
_LINGER_S = 0.12
"""Lines of a run that ended are stored that much later at most."""
_RETRY_S = 1.0


class Channel:
    """One run that somebody follows."""

    def __init__(self, org_id: OrgId, run_id: RunId, seq: int, status: str) -> None:
        self.org_id, self.run_id = org_id, run_id
        self.seq = seq
        """The last seq that is known to be committed."""
        self.status = status
        self.side: int | None = None
        """The last number of a line beside the journal that was read; None: nobody wants them."""
        self.gone = False
        """Whether the run was deleted."""
        self.followers = 0
        self.events, self.lines = Window(), Window()
        self.reading = asyncio.Lock()
        """Held by the one who reads the newest events for all."""
        self._waiting: asyncio.Future[None] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come, as far as is known."""
        return self.gone or self.status in TERMINAL

    async def changed(self, seq: int, number: int | None = None) -> None:
        """Return once the run is further than that, or is gone."""
        if self.seq > seq or self.gone or (number is not None and self.side is not None and self.side > number):
            return
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._waiting)

    def wake(self) -> None:
        """Wake everybody who waits."""
        if self._waiting is not None:
            self._waiting.set_result(None)
            self._waiting = None


class Live:
    """The channels of a process. Lives on its event loop."""

    def __init__(self, runs: RunStore, values: ValueStore, *, poll_s: float = POLL_S) -> None:
        self._runs = runs
        self._values = values
        self._poll_s = poll_s
        self._channels: dict[tuple[OrgId, RunId], Channel] = {}
        self._polling: asyncio.Task[None] | None = None

    @property
    def followed(self) -> int:
        """How many runs somebody follows."""
        return len(self._channels)

    async def follow(
        self, org_id: OrgId, run_id: RunId, *, after: int = 0, side_after: int | None = None
    ) -> AsyncIterator[Item | None]:
        """The events of a run after a seq, without gap or repetition, to the end of the run.

        With `side_after`, log lines and token deltas after that number too. None is a heartbeat. Raises `UsageError`
        where there is no such run, or it is not as far as `after`.
        """
        async with self.following(org_id, run_id) as channel:
            if after > channel.seq:
                raise UsageError(f"run {run_id} has {channel.seq} events; it cannot be followed from {after}")
            if side_after is not None and channel.side is None:
                channel.side = side_after
                channel.lines.begin(side_after)
            seq, number, lingered = after, side_after, False
            while True:
                items = await self._events_after(channel, seq)
                for item in items:
                    yield item
                    seq = item.number
                if number is not None:
                    lines = await self._lines_after(channel, number)
                    for line in lines:
                        yield line
                        number = line.number
                    items += lines
                if items:
                    continue
                if channel.gone or (channel.over and seq >= channel.seq):
                    if lingered or number is None or channel.gone:
                        return
                    lingered = True
                    await asyncio.sleep(_LINGER_S)
                    await self._look_beside([channel])
                    continue
                try:
                    await asyncio.wait_for(channel.changed(seq, number), HEARTBEAT_S)
                except TimeoutError:
                    yield None

    @asynccontextmanager
    async def following(self, org_id: OrgId, run_id: RunId) -> AsyncIterator[Channel]:
        """Have a run polled. Raises `UsageError` (`NOT_FOUND`)."""
        key = (org_id, run_id)
        channel = self._channels.get(key)
        if channel is None:
            row = await self._runs.org(org_id).row(run_id)
            if row is None:
                raise no_run(run_id)
            channel = self._channels.setdefault(key, Channel(org_id, run_id, row.seq, row.status))
        channel.followers += 1
        if self._polling is None or self._polling.done():
            self._polling = asyncio.get_running_loop().create_task(self._poll(), name="follow runs")
        try:
            yield channel
        finally:
            channel.followers -= 1
            if not channel.followers and self._channels.get(key) is channel:
                del self._channels[key]

    async def close(self) -> None:
        """Stop asking."""
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling

    async def _events_after(self, channel: Channel, seq: int) -> list[Item]:
        if channel.seq <= seq:
            return []
        found = channel.events.after(seq)
        if found is not None:
            return found
        runs = self._runs.org(channel.org_id)
        if channel.seq - seq > PAGE:  # far behind: it reads for itself alone
            return await events_page(runs, self._values, channel.run_id, seq)
        async with channel.reading:
            found = channel.events.after(seq)
            if found is None:
                found = await events_page(runs, self._values, channel.run_id, seq)
                channel.events.take(seq, found)
            return found

    async def _lines_after(self, channel: Channel, number: int) -> list[Item]:
        if channel.side is None or channel.side <= number:
            return []
        found = channel.lines.after(number)
        if found is not None:
            return found
        return (await side_pages(self._runs, [(channel.org_id, channel.run_id, number)]))[0]

    async def _poll(self) -> None:
        while self._channels:
            try:
                await self._look()
                await self._look_beside(list(self._channels.values()))
            except JournalError as error:
                log.warning("how far runs are could not be asked: %s", error)
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(self._poll_s)

    async def _look(self) -> None:
        wanted: dict[OrgId, list[RunId]] = {}
        asked = list(self._channels.values())
        for channel in asked:
            wanted.setdefault(channel.org_id, []).append(channel.run_id)
        found = await self._runs.positions(wanted)
        for channel in asked:
            position = found.get(channel.org_id, {}).get(channel.run_id)
            if position is None:
                channel.gone = True
                channel.wake()
            elif position.seq != channel.seq or position.status != channel.status:
                channel.seq, channel.status = position.seq, position.status
                channel.wake()

    async def _look_beside(self, channels: list[Channel]) -> None:
        asked = [(channel, channel.side) for channel in channels if channel.side is not None]
        pages = await side_pages(self._runs, [(each.org_id, each.run_id, side) for each, side in asked])
        for (channel, before), found in zip(asked, pages, strict=True):
            if found and channel.side == before:
                channel.side = found[-1].number
                channel.lines.take(before, found)
                channel.wake()
