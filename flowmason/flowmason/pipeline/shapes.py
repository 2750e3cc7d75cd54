"""Shapes: one description of a value serves the parser, the writer and the exported JSON Schema.

`read` turns a plain value into ours and adds a `Fault` for everything that is wrong; `write` is its inverse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowmason.errors import Fault, did_you_mean
from flowmason.pipeline.pointers import Path, format_pointer

INVALID: Any = object()
"""What `read` returns where it has added a fault."""
FAULT_LIMIT = 200
"""So many faults are listed; one more says that there are others."""
_MORE = Fault(f"there are more than {FAULT_LIMIT} faults; the others are not listed", "$")


def add_fault(
    faults: list[Fault], path: Path, reason: str, *, name: str | None = None, known: Sequence[str] = ()
) -> None:
    """Add a fault at `path`, with the name of `known` that is nearest to `name`.

    Every call adds one, since shapes count them; past the limit it is always the same, and `listed` drops all but one.
    """
    if len(faults) < FAULT_LIMIT:
        nearest = did_you_mean(name, known) if name is not None and len(name) <= 64 else None
        faults.append(Fault(reason, format_pointer(path), nearest=nearest))
    else:
        faults.append(_MORE)


def listed(faults: Sequence[Fault]) -> Sequence[Fault]:
    """The faults that are told: the first 200, and one that says that there are more."""
    return faults[: FAULT_LIMIT + 1]


def show(value: Any) -> str:
    """A value as a message quotes it: short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[:1] * isinstance(value, str)


class Shape:
    """Any value at all."""

    expected = "a value"

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        """Our form of `value`, or `INVALID` with a fault added."""
        return value

    def write(self, value: Any) -> Any:
        """The plain form that `read` takes."""
        return value

    def schema(self) -> dict[str, Any]:
        """JSON Schema of what `read` accepts."""
        return {}

    def refuse(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        """Add the fault for a value of the wrong kind."""
        add_fault(faults, path, f"expected {self.expected}, found {show(value)}")
        return INVALID


class Text(Shape):
    """A string, with an optional pattern (whole match) and a cap on its length."""

    def __init__(self, expected: str = "a string", pattern: str | None = None, *, min: int = 0, max: int = 0) -> None:
        self.expected = expected
        self.pattern = pattern
        self.min, self.max = min, max
        self._match = re.compile(pattern).fullmatch if pattern else None

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is not str or len(value) < self.min or (self.max and len(value) > self.max):
            return self.refuse(value, path, faults)
        if self._match is not None and self._match(value) is None:
            return self.refuse(value, path, faults)
        return value

    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "string"}
        if self.min:
            found["minLength"] = self.min
        if self.max:
            found["maxLength"] = self.max
        if self.pattern:
            found["pattern"] = f"^(?:{self.pattern})$"
        return found


class Flag(Shape):
    """true or false."""

    expected = "true or false"

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        return value if type(value) is bool else self.refuse(value, path, faults)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Number(Shape):
    """A number between two bounds (inclusive); whole if asked."""

    def __init__(self, low: float | None = None, high: float | None = None, *, whole: bool = False) -> None:
        self.low, self.high, self.whole = low, high, whole
        self.expected = "a whole number" if whole else "a number"
        if low is not None and high is not None:
            self.expected += f" from {low} to {high}"
        elif low is not None:
            self.expected += f" of at least {low}"

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is not int and (self.whole or type(value) is not float):
            return self.refuse(value, path, faults)
        if (self.low is not None and not value >= self.low) or (self.high is not None and not value <= self.high):
            return self.refuse(value, path, faults)
        return value

    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "integer" if self.whole else "number"}
        if self.low is not None:
            found["minimum"] = self.low
        if self.high is not None:
            found["maximum"] = self.high
        return found


class Choice(Shape):
    """One of a few strings."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.expected = "one of " + ", ".join(names)

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is str and value in self.names:
            return value
        reason = f"expected {self.expected}, found {show(value)}"
        add_fault(faults, path, reason, name=value if isinstance(value, str) else None, known=self.names)
        return INVALID

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.names)}


class AnyObject(Shape):
    """An object whose members are nobody's business here."""

    expected = "an object"

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        return value if type(value) is dict else self.refuse(value, path, faults)

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}


class ListOf(Shape):
    """A list of one shape, read as a tuple."""

    def __init__(self, item: Shape, expected: str, *, distinct: bool = False, plain: bool = False) -> None:
        self.item, self.expected, self.distinct, self.plain = item, expected, distinct, plain

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is not list:
            return self.refuse(value, path, faults)
        before = len(faults)
        found = [self.item.read(item, (*path, index), faults) for index, item in enumerate(value)]
        if len(faults) > before:
            return INVALID
        if self.distinct and len(set(found)) < len(found):
            seen: set[Any] = set()
            for index, item in enumerate(found):
                if item in seen:
                    add_fault(faults, (*path, index), f"{show(item)} is listed twice")
                seen.add(item)
            return INVALID
        return value if self.plain else tuple(found)

    def write(self, value: Any) -> Any:
        return [self.item.write(item) for item in value]

    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "array", "items": self.item.schema()}
        if self.distinct:
            found["uniqueItems"] = True
        return found


class MapOf(Shape):
    """An object with free keys and members of one shape."""

    def __init__(self, item: Shape, expected: str, keys: Text | None = None) -> None:
        self.item, self.expected, self.keys = item, expected, keys

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is not dict:
            return self.refuse(value, path, faults)
        before = len(faults)
        found = {}
        for key, item in value.items():
            if self.keys is not None:
                self.keys.read(key, (*path, key), faults)
            found[key] = self.item.read(item, (*path, key), faults)
        return found if len(faults) == before else INVALID

    def write(self, value: Any) -> Any:
        return {key: self.item.write(item) for key, item in value.items()}

    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "object", "additionalProperties": self.item.schema()}
        if self.keys is not None:
            found["propertyNames"] = self.keys.schema()
        return found


