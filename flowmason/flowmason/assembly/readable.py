"""Recorded events as plain JSON data, for people."""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.assembly.outcome import Shown, plain
from flowmason.errors import FlowMasonError
from flowmason.event import Foreign, Recorded, kind
from flowmason.ids import format_path
from flowmason.value import Concat, Inline, Picked, Record, Sequence, Stored

_VALUES = (Inline, Stored, Record, Sequence, Concat, Picked)


def readable(recorded: Recorded, shown: Shown) -> dict[str, Any]:
    """One event with its envelope; values as data (large ones as their `$blob`), paths as text."""
    event = recorded.event
    fields = event.data if isinstance(event, Foreign) else msgspec.structs.asdict(event)
    return {
        "run_id": recorded.run_id,
        "seq": recorded.seq,
        "at": recorded.at,
        "by": recorded.by,
        "kind": kind(event),
        **{name: _readable(name, item, shown) for name, item in fields.items() if item is not None},
    }


def _readable(name: str, item: Any, shown: Shown) -> Any:
    if name == "path" and isinstance(item, tuple | list):
        return format_path(tuple(item))
    if isinstance(item, _VALUES):
        try:
            return shown.data(item)
        except FlowMasonError as error:
            return {"$error": {"code": error.failure.code, "message": error.failure.message}}
    if isinstance(item, dict):
        return {str(key): _readable("", part, shown) for key, part in item.items()}
    return plain(msgspec.to_builtins(item, builtin_types=(bytes,)))
