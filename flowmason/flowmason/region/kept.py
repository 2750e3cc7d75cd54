"""The large values that this process made or read last, as plain data: not read, verified and decoded again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from flowmason.ids import Digest, OrgId

KEPT_BYTES = 192 * 1024 * 1024
"""How much of them a process keeps, over all stores, beside what is still being stored."""
_PARTS = 4096
_DEPTH = 64

Key = tuple[str, OrgId, Digest]
"""Where the store lies, whose value it is, and its digest."""


class Unsharable(Exception):
    """Data that cannot be shared between readers, or not cheaply."""


def share(data: Any) -> Any:
    """A copy of plain data as it would be decoded, with texts and bytes shared and no list or object shared.

    Raises `Unsharable` where that is more work than to decode it.
    """
    copied, _ = _share(data, _PARTS, 0)
    return copied


def _share(data: Any, left: int, depth: int) -> tuple[Any, int]:
    if left <= 0 or depth > _DEPTH:
        raise Unsharable
    kind = type(data)
    if kind in (bytes, str, int, float, bool) or data is None:
        return data, left - 1
    left -= 1
    if kind is dict:
        # Whatever order the maker had: objects are written, and so read, with sorted keys.
        made = {}
        for key in sorted(data) if all(type(key) is str for key in data) else _refuse():
            made[key], left = _share(data[key], left, depth + 1)
        return made, left
    if kind is list or kind is tuple:
        items = []
        for item in data:
            found, left = _share(item, left, depth + 1)
            items.append(found)
        return items, left
    raise Unsharable


def _refuse() -> list[str]:
    raise Unsharable


class Kept:
    """Values by key, the least recently used out first, up to a number of bytes. Safe to use from several threads."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._items: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        self._pinned: dict[Key, tuple[Any, int]] = {}
        self._lock = threading.Lock()
        self.size = 0
        """Bytes that are kept, without those that are pinned only."""

    def get(self, key: Key) -> Any | None:
        """What is kept under `key`, which nobody may change; None where nothing is."""
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
            else:
                found = self._pinned.get(key)
            return None if found is None else found[0]

    def put(self, key: Key, item: Any, size: int) -> None:
        """Keep it for a while; what is larger than half of the budget is not."""
        if size * 2 > self._budget:
            return
        with self._lock:
            old = self._items.pop(key, None)
            self.size += size - (old[1] if old is not None else 0)
            self._items[key] = item, size
            while self.size > self._budget:
                _, (_, dropped) = self._items.popitem(last=False)
                self.size -= dropped

    def pin(self, key: Key, item: Any, size: int) -> None:
        """Hold it whatever the budget says, until `unpin`: it cannot be read elsewhere yet."""
        with self._lock:
            self._pinned[key] = item, size

    def unpin(self, key: Key) -> None:
        """It can be read from the store now."""
        with self._lock:
            self._pinned.pop(key, None)


kept = Kept(KEPT_BYTES)
"""Of this process."""
