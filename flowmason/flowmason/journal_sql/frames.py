"""Frames as they are stored: the encoded events of one commit, compressed where that pays."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from flowmason.errors import FormatError
from flowmason.event import Event, Frame, decode_events, encode_events
from flowmason.ids import OrgId, RunId
from flowmason.journal import mentioned_digests

RAW, ZLIB = 0, 1
COLUMNS = "run_id, org_id, first_seq, last_seq, written_at, written_by, codec, data"
_COMPRESS_FROM = 4096
"""Bytes. Below, what it saves is not worth its time."""


def pack(events: tuple[Event, ...]) -> tuple[int, bytes, set[str]]:
    """Codec, bytes, and the digests that the events mention."""
    data = encode_events(events)
    digests = mentioned_digests(data)
    if len(data) >= _COMPRESS_FROM:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data) * 0.9:
            return ZLIB, packed, digests
    return RAW, data, digests


def unpack(row: tuple[Any, ...], after: int) -> Frame:
    """The frame in a row of `COLUMNS`, without events up to seq `after`.

    Raises `FormatError` for one that cannot be read.
    """
    run_id, org_id, first, last, at, by, codec, data = row
    try:
        if codec not in (RAW, ZLIB):
            raise ValueError(f"codec {codec} is not known")
        events = decode_events(zlib.decompress(data) if codec == ZLIB else bytes(data))
    except (ValueError, zlib.error, msgspec.MsgspecError) as error:
        raise FormatError(
            f"events {first} to {last} of run {run_id} cannot be read: {error}",
            help="They were written by a newer FlowMason, or the database is damaged.",
        ) from error
    done = max(0, after + 1 - first)
    return Frame(RunId(run_id), OrgId(org_id), first + done, at, by, events[done:])
