"""YAML by the 1.2 core schema: libyaml's parser gives events, everything above them is built here.

`no`, `on` and `1_000` are strings. Refused: tags, merge keys, duplicate keys, keys that are not strings, more than
one document, `.nan` and `.inf`. An alias stands for its value and counts as much as it each time.
"""

from __future__ import annotations

import math
import re
from typing import Any

from flowmason.document.complaints import first_control, of_yaml
from flowmason.document.json_text import Lines
from flowmason.document.limits import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_VALUES,
    Place,
    fault,
    refused,
    too_deep,
    too_large,
    too_many,
)
from flowmason.errors import Fault, RefusedError
from flowmason.pipeline.pointers import Path

Places = dict[Path, tuple[Place, Place]]

_MAYBE = frozenset(["", *"~nNtTfF+-.0123456789"])
"""How a plain scalar begins that may be something else than a string."""
_CONSTANTS: dict[str, Any] = {
    "": None,
    **dict.fromkeys(("~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_BASED = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_INT_LOW, _INT_HIGH = -(2**63), 2**64 - 1
_MOST_FAULTS = 200
_NO_KEY: Any = object()
_OPEN: Any = object()
_TEMPLATE_HELP = "; a text that starts with '{' must be quoted"


def parse_yaml(text: str, file: str | None, places: Places | None = None) -> Any:
    """The value of `text`. Raises `RefusedError` with the faults in their places.

    With `places`, the place of each value (and of a member's key) is put into it.
    """
    import yaml

    builder = _Builder(file, places)
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        try:
            return builder.build(loader)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        problem, context, mark = error.problem or "", error.context or "", error.problem_mark or error.context_mark
        if problem == "found unexpected end of stream" and error.context_mark is not None:
            mark = error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark is not None else None
        lines = text.splitlines()
        here = lines[mark.line][mark.column :][:1] if mark is not None and mark.line < len(lines) else ""
        reason = of_yaml(problem or context or "cannot be read", context, here)
        raise refused(f"not valid YAML: {reason}", file, place=place) from None
    except yaml.reader.ReaderError as error:
        found = first_control(text)
        place = None if found is None else Lines(text).place(found)
        raise refused(f"not valid YAML: {error.reason}", file, place=place) from None
    except yaml.YAMLError as error:
        raise refused(f"not valid YAML: {error}", file) from None


def resolve_plain(text: str) -> Any:
    """What an unquoted scalar means by the core schema. Raises `ValueError` for a number that is refused."""
    if text[:1] not in _MAYBE:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.match(text) or _BASED.match(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        found = int(text, base) if len(text) <= MAX_DIGITS else _INT_HIGH + 1
        if not _INT_LOW <= found <= _INT_HIGH:
            raise ValueError("a whole number must fit 64 bits")
        return found
    if _FLOAT.match(text):
        real = float(text) if len(text) <= MAX_DIGITS else math.inf
        if not math.isfinite(real):
            raise ValueError("the number is too large or has too many digits")
        return real
    if _NOT_FINITE.match(text):
        raise ValueError(f"{text} is no JSON number")
    return text


class _Frame:
    """A list or an object under construction."""

    __slots__ = ("anchor", "chars", "height", "key", "key_place", "path", "value", "values")

    def __init__(self, value: Any, anchor: str | None, path: Path, values: int, chars: int) -> None:
        self.value = value
        self.key: Any = _NO_KEY
        self.key_place: Place = (1, 1)
        self.anchor = anchor
        self.path = path
        self.height = 0
        self.values = values
        self.chars = chars


class _Builder:
    def __init__(self, file: str | None, places: Places | None) -> None:
        self.file = file
        self.places = places
        self.faults: list[Fault] = []
        self.stack: list[_Frame] = []
        self.anchors: dict[str, Any] = {}
        """Name → `_OPEN`, or (value, values in it, characters in it, levels in it)."""
        self.values = 0
        self.chars = 0
        self.root: Any = None

    def build(self, loader: Any) -> Any:
        import yaml

        documents = 0
        while True:
            event = loader.get_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self.scalar(event)
            elif kind is yaml.MappingStartEvent:
                self.start(event, {})
            elif kind is yaml.SequenceStartEvent:
                self.start(event, [])
            elif kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
                self.end()
            elif kind is yaml.AliasEvent:
                self.alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    raise refused("a file holds one document; there is a second one", self.file, place=_place(event))
            elif kind is yaml.StreamEndEvent:
                break
        if self.faults:
            raise RefusedError(self.faults)
        return self.root

    def scalar(self, event: Any) -> None:
        text = event.value
        self.chars += len(text)
        plain = not event.style
        if event.tag is not None:
            self.fault(f"tags are not allowed: {event.tag}", _place(event))
        frame = self.stack[-1] if self.stack else None
        if frame is not None and frame.key is _NO_KEY and type(frame.value) is dict:
            self.key(frame, text, plain, event)
            if event.anchor is not None:
                self.anchors[event.anchor] = (text, 1, len(text), 0)
            return
        value: Any = text
        if plain and text[:1] in _MAYBE:
            try:
                value = resolve_plain(text)
            except ValueError as error:
                self.fault(str(error), _place(event), self.path())
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, 1, len(text), 0)
        self.add(value, 1, 0, event)

    def key(self, frame: _Frame, text: str, plain: bool, event: Any) -> None:
        if plain and (text[:1] in _MAYBE or text == "<<"):
            if text == "<<":
                self.fault("merge keys (<<) are not part of YAML 1.2; write the members out", _place(event))
            try:
                strange = not isinstance(resolve_plain(text), str)
            except ValueError:
                strange = True
            if strange:
                self.fault(f"a key must be a string; quote it: {text[:60]!r}", _place(event), frame.path)
        if text in frame.value:
            self.fault(f"the key {text[:60]!r} is given twice", _place(event), (*frame.path, text))
        frame.key = text
        if self.places is not None:
            frame.key_place = _place(event)

    def start(self, event: Any, value: Any) -> None:
        place = _place(event)
        if event.tag is not None:
            self.fault(f"tags are not allowed: {event.tag}", place)
        self.no_key(place, "an object or a list cannot be a key" + _TEMPLATE_HELP)
        if len(self.stack) >= MAX_DEPTH:
            raise self.stop(too_deep(), place)
        path = self.path() if self.places is not None or self.stack else ()
        if event.anchor is not None:
            self.anchors[event.anchor] = _OPEN
        frame = _Frame(value, event.anchor, path, self.values, self.chars)
        self.add(value, 1, 0, event)
        self.stack.append(frame)

    def end(self) -> None:
        frame = self.stack.pop()
        height = frame.height + 1
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (frame.value, self.values - frame.values, self.chars - frame.chars, height)
        if self.stack:
            parent = self.stack[-1]
            parent.height = max(parent.height, height)

    def alias(self, event: Any) -> None:
        place = _place(event)
        self.no_key(place, "an alias cannot be a key")
        known = self.anchors.get(event.anchor)
        if known is None:
            raise self.stop(f"there is no anchor &{event.anchor} above", place)
        if known is _OPEN:
            raise self.stop(f"*{event.anchor} stands inside &{event.anchor} itself", place)
        value, values, chars, height = known
        if len(self.stack) + height > MAX_DEPTH:
            raise self.stop(too_deep(), place)
        self.chars += chars
        self.add(value, values, height, event)

    def add(self, value: Any, values: int, height: int, event: Any) -> None:
        self.values += values
        if self.values > MAX_VALUES:
            raise self.stop(too_many(), _place(event))
        if self.chars > MAX_BYTES:
            raise self.stop(too_large(), _place(event))
        if not self.stack:
            self.root = value
            if self.places is not None:
                self.places[()] = (_place(event), _place(event))
            return
        frame = self.stack[-1]
        if height > frame.height:
            frame.height = height
        if type(frame.value) is dict:
            if self.places is not None:
                self.places[(*frame.path, frame.key)] = (frame.key_place, _place(event))
            frame.value[frame.key] = value
            frame.key = _NO_KEY
        else:
            if self.places is not None:
                self.places[(*frame.path, len(frame.value))] = (_place(event), _place(event))
            frame.value.append(value)

    def path(self) -> Path:
        """Of the value that comes next."""
        if not self.stack:
            return ()
        frame = self.stack[-1]
        return (*frame.path, frame.key if type(frame.value) is dict else len(frame.value))

    def no_key(self, place: Place, reason: str) -> None:
        frame = self.stack[-1] if self.stack else None
        if frame is not None and type(frame.value) is dict and frame.key is _NO_KEY:
            raise self.stop(reason, place)

    def fault(self, reason: str, place: Place, path: Path | None = None) -> None:
        if path is None:
            path = self.stack[-1].path if self.stack else ()
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(fault(reason, self.file, path, place))

    def stop(self, reason: str, place: Place) -> RefusedError:
        """The error for a fault after which reading cannot go on."""
        path = self.stack[-1].path[:4] if self.stack else ()
        return RefusedError([*self.faults, fault(reason, self.file, path, place)])


def _place(event: Any) -> Place:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1
