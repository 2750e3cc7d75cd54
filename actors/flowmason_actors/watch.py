"""A thread that ends the process when its event loop is blocked, and says which call was to blame."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType

import msgspec

BLOCKED_EXIT = 70
_TICK_S = 0.25
_LAST_WORDS_S = 1.0


class Blame(msgspec.Struct, frozen=True):
    """The last words of a host whose loop was blocked."""

    region: str
    """The call that ran on the loop; empty where that cannot be told."""
    where: str
    """`file:line in function` of the innermost frame."""


def blame_key(actor_id: str) -> str:
    """Where a host leaves its last words in Ray's key-value store."""
    return f"flowmason/blocked/{actor_id}"


class Watch:
    """Watches the loop of the thread that calls `start`.

    Silence is counted in wakings of the watching thread, not in clock time: a process that was stopped, or a
    machine that slept, has not blocked anything.
    """

    def __init__(self, silence_s: float) -> None:
        self._most = max(2, round(silence_s / _TICK_S))
        self._beats = 0
        self._watched = 0

    def start(self) -> None:
        """Begin to watch the calling thread."""
        self._watched = threading.get_ident()
        threading.Thread(target=self._run, daemon=True, name="flowmason-watch").start()

    def beat(self) -> None:
        """The loop lives."""
        self._beats += 1

    def _run(self) -> None:
        seen, silent = -1, 0
        while silent < self._most:
            time.sleep(_TICK_S)
            silent = silent + 1 if self._beats == seen else 0
            seen = self._beats
        blame = find_blame(sys._current_frames().get(self._watched))
        speaker = threading.Thread(target=_leave_word, args=(blame,), daemon=True)
        speaker.start()
        speaker.join(_LAST_WORDS_S)
        os._exit(BLOCKED_EXIT)


def find_blame(innermost: FrameType | None) -> Blame:
    """The call whose code is on the stack, by the region runner's frame further out."""
    from flowmason.region.run import RegionRun

    where = ""
    frame = innermost
    if frame is not None:
        where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    while frame is not None:
        here = frame.f_locals.get("self")
        if isinstance(here, RegionRun):
            return Blame(here.region.id, where)
        frame = frame.f_back
    return Blame("", where)


def _leave_word(blame: Blame) -> None:
    try:
        from ray.experimental.internal_kv import _internal_kv_put

        import ray

        _internal_kv_put(blame_key(ray.get_runtime_context().get_actor_id() or ""), msgspec.json.encode(blame))
    except Exception:
        return  # the death itself is noticed in any case
