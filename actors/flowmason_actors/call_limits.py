"""The limits of providers for a whole Ray cluster: an actor that keeps the lines, and a worker's way to it.

The actor keeps nothing that would be missed: workers tell the one that follows it what they hold. While it cannot be
reached, each worker process keeps the limits by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import OrderedDict
from importlib.metadata import version
from typing import Any

import msgspec

from flowmason.limiter import AHEAD_S, Ahead, Entry, Finish, MemoryCallLimiter, Ticket, names
from flowmason_actors.conductor_host import NAMESPACE

IDLE_S = 300.0
BEAT_S = 10.0
_TICK_S = 5.0
_GATHERED_S = 0.02
_TRIES = 3
_REMEMBERED = 10_000
AGAIN_S = 10.0
"""Actors that could not be reached are left alone for so long."""

_log = logging.getLogger("flowmason.limits")
_encode = msgspec.msgpack.encode


class Held(msgspec.Struct, frozen=True):
    """A call that was let in."""

    subject: str
    ticket: Ticket


class Left(msgspec.Struct, frozen=True):
    """A call that is over."""

    subject: str
    ticket: Ticket
    finish: Finish


class CallLimits:
    """Keeps the lines. The class of a Ray actor; it works without Ray, too. Ends itself after `idle_s` without use."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._limiter = MemoryCallLimiter()
        self._entering: dict[str, asyncio.Task[Any]] = {}
        self._over: OrderedDict[str, None] = OrderedDict()
        """Calls that ended lately: Ray promises no order, and a beat that was sent before may come after."""
        self._idle_s = idle_s
        self._used = time.monotonic()
        self._ticker: asyncio.Task[None] | None = None

    async def enter(self, subject: str, ticket: bytes, ahead: int = 0) -> bytes:
        """`CallLimiter.enter`; both as MessagePack. So many more places are let in `ahead`, where there are plenty."""
        self._use()
        found = msgspec.msgpack.decode(ticket, type=Ticket)
        task = asyncio.current_task()
        assert task is not None
        self._entering[found.id] = task
        try:
            entry = await self._limiter.enter(subject, found)
            if ahead and entry.refused is None:
                entry = Entry(ahead=self._limiter.let_in_ahead(subject, found, ahead))
            return _encode(entry)
        finally:
            self._entering.pop(found.id, None)

    async def leave(self, subject: str, ticket: bytes, finish: bytes) -> None:
        """`CallLimiter.leave`. One that still waits has gone."""
        self._use()
        found = msgspec.msgpack.decode(ticket, type=Ticket)
        self._ended(found)
        task = self._entering.get(found.id)
        if task is not None:
            task.cancel()
            return
        await self._limiter.leave(subject, found, msgspec.msgpack.decode(finish, type=Finish))

    async def leave_all(self, left: bytes) -> None:
        """`leave` of several (`Left`) that were let in."""
        self._use()
        for each in msgspec.msgpack.decode(left, type=tuple[Left, ...]):
            self._ended(each.ticket)
            await self._limiter.leave(each.subject, each.ticket, each.finish)

    async def beat(self, holder: str, held: bytes) -> int:
        """A worker lives, and has these calls under way (`Held`). Returns the pid."""
        self._use()
        found = msgspec.msgpack.decode(held, type=tuple[Held, ...])
        self._limiter.beat(holder, [(each.subject, each.ticket) for each in found if each.ticket.id not in self._over])
        return os.getpid()

    def _ended(self, ticket: Ticket) -> None:
        self._over[ticket.id] = None
        if len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    def _use(self) -> None:
        self._used = time.monotonic()
        if self._ticker is None and self._idle_s:
            self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if time.monotonic() - self._used > self._idle_s and not self._limiter.busy:
                os._exit(0)


