"""What components say, as what can be recorded: text that is Unicode, numbers that fit, nothing but data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

_DEEPEST = 32
_MOST_PARTS = 1000
_LEFT_OUT = "…"
_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.decode
_pack = msgspec.msgpack.encode


def said(item: object) -> str:
    """`str(item)`, also where that raises. Half of a surrogate pair (an undecodable file name) is written out."""
    try:
        text = str(item)
        return text if text.isascii() else text.encode(errors="backslashreplace").decode()
    except Exception as error:
        return f"<{type(item).__name__}, which cannot be written: {type(error).__name__}>"


def plain(item: Any) -> Any:
    """A copy of `item` as data that every store and the wire take: text for what is none, an end to what has none."""
    try:
        found = _decode(_encode(item))
        _pack(found)  # JSON takes integers of any size
        return found
    except Exception:
        return _plain(item, _DEEPEST, [_MOST_PARTS])


def _plain(item: Any, deeper: int, left: list[int]) -> Any:
    left[0] -= 1
    if item is None or isinstance(item, bool | float):
        return item
    if isinstance(item, int):
        return int(item) if -(2**63) <= item < 2**64 else said(item)
    if isinstance(item, Mapping | list | tuple | set | frozenset):
        if deeper <= 0 or left[0] <= 0:
            return _LEFT_OUT
        if isinstance(item, Mapping):
            return {said(key): _plain(value, deeper - 1, left) for key, value in _some(item.items(), left)}
        return [_plain(each, deeper - 1, left) for each in _some(item, left)]
    return said(item)


def _some(items: Any, left: list[int]) -> Any:
    for each in list(items):
        if left[0] <= 0:
            return
        yield each