class Either(Shape):
    """The first of several shapes whose test accepts the value."""

    def __init__(self, expected: str, *options: tuple[Callable[[Any], bool], Shape]) -> None:
        self.expected, self.options = expected, options

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        for fits, shape in self.options:
            if fits(value):
                return shape.read(value, path, faults)
        return self.refuse(value, path, faults)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [shape.schema() for _, shape in self.options]}


class Key:
    """One key of a `Record`: its shape, other spellings, what it means."""

    def __init__(
        self, shape: Shape, doc: str, *, also: Sequence[str] = (), required: bool = False, attribute: str = ""
    ) -> None:
        self.shape, self.doc, self.also, self.required = shape, doc, tuple(also), required
        self.attribute = attribute
        """Name of the field of the Struct, where it differs from the key."""


class Record(Shape):
    """An object with known keys, made into `build(**fields)`; a plain dict where `build` is None.

    null means "not given" for every key that is not required, except where the key's shape takes any value.
    With `open`, `x-…` keys are carried in `extensions`.
    """

    def __init__(
        self,
        keys: Mapping[str, Key],
        build: Callable[..., Any] | None = None,
        *,
        open: bool = False,
        base: Any = None,
        expected: str = "an object",
    ) -> None:
        self.keys, self.build, self.open, self.base, self.expected = dict(keys), build, open, base, expected
        self.spellings: dict[str, tuple[str, Key, str]] = {}
        for name, key in self.keys.items():
            for spelling in (name, *key.also):
                self.spellings[spelling] = (name, key, key.attribute or name)
        self.required = [(name, key) for name, key in self.keys.items() if key.required]

    def read(self, value: Any, path: Path, faults: list[Fault]) -> Any:
        if type(value) is not dict:
            return self.refuse(value, path, faults)
        before = len(faults)
        fields = self.fields(value, path, faults)
        if len(faults) > before:
            return INVALID
        return value if self.build is None else self.build(**fields)

    def fields(
        self, value: dict[str, Any], path: Path, faults: list[Fault], *, partial: bool = False
    ) -> dict[str, Any]:
        """Attribute → what was read, for the keys that are given; with `partial` none is required."""
        fields: dict[str, Any] = {}
        extensions: dict[str, Any] = {}
        first: dict[str, str] = {}
        slips: set[str] = set()
        for spelling, item in value.items():
            known = self.spellings.get(spelling)
            if known is None:
                if self.open and spelling.startswith("x-"):
                    extensions[spelling] = item
                else:
                    reason = f"unknown key {show(spelling)}"
                    add_fault(faults, (*path, spelling), reason, name=spelling, known=list(self.spellings))
                    if faults[-1].nearest is not None:
                        slips.add(self.spellings[faults[-1].nearest][0])
                continue
            name, key, attribute = known
            if name in first:
                reason = f"{spelling!r} and {first[name]!r} are two spellings of one key; give one of them"
                add_fault(faults, (*path, spelling), reason)
                continue
            first[name] = spelling
            if item is None and not key.required:
                continue
            fields[attribute] = key.shape.read(item, (*path, spelling), faults)
        if not partial:
            for name, key in self.required:
                if name not in first and name not in slips:
                    spelled = " or ".join(repr(text) for text in (name, *key.also))
                    add_fault(faults, path, f"the key {spelled} is missing")
        if extensions:
            fields["extensions"] = extensions
        return fields

    def write(self, value: Any) -> Any:
        if self.build is None:
            return value
        found: dict[str, Any] = {}
        for name, key in self.keys.items():
            attribute = key.attribute or name
            item = getattr(value, attribute)
            if key.required or (item is not None and item != self._default(attribute)):
                found[name] = key.shape.write(item)
        if self.open:
            found.update(value.extensions)
        return found

    def _default(self, attribute: str) -> Any:
        if self.base is None:
            return _defaults(self.build)[attribute]
        return getattr(self.base, attribute)

    def schema(self) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        rules: list[dict[str, Any]] = []
        for name, key in self.keys.items():
            spellings = (name, *key.also)
            for spelling in spellings:
                doc = key.doc if spelling == name else f"Another spelling of {name}."
                inner = key.shape.schema()
                if not key.required and inner:
                    inner = {"anyOf": [inner, {"type": "null"}]}
                properties[spelling] = {"description": doc, **inner}
            if key.also:
                each: list[dict[str, Any]] = [{"required": [spelling]} for spelling in spellings]
                rules.append({"oneOf": each} if key.required else {"oneOf": [*each, {"not": {"anyOf": each}}]})
        found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if self.open:
            found["patternProperties"] = {"^x-": {}}
        required = [name for name, key in self.required if not key.also]
        if required:
            found["required"] = required
        if rules:
            found["allOf"] = rules
        return found


_DEFAULTS: dict[Any, dict[str, Any]] = {}


def _defaults(build: Any) -> dict[str, Any]:
    """Field → default of a Struct class; a required field has the default `INVALID`."""
    import msgspec

    if build not in _DEFAULTS:
        table: dict[str, Any] = {}
        for field in msgspec.structs.fields(build):
            if field.default is not msgspec.NODEFAULT:
                table[field.name] = field.default
            elif field.default_factory is not msgspec.NODEFAULT:
                table[field.name] = field.default_factory()
            else:
                table[field.name] = INVALID
        _DEFAULTS[build] = table
    return _DEFAULTS[build]
