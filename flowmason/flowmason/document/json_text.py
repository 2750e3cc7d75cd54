"""JSON: the standard library's parser, made strict; and a scanner that finds places, run only when needed.

Refused beside what is no JSON: duplicate keys, NaN and infinities, numbers that do not fit 64 bits, lone
surrogates, and documents over the limits.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from flowmason.document.complaints import of_json
from flowmason.document.limits import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_VALUES,
    Place,
    fault,
    measure,
    refused,
    too_deep,
    too_many,
)
from flowmason.errors import Fault, RefusedError
from flowmason.pipeline.pointers import Path

_BLANK = frozenset(" \t\n\r")
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_OTHER = re.compile(r"[^\s\[\]{},:\"]+")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_INT_LOW, _INT_HIGH = -(2**63), 2**64 - 1
_MOST_FAULTS = 200


class _Strange:
    """Stands in the parsed tree for a number that is refused."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def parse_json(text: str, file: str | None) -> Any:
    """The value of `text`. Raises `RefusedError` with the faults in their places."""
    strange = False

    def number(reason: str) -> _Strange:
        nonlocal strange
        strange = True
        return _Strange(reason)

    def whole(digits: str) -> Any:
        if len(digits) < 19:
            return int(digits)
        if len(digits) > MAX_DIGITS or not _INT_LOW <= int(digits) <= _INT_HIGH:
            return number("a whole number must fit 64 bits")
        return int(digits)

    def real(digits: str) -> Any:
        found = float(digits) if len(digits) <= MAX_DIGITS else math.inf
        return found if math.isfinite(found) else number("the number is too large or has too many digits")

    def constant(name: str) -> Any:
        return number(f"{name} is no JSON number")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal strange
        found = dict(pairs)
        if len(found) != len(pairs):
            strange = True
        return found

    if _crowded(text):
        raise refused(too_many(), file)
    try:
        value = json.loads(text, object_pairs_hook=members, parse_int=whole, parse_float=real, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise refused(f"not valid JSON: {of_json(error)}", file, place=(error.lineno, error.colno)) from None
    except RecursionError:
        raise _deep(text, file) from None
    excess = measure(value)
    if excess:
        raise _deep(text, file) if excess == too_deep() else refused(excess, file)
    faults = _strangers(value, text, file) if strange else []
    if _ESCAPED_SURROGATE.search(text) or not _encodable(text):
        faults += _surrogates(text, file)
    if faults:
        raise RefusedError(faults)
    return value


def json_places(text: str) -> dict[Path, tuple[Place, Place]]:
    """For each value its place, and for a member of an object also its key's: path → (key, value)."""
    lines = Lines(text)
    return {path: (lines.place(key), lines.place(value)) for path, key, value, _ in scan(text)}


class Lines:
    """Offsets in a text as lines and columns."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, offset: int) -> Place:
        """Line and column of `offset`."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


def scan(text: str) -> Iterator[tuple[Path, int, int, bool]]:
    """Each value of a JSON text in order: path, offset of its key (or of itself), its offset, whether its key repeats.

    Stops silently where the text is no JSON, and after `MAX_VALUES` values. Never recurses.
    """
    stack: list[tuple[Path, int, set[str] | None]] = []
    position, count = 0, 0
    path: Path = ()
    while True:
        position = _skip(text, position)
        key_at, repeated = position, False
        if stack:
            parent, index, keys = stack[-1]
            character = text[position : position + 1]
            if character in ("]", "}"):
                stack.pop()
                position = _skip(text, position + 1)
                if not stack:
                    return
                if text[position : position + 1] == ",":
                    position += 1
                continue
            if keys is None:
                path = (*parent, index)
                stack[-1] = (parent, index + 1, None)
            else:
                match = _STRING.match(text, position)
                if match is None:
                    return
                key = match[0][1:-1]
                if "\\" in key:
                    try:
                        key = json.loads(match[0], strict=False)
                    except ValueError:
                        return
                repeated = key in keys
                keys.add(key)
                path = (*parent, key)
                position = _skip(text, match.end())
                if text[position : position + 1] != ":":
                    return
                position = _skip(text, position + 1)
        elif count:
            return
        count += 1
        if count > MAX_VALUES:
            return
        yield path, key_at, position, repeated
        character = text[position : position + 1]
        if character == "{":
            stack.append((path, 0, set()))
            position += 1
            continue
        if character == "[":
            stack.append((path, 0, None))
            position += 1
            continue
        match = _STRING.match(text, position) if character == '"' else _OTHER.match(text, position)
        if match is None:
            return
        position = _skip(text, match.end())
        if stack and text[position : position + 1] == ",":
            position += 1


def _skip(text: str, position: int) -> int:
    if text[position : position + 1] not in _BLANK:
        return position
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _crowded(text: str) -> bool:
    """Whether the text surely holds more than `MAX_VALUES` values; told without building them."""
    signs = ",[{"
    if all(text.count(sign) <= MAX_VALUES for sign in signs):
        return False
    bare = re.sub('"[^"]*"', "", text.replace("\\\\", "").replace('\\"', ""))
    return bare.count(",") > MAX_VALUES or bare.count("[") + bare.count("{") > MAX_VALUES


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _deep(text: str, file: str | None) -> RefusedError:
    for path, _, offset, _ in scan(text):
        if len(path) >= MAX_DEPTH and text[offset : offset + 1] in ("[", "{"):
            return refused(too_deep(), file, path[:4], Lines(text).place(offset))
    return refused(too_deep(), file)


def _strangers(value: Any, text: str, file: str | None) -> list[Fault]:
    """Faults for duplicate keys and refused numbers, in the order of the text."""
    lines = Lines(text)
    faults: list[Fault] = []
    for path, key_at, value_at, repeated in scan(text):
        if len(faults) >= _MOST_FAULTS:
            break
        if repeated:
            faults.append(fault(f"the key {str(path[-1])[:60]!r} is given twice", file, path, lines.place(key_at)))
        if text[value_at : value_at + 1] in "-0123456789NI":
            found = _at(value, path)
            if isinstance(found, _Strange):
                faults.append(fault(found.reason, file, path, lines.place(value_at)))
    return faults or [fault("a number is refused or a key is given twice", file)]


def _at(value: Any, path: Path) -> Any:
    try:
        for part in path:
            value = value[part]
    except (KeyError, IndexError, TypeError):
        return None
    return value


def _surrogates(text: str, file: str | None) -> list[Fault]:
    lines = Lines(text)
    faults: list[Fault] = []
    for path, key_at, value_at, _ in scan(text):
        if len(faults) >= _MOST_FAULTS:
            break
        if key_at != value_at and _half(text, key_at):
            faults.append(fault("the key holds half of a surrogate pair", file, path[:-1], lines.place(key_at)))
        if text[value_at] == '"' and _half(text, value_at):
            faults.append(fault("the string holds half of a surrogate pair", file, path, lines.place(value_at)))
    return faults


def _half(text: str, offset: int) -> bool:
    match = _STRING.match(text, offset)
    if match is None or (match[0].isascii() and not _ESCAPED_SURROGATE.search(match[0])):
        return False
    return not _encodable(json.loads(match[0], strict=False))
