"""What goes over a stream: events of the journal and lines beside it, encoded once, and the latest of them kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from flowmason.assembly.outcome import Shown, plain
from flowmason.assembly.readable import readable
from flowmason.event import Recorded
from flowmason.ids import OrgId, RunId, StagePath, format_path
from flowmason.journal_sql.store import decode_delta, decode_line
from flowmason.journal_sql.tenant import OrgRuns, RunStore
from flowmason.value import Inline
from flowmason.values import ValueStore

PAGE = 500
"""Items that are read at once."""
WINDOW_BYTES = 1024 * 1024
_VALUES = ("output", "input", "items", "value", "result", "variables")
_SIDE = (
    "SELECT number, kind, data FROM side_lines WHERE org_id=? AND run_id=? AND number>?"
    " AND kind IN ('log', 'delta') ORDER BY number LIMIT ?"
)
_encode = msgspec.json.Encoder().encode


class Item(msgspec.Struct, frozen=True):
    """One message of a stream."""

    kind: str
    """An event's kind; `log` or `delta` for what stands beside the journal."""
    number: int
    """An event's seq; a line's number."""
    data: bytes
    """JSON."""
    run_id: RunId
    beside: bool = False
    path: StagePath = ()
    attempt: int = 0
    reset: bool = False
    """Whether what was streamed of the stage before it counts no more."""


class Window:
    """The latest items of a stream, up to so many bytes."""

    def __init__(self, most_bytes: int = WINDOW_BYTES) -> None:
        self._items: deque[Item] = deque()
        self._since = 0
        """Everything after this number is there."""
        self._bytes = 0
        self._most = most_bytes

    def begin(self, since: int) -> None:
        """Forget all; what is taken from now on follows on `since`."""
        self._items.clear()
        self._since, self._bytes = since, 0

    def after(self, number: int) -> list[Item] | None:
        """A page of what follows on `number`; None where that reaches further back than is kept, or is not there."""
        if number < self._since or not self._items or self._items[-1].number <= number:
            return None
        found: list[Item] = []
        for item in reversed(self._items):
            if item.number <= number:
                break
            found.append(item)
        found.reverse()
        return found[:PAGE]

    def take(self, since: int, items: list[Item]) -> None:
        """Take in what follows on `since`; where that is not the end of what is there, begin anew."""
        end = self._items[-1].number if self._items else self._since
        if since != end:
            self.begin(since)
        for item in items:
            self._items.append(item)
            self._bytes += len(item.data)
        while self._bytes > self._most and self._items:
            gone = self._items.popleft()
            self._since, self._bytes = gone.number, self._bytes - len(gone.data)


async def events_page(runs: OrgRuns, values: ValueStore, run_id: RunId, after: int, limit: int = PAGE) -> list[Item]:
    """Events of a run's journal after a seq, encoded."""
    recorded = await runs.read(run_id, after, limit)
    shown = Shown(values, runs.org_id)
    if all(_is_light(each) for each in recorded):
        return [_event(each, shown) for each in recorded]
    return await asyncio.to_thread(lambda: [_event(each, shown) for each in recorded])


async def side_pages(runs: RunStore, wanted: Sequence[tuple[OrgId, RunId, int]], limit: int = PAGE) -> list[list[Item]]:
    """Log lines and token deltas after a number, encoded: a page of each run, in one round trip."""
    answers = await runs.ask([(org_id, _SIDE, (org_id, run_id, after, limit)) for org_id, run_id, after in wanted])
    return [
        [_line(run_id, number, kind, bytes(data)) for number, kind, data in rows]
        for (_, run_id, _), rows in zip(wanted, answers, strict=True)
    ]


def _is_light(recorded: Recorded) -> bool:
    """Whether no value has to be fetched to show the event."""
    event = recorded.event
    return not getattr(event, "columns", None) and all(
        isinstance(getattr(event, name, None), Inline | None) for name in _VALUES
    )


def _event(recorded: Recorded, shown: Shown) -> Item:
    data = readable(recorded, shown)
    return Item(data["kind"], recorded.seq, _encode(data), recorded.run_id)


def _line(run_id: RunId, number: int, kind: str, data: bytes) -> Item:
    if kind == "log":
        line = decode_line(data)
        found: dict[str, Any] = {
            "type": "log", "run_id": run_id, "number": number, "path": format_path(line.path), "attempt": line.attempt,
            "n": line.n, "at": line.at, "level": line.level, "message": line.message, "fields": plain(line.fields),
        }  # fmt: skip
        return Item(kind, number, _encode(found), run_id, True, line.path, line.attempt)
    delta = decode_delta(data)
    found = {
        "type": "delta", "run_id": run_id, "number": number, "path": format_path(delta.path),
        "attempt": delta.attempt, "n": delta.n, "text": delta.text,
    }  # fmt: skip
    return Item(kind, number, _encode(found), run_id, True, delta.path, delta.attempt, delta.reset)


class Resets:
    """Tells when another attempt of a stage begins anew: by its first piece, which says so, and by which attempts this
    reader has met, should that piece have been lost with a conductor."""

    def __init__(self) -> None:
        self._attempts: dict[StagePath, int] = {}

    def before(self, item: Item) -> bytes | None:
        """What is to be sent before a delta: that what was streamed of its stage counts no more; None: nothing."""
        if item.kind != "delta":
            return None
        known = self._attempts.get(item.path, item.attempt)
        self._attempts[item.path] = item.attempt
        if known == item.attempt and not item.reset:
            return None
        reset = {"type": "reset", "run_id": item.run_id, "path": format_path(item.path), "attempt": item.attempt}
        return _encode(reset)
