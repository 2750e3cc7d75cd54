"""The trace that something belongs to, as W3C's `traceparent` writes it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar

import msgspec

OPTION = "traceparent"
"""The option of a run that says what asked for it."""
_SHAPE = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Traceparent(msgspec.Struct, frozen=True):
    """A span of somebody else's, under which ours stand."""

    trace_id: int
    span_id: int
    sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


current: ContextVar[Traceparent | None] = ContextVar("flowmason_traceparent", default=None)
"""The span of the request that is being answered."""


def exports(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an operator wants traces."""
    wanted = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return bool(wanted) and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"


def parse(text: object) -> Traceparent | None:
    """Read a `traceparent`; None for what is none."""
    found = _SHAPE.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return Traceparent(trace_id, span_id, bool(int(found[4], 16) & 1))


def hashed_id(size: int, *parts: object) -> int:
    """An id of so many bytes: always the same of the same parts, never 0."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
