"""What is kept of one run in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from flowmason.event import Event, encode_events
from flowmason.ids import StagePath
from flowmason.journal import RunRow, mentioned_digests
from flowmason.report import Delta, LogLine

_encode = msgspec.msgpack.Encoder().encode


class Run:
    """One run: its row (without the summary), its frames, its inbox and its side lines."""

    def __init__(self, row: RunRow) -> None:
        self.bare = row
        self.summary = b"{}"
        self.frames: list[tuple[int, int, int, str, bytes]] = []
        """(first seq, last seq, at, by, encoded events)."""
        self.mentioned: set[str] = set()
        self.waiting: dict[str, tuple[int, bytes]] = {}
        self.known_commands: set[str] = set()
        self.logs: list[tuple[int, bytes]] = []
        self.deltas: list[tuple[int, bytes]] = []
        self.side_numbers: set[tuple[str, StagePath, int, int]] = set()

    def row(self) -> RunRow:
        return msgspec.structs.replace(self.bare, summary=msgspec.json.decode(self.summary))

    def change(self, **fields: Any) -> None:
        self.bare = msgspec.structs.replace(self.bare, **fields)

    def add_frame(self, at: int, by: str, events: tuple[Event, ...]) -> None:
        data = encode_events(events)
        first, last = self.bare.seq + 1, self.bare.seq + len(events)
        self.frames.append((first, last, at, by, data))
        self.mentioned |= mentioned_digests(data)
        self.change(seq=last)

    def add_side(
        self, kept: list[tuple[int, bytes]], items: Sequence[LogLine | Delta], number: Callable[[], int]
    ) -> None:
        for item in items:
            key = (type(item).__name__, item.path, item.attempt, item.n)
            if key not in self.side_numbers:
                self.side_numbers.add(key)
                kept.append((number(), _encode(item)))


def rank(run: Run) -> tuple[bool, int, int, str]:
    """The order inside an org."""
    row = run.bare
    return row.status == "queued", -row.priority, row.created_at, row.run_id


def wants_claiming(run: Run, now: int) -> bool:
    """Whether a conductor should take the run up."""
    row = run.bare
    if row.owner is not None:
        return False
    if run.waiting:
        return True
    if row.wake_at is not None:
        return row.wake_at <= now
    return row.status in ("queued", "running")
