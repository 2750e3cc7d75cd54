"""Storing beside the work: a few threads of the process write values while the regions go on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

THREADS = 4
UNDER_WAY_BYTES = 64 * 1024 * 1024
"""How much may wait to be stored; whoever makes more waits until it is less."""


class Storing:
    """A few daemon threads that store values."""

    def __init__(self, threads: int = THREADS, limit: int = UNDER_WAY_BYTES) -> None:
        self._threads = threads
        self._limit = limit
        self._started = 0
        self._under_way = 0
        self._queue: queue.SimpleQueue[tuple[Callable[[], None], int, Future[None]]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._bytes = 0

    def begin(self, put: Callable[[], None], size: int) -> Future[None]:
        """Have `put`, which stores `size` bytes, called in one of the threads.

        Blocks while too much waits to be stored. The future is done when the value is stored as durably as it ever
        will be, or has the error that `put` raised.
        """
        future: Future[None] = Future()
        with self._changed:
            while self._bytes and self._bytes + size > self._limit:
                self._changed.wait()
            self._bytes += size
            self._under_way += 1
            if self._started < min(self._threads, self._under_way):
                self._started += 1
                name = f"flowmason-store-{self._started}"
                threading.Thread(target=self._serve, daemon=True, name=name).start()
        self._queue.put((put, size, future))
        return future

    def _serve(self) -> None:
        while True:
            put, size, future = self._queue.get()
            try:
                put()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            # What it held is freed before more is let in.
            del put, future
            with self._changed:
                self._under_way -= 1
                self._bytes -= size
                self._changed.notify_all()


storing = Storing()
"""Of this process."""
