"""Recorded events as plain JSON data, for people; and back, for those who draw a run from what a Studio tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

import msgspec

from flowmason.assembly.outcome import Shown, plain
from flowmason.errors import FlowMasonError
from flowmason.event import Event, Foreign, Recorded, kind
from flowmason.ids import RunId, StagePath, format_path, parse_path
from flowmason.value import Concat, Inline, Picked, Record, Sequence, Stored, encode

_VALUES = (Inline, Stored, Record, Sequence, Concat, Picked)
_ENVELOPE = ("run_id", "seq", "at", "by", "kind")
_RENAMED = {"at": "retry_at"}
"""Fields of events that would stand in the envelope's place: `stage.retried` says when it is tried again."""
_WRITTEN = {shown: field for field, shown in _RENAMED.items()}


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
        **{_RENAMED.get(name, name): _readable(name, item, shown) for name, item in fields.items() if item is not None},
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


def recorded_from(told: Mapping[str, Any]) -> Recorded:
    """The event that `readable` wrote; its values are what was shown of them, inline.

    One that is not known here, by its kind or its shape, comes back as `Foreign`. Raises `KeyError` for no event.
    """
    name = told["kind"]
    fields = {_WRITTEN.get(key, key): item for key, item in told.items() if key not in _ENVELOPE}
    event: Event
    try:
        event = msgspec.convert({"kind": name, **_stored(name, fields)}, Event, strict=False)
    except (msgspec.ValidationError, ValueError):
        event = Foreign(name=name, data=fields)
    return Recorded(RunId(told["run_id"]), told["seq"], told["at"], told["by"], event)


def _stored(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    roles = _ROLES.get(name, {})
    found = dict(fields)
    for field, role in roles.items():
        if field not in fields:
            continue
        if role == "path":
            found[field] = parse_path(fields[field])
        elif role == "value":
            found[field] = _inline(fields[field])
        else:
            found[field] = {key: _inline(part) for key, part in fields[field].items()}
    return found


def _inline(data: Any) -> list[Any]:
    return [Inline.__struct_config__.tag, encode(data)]


def _role(hint: Any) -> str:
    if hint == StagePath:
        return "path"
    if Inline in get_args(hint):
        return "value"
    return "values" if get_origin(hint) is dict and Inline in get_args(get_args(hint)[1]) else ""


_ROLES: dict[str, dict[str, str]] = {
    str(cls.__struct_config__.tag): {
        field.name: role for field in msgspec.structs.fields(cls) if (role := _role(field.type))
    }
    for cls in get_args(Event)
}
"""Of each kind, the fields that `readable` writes in a form of their own."""