class SharedCallLimiter:
    """The `CallLimiter` of a worker on Ray: one line for the whole cluster. Without Ray, or while the actor cannot be
    reached, one for this process."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name or f"flowmason-limits-{version('flowmason')}"
        self._holder = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._alone = MemoryCallLimiter()
        self._held: dict[str, Held] = {}
        self._ahead = Ahead()
        self._tidying: asyncio.TimerHandle | None = None
        self._left: list[Left] = []
        self.asked = 0
        """How often the actor was asked to let a call in."""
        self._waiting: set[str] = set()
        self._let_in_here: set[str] = set()
        self._actor: Any = None
        self._away_until = float("-inf")
        self._beating: asyncio.Task[None] | None = None

    async def enter(self, subject: str, ticket: Ticket) -> Entry:
        """See the port."""
        key, begun = (subject, ticket.group, ticket.terms), time.monotonic()
        place = self._ahead.take(key, begun)
        if place is not None:
            self._held[ticket.id] = Held(subject, place)
            return Entry()
        mine = msgspec.structs.replace(ticket, holder=self._holder)
        self._waiting.add(ticket.id)
        try:
            entry = await self._ask(subject, mine, self._ahead.wanted(key, begun))
        finally:
            self._waiting.discard(ticket.id)
        if entry is None:
            self._let_in_here.add(ticket.id)
            return await self._alone.enter(subject, ticket)
        if entry.refused is None:
            self._held[ticket.id] = Held(subject, mine)
        if entry.ahead:
            more = [msgspec.structs.replace(mine, id=name) for name in names(mine, entry.ahead)]
            self._ahead.put(key, more, begun)
            self._tidy_later()
        return entry

    async def leave(self, subject: str, ticket: Ticket, finish: Finish) -> None:
        """See the port. Nobody waits for the answer."""
        if ticket.id in self._let_in_here:
            self._let_in_here.discard(ticket.id)
            await self._alone.leave(subject, ticket, finish)
            return
        held = self._held.pop(ticket.id, None)
        mine = held.ticket if held else msgspec.structs.replace(ticket, holder=self._holder)
        if not finish.reached or finish.come_back_s is not None:
            self._tell(subject, mine, finish)
            self._give_back(subject)
        elif mine.id == ticket.id:
            self._tell(subject, mine, finish)
        else:  # there were plenty of places: nobody waits for this one
            if not self._left:
                asyncio.get_running_loop().call_later(_GATHERED_S, self._tell_left)
            self._left.append(Left(subject, mine, finish))

    def _tell_left(self) -> None:
        left, self._left = self._left, []
        if self._actor is not None:
            self._actor.leave_all.remote(_encode(tuple(left)))

    def _tidy_later(self) -> None:
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(AHEAD_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        self._give_back()
        if self._ahead.free:
            self._tidy_later()

    def _give_back(self, subject: str | None = None) -> None:
        """Places that nobody has taken in time, or all those of a subject."""
        for each, ticket in self._ahead.over(time.monotonic(), subject):
            self._tell(each, ticket, Finish(tokens=0))

    async def _ask(self, subject: str, ticket: Ticket, ahead: int) -> Entry | None:
        import ray

        if not ray.is_initialized() or time.monotonic() < self._away_until:
            return None
        for attempt in range(_TRIES):
            try:
                actor = await self._reach()
                self._keep_beating()
                self.asked += 1
                answer = await actor.enter.remote(subject, _encode(ticket), ahead)
                return msgspec.msgpack.decode(answer, type=Entry)
            except asyncio.CancelledError:
                self._tell(subject, ticket, Finish(tokens=0))
                raise
            except ray.exceptions.RayError as error:
                self._actor = None
                _log.warning(
                    "the limiter of the cluster does not answer (try %d): %s", attempt + 1, type(error).__name__
                )
                await asyncio.sleep(0.2 * attempt)
        self._away_until = time.monotonic() + AGAIN_S
        return None

    def _tell(self, subject: str, ticket: Ticket, finish: Finish) -> None:
        if self._actor is not None:
            self._actor.leave.remote(subject, _encode(ticket), _encode(finish))

    async def _reach(self) -> Any:
        """The actor, started by whoever needs it first. A new one hears what is under way before anything else."""
        if self._actor is None:
            actor = await asyncio.to_thread(self._find)
            told = actor.beat.remote(self._holder, self._under_way())
            # From here on, and not once it has answered: what ends meanwhile must be told as well.
            self._actor = actor
            await told
            return actor
        return self._actor

    def _find(self) -> Any:
        import ray

        remote: Any = ray.remote(CallLimits)
        return remote.options(
            name=self._name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=100_000,
        ).remote()

    def _under_way(self) -> bytes:
        return _encode((*self._held.values(), *(Held(subject, ticket) for subject, ticket in self._ahead.free)))

    def _keep_beating(self) -> None:
        if self._beating is None or self._beating.done():
            self._beating = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        import ray

        while self._held or self._waiting:
            await asyncio.sleep(BEAT_S)
            try:
                await (await self._reach()).beat.remote(self._holder, self._under_way())
            except ray.exceptions.RayError:
                self._actor = None
