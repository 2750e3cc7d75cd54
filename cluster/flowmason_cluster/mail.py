"""Word to a running task about some of its regions, through Ray's key-value store: Ray can only cancel it whole."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec


def _key(task: str) -> str:
    return f"flowmason/asked/{task}"


def send(task: str, regions: Sequence[str]) -> None:
    """Ask the regions of a task (known by its first one) to end. Replaces what was sent before. Blocks."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_key(task), msgspec.json.encode(list(regions)), overwrite=True)


def read(task: str) -> list[str]:
    """Which regions of a task were asked to end. Blocks; a store that cannot be reached has no mail."""
    from ray.experimental.internal_kv import _internal_kv_get

    with contextlib.suppress(Exception):
        found = _internal_kv_get(_key(task))
        if found:
            return msgspec.json.decode(found, type=list[str])
    return []


def remove(task: str) -> None:
    """The task is over. Blocks."""
    from ray.experimental.internal_kv import _internal_kv_del

    with contextlib.suppress(Exception):
        _internal_kv_del(_key(task))
