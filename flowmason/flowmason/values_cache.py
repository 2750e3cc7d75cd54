"""What a process keeps of the values that it wrote and read, so that they are not fetched again."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict, deque
from pathlib import Path

from flowmason.policy import LARGE


class Cache:
    """The least recently used values of this process, up to a number of bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._size = 0
        self._items: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            data = self._items.get(key)
            if data is not None:
                self._items.move_to_end(key)
            return data

    def put(self, key: str, data: bytes) -> None:
        if len(data) * 2 > self._budget or len(data) >= LARGE:  # it would push out everything else
            return
        with self._lock:
            self._drop(key)
            self._items[key] = data
            self._size += len(data)
            while self._size > self._budget:
                self._drop(next(iter(self._items)))

    def drop(self, key: str) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: str) -> None:
        data = self._items.pop(key, None)
        if data is not None:
            self._size -= len(data)


class Pages:
    """The large files that this process wrote last and that the system still holds in memory.

    Older ones are given back: the workers that make and read a value keep it themselves, and to write into pages that
    were just given back is several times faster than into new ones.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._size = 0
        self._files: deque[tuple[Path, int]] = deque()
        self._lock = threading.Lock()

    def wrote(self, path: Path, size: int) -> None:
        """A file was written and synced."""
        gone = []
        with self._lock:
            self._files.append((path, size))
            self._size += size
            while self._size > self._budget:
                gone.append(self._files.popleft())
                self._size -= gone[-1][1]
        for old, _ in gone if hasattr(os, "posix_fadvise") else ():
            with contextlib.suppress(OSError):
                handle = os.open(old, os.O_RDONLY)
                try:
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(handle)
