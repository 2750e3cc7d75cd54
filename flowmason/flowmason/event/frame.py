"""Events as they are stored and read: in frames, each in its envelope."""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.event.base import Foreign
from flowmason.event.kinds import Event
from flowmason.ids import OrgId, RunId


class Recorded(msgspec.Struct, frozen=True):
    """An event in its envelope, as readers see it."""

    run_id: RunId
    seq: int
    """From 1, without gaps; the only order there is."""
    at: int
    """Milliseconds since the epoch, by the writer's clock: for people, never compared."""
    by: str
    """The conductor (or submitter) that appended it."""
    event: Event


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one commit adds to one run: consecutive events, encoded together."""

    run_id: RunId
    org_id: OrgId
    first_seq: int
    at: int
    by: str
    events: tuple[Event, ...]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.events) - 1

    def recorded(self) -> list[Recorded]:
        """The events in their envelopes."""
        return [
            Recorded(self.run_id, self.first_seq + offset, self.at, self.by, event)
            for offset, event in enumerate(self.events)
        ]


_events_encoder = msgspec.msgpack.Encoder()
_events_decoder = msgspec.msgpack.Decoder(tuple[Event, ...])
_KINDS = frozenset(cls.__struct_config__.tag for cls in Event.__args__)


def kind(event: Event) -> str:
    """The dotted name of an event."""
    return event.name if isinstance(event, Foreign) else str(type(event).__struct_config__.tag)


def encode_events(events: tuple[Event, ...]) -> bytes:
    """Events as they are stored in a frame (msgpack)."""
    return _events_encoder.encode(events)


def decode_events(data: bytes) -> tuple[Event, ...]:
    """What `encode_events` wrote; kinds unknown here come back as `Foreign`."""
    try:
        return _events_decoder.decode(data)
    except msgspec.ValidationError:
        return tuple(_lenient(item) for item in msgspec.msgpack.decode(data))


def _lenient(item: dict[str, Any]) -> Event:
    if item.get("kind") not in _KINDS:
        return Foreign(name=str(item.get("kind")), data={k: v for k, v in item.items() if k != "kind"})
    known: Event = msgspec.convert(item, Event)
    return known
