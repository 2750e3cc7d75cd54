"""The one thread that writes: group commit, and what happens when a commit goes wrong.

While one commit runs, the next operations collect; they share the next transaction. No timer.
An operation that refuses (a stale epoch) has changed nothing, so the others go on without it. One that
fails half-way takes the transaction with it: then each member is tried alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from flowmason.database.connections import Connection, Database, Trouble
from flowmason.errors import FlowMasonError, JournalError
from flowmason.journal_sql.operation import Operation

BATCH_LIMIT = 512
_TRIES = 5


class _Entry:
    """An operation that somebody waits for."""

    __slots__ = ("error", "future", "loop", "operation")

    def __init__(
        self, operation: Operation, loop: asyncio.AbstractEventLoop | None, future: asyncio.Future[Any] | None
    ) -> None:
        self.operation = operation
        self.loop = loop
        self.future = future
        self.error: Exception | None = None

    def answer(self) -> None:
        """Hand over the outcome; runs on the waiter's loop."""
        if self.future is None or self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.operation.result)


class Writer:
    """Runs operations in shared transactions, in the order in which they came."""

    def __init__(self, database: Database, connection: Connection, patience_s: float) -> None:
        self._database = database
        self._connection: Connection | None = connection
        self._lost: Sequence[Any] = ()
        self._patience_s = patience_s
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        self._closing = threading.Event()
        self._refuses = False
        self._gate = threading.Lock()
        self._phase = "begin"
        self._thread = threading.Thread(target=self._work, name="journal-writer", daemon=True)
        self._thread.start()

    async def write(self, operation: Operation) -> Any:
        """Run an operation; returns when it is committed."""
        loop = asyncio.get_running_loop()
        entry = _Entry(operation, loop, loop.create_future())
        with self._gate:
            if self._refuses:
                raise JournalError("the journal is closed")
            self._queue.put(entry)
        assert entry.future is not None
        return await entry.future

    def close(self) -> None:
        """Finish what was handed in, then let go of the connection. Blocks."""
        with self._gate:
            if not self._refuses:
                self._refuses = True
                self._closing.set()
                self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        last = False
        while not last:
            first = self._queue.get()
            batch = [first] if first is not None else []
            last = first is None
            while not last and len(batch) < BATCH_LIMIT:
                try:
                    entry = self._queue.get_nowait()
                except Empty:
                    break
                if entry is None:
                    last = True
                else:
                    batch.append(entry)
            if batch:
                self._settle(batch)
                _deliver(batch)
        self._drop()

    def _settle(self, batch: list[_Entry], unknown: bool = False) -> None:
        """Commit a batch, or leave each entry with its error.

        `unknown`: a connection died while it committed them, so that they may be there already.
        """
        deadline = time.monotonic() + self._patience_s
        tries = 0
        while True:
            try:
                self._transaction(batch, unknown)
                return
            except Exception as error:
                tries += 1
                trouble = Trouble.FINAL if isinstance(error, FlowMasonError) else self._database.trouble(error)
                if trouble is Trouble.LOST:
                    unknown = unknown or self._phase == "commit"
                    if self._connection is not None and not self._lost:
                        self._lost = self._connection.session
                    self._drop()
                    if time.monotonic() < deadline and not self._closing.wait(min(0.05 * 2**tries, 1.0)):
                        continue
                else:
                    self._roll_back()
                    if len(batch) > 1 and self._phase != "begin":
                        for entry in batch:
                            self._settle([entry], unknown)
                        return
                    if trouble is Trouble.AGAIN and self._phase != "begin" and tries < _TRIES:
                        continue
                self._fail(batch, error, unknown)
                return

    def _transaction(self, batch: list[_Entry], unknown: bool) -> None:
        """One transaction over all entries; see `_settle` for `unknown`."""
        self._phase = "begin"
        if self._connection is None:
            self._connection = self._database.connect()
        connection = self._connection
        if self._lost:
            # Only then is it settled whether that commit was done.
            connection.end_session(self._lost)
            self._lost = ()
        connection.begin(any(entry.operation.durable for entry in batch))
        self._phase = "run"
        for entry in batch:
            entry.error = None
            if unknown and entry.operation.written(connection):
                continue
            before = connection.changed
            try:
                entry.operation.run(connection)
            except FlowMasonError as refusal:
                if connection.changed != before:
                    raise
                entry.error = refusal
        self._phase = "commit"
        connection.commit()

    def _fail(self, batch: list[_Entry], error: Exception, unknown: bool) -> None:
        for entry in batch:
            if isinstance(error, FlowMasonError):
                entry.error = error
                continue
            found = self._database.error(error)
            if unknown:
                found = JournalError(
                    f"{found.failure.message}; whether the last commit was done is not known",
                    retry=found.failure.retry,
                )
            found.__cause__ = error
            entry.error = found

    def _roll_back(self) -> None:
        try:
            if self._connection is not None:
                self._connection.rollback()
        except Exception:
            # A connection that cannot even roll back is of no more use.
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


def _deliver(batch: list[_Entry]) -> None:
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Entry]] = defaultdict(list)
    for entry in batch:
        if entry.loop is not None:
            by_loop[entry.loop].append(entry)
    for loop, entries in by_loop.items():
        # A loop that was closed meanwhile has nobody waiting any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_answer, entries)


def _answer(entries: list[_Entry]) -> None:
    for entry in entries:
        entry.answer()
