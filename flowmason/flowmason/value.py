"""Values as the engine passes them around: by their bytes, by digest, or as a composition of both.

A value that a component returned is encoded once with msgpack. Up to `policy.INLINE_LIMIT` bytes it
rides inside its event (`Inline`); above, it lies in the value store under its digest (`Stored`).
What the engine itself makes of several values (the results of a foreach, the output of a pipeline
with several ends) is a `Record`, `Sequence` or `Concat` of them: only the worker that reads such a
value joins it, the conductor never holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from flowmason.ids import Digest

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder()


class Inline(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """The msgpack bytes themselves."""

    data: bytes


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Bytes that lie in the value store."""

    digest: Digest
    size: int
    """Bytes."""


class Record(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """An object whose fields are values of their own."""

    fields: dict[str, Value]


class Sequence(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """A list of values."""

    items: list[Value]


class Concat(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """One list made of several values that are lists themselves."""

    chunks: list[Value]


class Picked(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A part of another value, at a dotted path; to read one whose path leads nowhere is an error."""

    source: Value
    path: str


Value = Inline | Stored | Record | Sequence | Concat | Picked

NULL = Inline(b"\xc0")


def encode(data: Any) -> bytes:
    """Plain data as msgpack. Dictionaries are written in sorted order, so equal data have equal bytes.

    Raises `TypeError` for anything but None, bool, int, float, str, bytes, list, tuple and dict.
    """
    return _encoder.encode(data)


def decode(data: bytes | memoryview) -> Any:
    """What `encode` wrote."""
    return _decoder.decode(data)


def inline(data: Any) -> Inline:
    """Plain data as an `Inline` value, whatever its size; for what the engine itself makes."""
    return Inline(encode(data))


def digests(value: Value) -> Iterator[Digest]:
    """Every digest that `value` refers to."""
    if isinstance(value, Stored):
        yield value.digest
    elif isinstance(value, Record):
        for part in value.fields.values():
            yield from digests(part)
    elif isinstance(value, Sequence):
        for part in value.items:
            yield from digests(part)
    elif isinstance(value, Concat):
        for part in value.chunks:
            yield from digests(part)
    elif isinstance(value, Picked):
        yield from digests(value.source)
