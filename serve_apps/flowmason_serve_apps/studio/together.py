"""`Together`: questions that come at the same time are answered at once, as writes share a commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

A = TypeVar("A")
R = TypeVar("R")
MOST = 64
"""Questions that are answered at once."""


class Together:
    """Collects questions by key: while some are being answered, the next ones wait, and share the next answer.

    So an answer is never older than its question. One per process; lives on its event loop.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[tuple[Any, asyncio.Future[Any]]]] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    async def ask(self, key: Hashable, asked: A, answer: Callable[[Sequence[A]], Sequence[R | Exception]]) -> R:
        """What `answer`, called in a thread with this and other questions of the key, says to this one.

        Raises the exception that stands in its place, or that `answer` raises for all.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.setdefault(key, []).append((asked, future))
        if key not in self._tasks:
            self._tasks[key] = loop.create_task(self._work(key, answer))
        return await future

    async def _work(self, key: Hashable, answer: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        try:
            while waiting := self._waiting.pop(key, []):
                batch, later = waiting[:MOST], waiting[MOST:]
                if later:
                    self._waiting[key] = later
                try:
                    answers = await asyncio.to_thread(answer, [asked for asked, _ in batch])
                except Exception as error:
                    answers = [error] * len(batch)
                for (_, future), found in zip(batch, answers, strict=True):
                    if future.done():  # whoever asked is gone
                        continue
                    if isinstance(found, Exception):
                        future.set_exception(found)
                    else:
                        future.set_result(found)
        finally:
            del self._tasks[key]
            for _, future in self._waiting.pop(key, ()):  # the process ends
                future.cancel()
