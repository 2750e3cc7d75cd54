"""What every event is."""

from __future__ import annotations

from typing import Any

import msgspec


class EventStruct(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    """A struct whose `kind` is its tag."""


class Foreign(EventStruct, frozen=True, tag="foreign"):
    """An event of a kind that this FlowMason does not know."""

    name: str
    data: dict[str, Any] = {}
