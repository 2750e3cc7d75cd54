"""The events of a journal as answers hold them: one model a kind, made from the classes in `flowmason.event`."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model

from flowmason import event, value
from flowmason.errors import Failure
from flowmason.ids import StagePath
from flowmason.usage import Usage
from flowmason_serve_apps.studio.models.common import FailureOut

_VALUES = set(get_args(value.Value))


class Envelope(BaseModel):
    """What every event has."""

    run_id: str
    seq: int = Field(description="From 1, without gaps; the only order there is.")
    at: int = Field(description="Milliseconds since the epoch, for people.")
    by: str = Field(description="Who appended it.")


class UsageNoted(BaseModel):
    """What model calls of one attempt used; money in billionths of a dollar."""

    model_config = ConfigDict(extra="allow")


def _made(kind: type[Any]) -> type[BaseModel]:
    tag = kind.__struct_config__.tag
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {"kind": (Literal[tag] if kind is not event.Foreign else str, ...)}
    for name in kind.__struct_fields__:
        hint = hints[name]
        shown = _shown(hint)
        # Fields that say nothing are left out of an answer.
        fields[name] = (shown if shown is Any else shown | None, None)
    if kind is event.Foreign:
        fields = {"kind": (str, Field(description="A kind that this FlowMason does not know."))}
    doc = (kind.__doc__ or "").strip()
    made: type[BaseModel] = create_model(f"{kind.__name__}Event", __base__=Envelope, __doc__=doc, **fields)
    return made


def _shown(hint: Any) -> Any:
    """The type of a field as it is shown: values are plain data, paths are texts."""
    if hint == StagePath:
        return str
    if hint is Failure:
        return FailureOut
    if hint is Usage:
        return UsageNoted
    arguments = get_args(hint)
    if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
        if _VALUES & set(arguments):
            return Any
        return Union[tuple(None if part is type(None) else _shown(part) for part in arguments)]  # noqa: UP007
    if get_origin(hint) is dict:
        inner = _shown(arguments[1])
        return dict[str, inner]  # type: ignore[valid-type]
    if get_origin(hint) is tuple:
        part = _shown(arguments[0])
        return list[part]  # type: ignore[valid-type]
    if isinstance(hint, type):
        return dict[str, Any] if issubclass(hint, msgspec.Struct) else hint
    return getattr(hint, "__supertype__", Any)  # a NewType


KINDS = tuple(_made(kind) for kind in get_args(event.Event))
Event = Union[KINDS]  # type: ignore[valid-type]  # noqa: UP007


class EventPage(BaseModel):
    """Events in order."""

    items: list[Annotated[Event, Field(union_mode="left_to_right")]]
    next_cursor: str | None = Field(description="`after` of the next part.")
