"""Lines in this process, for all its threads and event loops."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from flowmason.limiter.ahead import names, room
from flowmason.limiter.lines import Entry, Finish, Line, Ticket

_TIDY_ABOVE = 1000
"""With more lines than that, those that nobody needs are forgotten."""


class MemoryCallLimiter:
    """A `CallLimiter` in this process alone. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, Line] = {}
        self._waiting: dict[str, dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[Entry]]]] = {}
        self._timers: dict[str, float] = {}
        self._lock = threading.RLock()

    async def enter(self, subject: str, ticket: Ticket) -> Entry:
        """See the port."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Entry] = loop.create_future()
        with self._lock:
            self._line(subject).arrive(ticket, self._clock())
            self._waiting.setdefault(subject, {})[ticket.id] = (loop, future)
            self._look(subject)
        try:
            return await future
        except asyncio.CancelledError:
            with self._lock:
                self._waiting.get(subject, {}).pop(ticket.id, None)
                self._line(subject).withdraw(ticket)
                self._look(subject)
            raise

    def let_in_ahead(self, subject: str, ticket: Ticket, wanted: int) -> int:
        """Let some more places in with a ticket that went in, where there are plenty (`flowmason.limiter.ahead`);
        returns how many."""
        with self._lock:
            line, now = self._line(subject), self._clock()
            count = room(wanted, line.free(ticket, now))
            for name in names(ticket, count):
                line.let_in(msgspec.structs.replace(ticket, id=name), now)
            return count

    async def leave(self, subject: str, ticket: Ticket, finish: Finish) -> None:
        """See the port."""
        with self._lock:
            self._line(subject).leave(ticket, finish, self._clock())
            self._look(subject)

    def beat(self, holder: str, held: Iterable[tuple[str, Ticket]]) -> None:
        """A process lives, and has these tickets that were let in."""
        now = self._clock()
        with self._lock:
            for subject, ticket in held:
                self._line(subject).beat(holder, now, (ticket,))
            for line in self._lines.values():
                line.beat(holder, now)

    @property
    def busy(self) -> bool:
        """Whether anybody is in a line, or a line remembers something."""
        with self._lock:
            now = self._clock()
            return not all(line.idle(now) for line in self._lines.values())

    def _line(self, subject: str) -> Line:
        found = self._lines.get(subject)
        if found is None:
            now = self._clock()
            if len(self._lines) >= _TIDY_ABOVE:
                for name in [name for name, line in self._lines.items() if line.idle(now)]:
                    del self._lines[name]
            found = self._lines[subject] = Line()
        return found

    def _look(self, subject: str) -> None:
        """Tell who has been let in or turned away, and look again when it is time."""
        waiting = self._waiting.setdefault(subject, {})
        settled, again = self._line(subject).look(self._clock())
        for ticket_id, entry in settled.items():
            loop, future = waiting.pop(ticket_id, (None, None))
            if loop is not None and future is not None:
                _soon(loop, _settle, future, entry)
        if again is None or math.isinf(again) or not waiting:
            if not waiting:
                del self._waiting[subject]
            return
        if self._timers.get(subject, math.inf) <= again:
            return
        for loop, _ in waiting.values():
            if _soon(loop, self._arm, loop, subject, again):
                self._timers[subject] = again
                return

    def _arm(self, loop: asyncio.AbstractEventLoop, subject: str, at: float) -> None:
        loop.call_later(max(0.0, at - self._clock()) + 0.001, self._due, subject, at)

    def _due(self, subject: str, at: float) -> None:
        with self._lock:
            if self._timers.get(subject) == at:
                del self._timers[subject]
            if subject in self._waiting:
                self._look(subject)


def _settle(future: asyncio.Future[Entry], entry: Entry) -> None:
    if not future.done():
        future.set_result(entry)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> bool:
    """Call on a loop that may be another thread's; False: it is closed."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        return False
    return True
