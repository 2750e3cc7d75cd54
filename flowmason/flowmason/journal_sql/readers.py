"""The threads that read, and what happens when the database goes away meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from flowmason.database.connections import Connection, Database, Trouble
from flowmason.errors import FlowMasonError, JournalError

T = TypeVar("T")
_Asked = list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]]
_Answers = list[tuple[asyncio.Future[Any], Any, Exception | None]]


class Readers:
    """Answers questions in `threads` threads, each with a connection of its own. Usable from any number of loops.

    A lost database is waited for up to `patience_s`.
    """

    def __init__(self, database: Database, threads: int, patience_s: float) -> None:
        self._database = database
        self._patience_s = patience_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="journal-reader")
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._asked: dict[asyncio.AbstractEventLoop, _Asked] = {}
        self._closed = False

    async def read(self, ask: Callable[[Connection], T]) -> T:
        """Ask in a reader thread. What is asked in the same turn of a loop travels there, and back, together."""
        if self._closed:
            raise JournalError("the journal is closed")
        loop = asyncio.get_running_loop()
        asked = self._asked.get(loop)
        if asked is None:
            asked = self._asked[loop] = []
            loop.call_soon(self._send, loop)
        future: asyncio.Future[T] = loop.create_future()
        asked.append((ask, future))
        return await future

    def close(self) -> None:
        """Answer what was asked, then let go of the connections. Blocks."""
        self._closed = True
        self._threads.shutdown()
        for connection in self._connections:
            with contextlib.suppress(Exception):
                connection.close()

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        asked = self._asked.pop(loop)
        try:
            self._threads.submit(self._answer_all, loop, asked)
        except RuntimeError:
            _hand_over([(future, None, JournalError("the journal is closed")) for _, future in asked])

    def _answer_all(self, loop: asyncio.AbstractEventLoop, asked: _Asked) -> None:
        answers: _Answers = []
        for ask, future in asked:
            try:
                answers.append((future, self._ask(ask), None))
            except Exception as error:
                answers.append((future, None, error))
        # A loop that was closed meanwhile has nobody waiting any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_hand_over, answers)

    def _ask(self, ask: Callable[[Connection], T]) -> T:
        deadline = time.monotonic() + self._patience_s
        tries = 0
        while True:
            try:
                connection: Connection | None = getattr(self._local, "connection", None)
                if connection is None:
                    connection = self._local.connection = self._database.connect(writing=False)
                    self._connections.append(connection)
                return ask(connection)
            except FlowMasonError:
                raise
            except Exception as error:
                if self._database.trouble(error) is Trouble.FINAL or self._closed or time.monotonic() > deadline:
                    raise self._database.error(error) from error
                tries += 1
                self._forget()
                time.sleep(min(0.05 * 2**tries, 1.0))

    def _forget(self) -> None:
        connection: Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            self._connections.remove(connection)
            with contextlib.suppress(Exception):
                connection.close()


def _hand_over(answers: _Answers) -> None:
    for future, found, error in answers:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found)
