"""The journal as one process of several sees it: a store behind a thread and a wire, late and at times away."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

from flowmason.errors import JournalError
from flowmason.journal import Journal
from flowmason.journal_memory import MemoryJournal

_WRITES = frozenset(
    {
        "submit",
        "begin",
        "append",
        "put_plan",
        "post",
        "enlist",
        "beat",
        "bury",
        "retire",
        "claim",
        "add_side",
        "take_slice",
    }
    | {"return_slices", "hold_call", "end_call", "prune"}
)
_Method = Callable[..., Awaitable[Any]]


class Office:
    """One process's way to the journal that all share.

    What it writes takes effect in the order in which it was handed in, and is acknowledged in that order: one thread
    writes, over one connection. What it reads may be old when it arrives, and overtake what is being written. What was
    handed in is written even if nobody waits for it any more; of a process that is killed what is on its way may still
    arrive, long after. Now and then the store refuses, and seldom nobody knows whether it did.
    """

    def __init__(self, store: MemoryJournal, rng: random.Random | None, outage: tuple[float, float] = (0, 0)) -> None:
        self.store = store
        self._outage = outage
        """From when to when the store is away for everybody (loop time)."""
        self.dead = False
        """The process is gone: it hears nothing more, and what it hands in is lost."""
        self._cut = False
        """Nothing more arrives."""
        self._rng = rng
        self._effects: asyncio.Future[None] | None = None
        self._answers: asyncio.Future[None] | None = None
        """Of the last thing that is being written."""

    @property
    def journal(self) -> Journal:
        """What the process is given."""
        return cast(Journal, self)

    def __getattr__(self, name: str) -> _Method:
        return functools.partial(self._write if name in _WRITES else self._read, getattr(self.store, name))

    def _chance(self, probability: float) -> bool:
        return self._rng is not None and self._rng.random() < probability

    def _refuse(self) -> None:
        begun, over = self._outage
        if begun <= asyncio.get_running_loop().time() < over or self._chance(0.002):
            raise JournalError("the store is away")

    def _lateness(self) -> float | None:
        if self._rng is None or self._rng.random() >= 0.08:
            return None
        return self._rng.choices((0.0, 0.001, 0.05, 0.3, 3.0, 12.0), (30, 30, 30, 20, 2, 0.3))[0]

    async def _read(self, method: _Method, *arguments: Any, **named: Any) -> Any:
        if self.dead:
            raise asyncio.CancelledError
        before, after = self._lateness(), self._lateness()
        if before is not None:
            await asyncio.sleep(before)
        self._refuse()
        found = await method(*arguments, **named)
        if after is not None:
            await asyncio.sleep(after)
        return found

    async def _write(self, method: _Method, *arguments: Any, **named: Any) -> Any:
        if self.dead:
            raise asyncio.CancelledError
        before, after = self._lateness(), self._lateness()
        if before is None and after is None and self._answers is None:
            return await self._take_effect(method, *arguments, **named)
        loop = asyncio.get_running_loop()
        first = (self._effects, self._answers)
        self._effects, self._answers = effect, answer = loop.create_future(), loop.create_future()
        work = loop.create_task(self._later(before, after, *first, effect, answer, method, arguments, named))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may be gone
        return await asyncio.shield(work)

    async def _later(
        self,
        before: float | None,
        after: float | None,
        effect_of_last: asyncio.Future[None] | None,
        answer_of_last: asyncio.Future[None] | None,
        effect: asyncio.Future[None],
        answer: asyncio.Future[None],
        method: _Method,
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        try:
            try:
                if effect_of_last is not None:
                    await effect_of_last
                if before is not None:
                    await asyncio.sleep(before)
                if self.dead and (self._cut or not self._chance(0.5)):
                    self._cut = True
                    raise asyncio.CancelledError
                found = await self._take_effect(method, *arguments, **named)
            finally:
                _settle(effect)
            if answer_of_last is not None:
                await answer_of_last
            if after is not None:
                await asyncio.sleep(after)
            return found
        finally:
            _settle(answer)
            if self._answers is answer:
                self._effects = self._answers = None

    async def _take_effect(self, method: _Method, *arguments: Any, **named: Any) -> Any:
        self._refuse()
        found = await method(*arguments, **named)
        # Of a claim of which nobody knows whether it was done the store finds out by itself.
        if method.__name__ != "claim" and self._chance(0.0005):
            raise JournalError("the store went away; whether the last commit was done is not known")
        return found


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
