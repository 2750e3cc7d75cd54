"""Whether a template fits a JSON Schema, as far as that can be told before a run.

`lax` reads text as the Input classes do (`"5"` for a number, `"true"`, JSON text for lists and objects);
without it a value must be of the schema's own type.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from flowmason.compiler.faults import below, some
from flowmason.compiler.shapes import Shape, all_types, called, expand, is_open, json_type, types
from flowmason.component.patterns import found_in
from flowmason.errors import StageError
from flowmason.expressions import Fields, Items, Path, Static, Template, Text

Look = Callable[[Path], tuple[Shape, ...]]
"""What a path will find."""

_TRUTHS = frozenset({"0", "1", "t", "f", "y", "n", "on", "off", "yes", "no", "true", "false"})
_TIMES = frozenset({"date-time", "date", "time", "duration"})
_TAKES: dict[str, frozenset[str]] = {
    "string": frozenset({"string", "integer", "number", "boolean", "array", "object"}),
    "integer": frozenset({"integer", "number", "boolean"}),
    "number": frozenset({"integer", "number", "boolean"}),
    "boolean": frozenset({"integer", "number", "boolean"}),
    "array": frozenset({"array"}),
    "object": frozenset({"object"}),
}
"""Type of a value → the types it can be read as."""
_EXACT: dict[str, frozenset[str]] = {
    **{name: frozenset({name}) for name in _TAKES},
    "integer": frozenset({"integer", "number"}),
    "number": frozenset({"integer", "number"}),
}


_LIMITS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", operator.ge),
    "maximum": ("at most", operator.le),
    "exclusiveMinimum": ("more than", operator.gt),
    "exclusiveMaximum": ("less than", operator.lt),
}


class Misfit(NamedTuple):
    """One value that does not fit."""

    pointer: str
    reason: str
    wrong: str | None = None
    known: tuple[str, ...] = ()
    kind: bool = False
    """Whether the very type of the value is wrong."""

    def kind_at(self, pointer: str) -> bool:
        """Whether it is the value at `pointer` whose type is wrong."""
        return self.kind and self.pointer == pointer


class Fit:
    """Checks templates against schemas."""

    def __init__(self, look: Look, *, lax: bool = True) -> None:
        self._look = look
        self._lax = lax

    def check(self, template: Template, shape: Shape, pointer: str) -> list[Misfit]:
        """Everything that cannot fit, with its place."""
        options = expand(shape)
        if not options and shape.schema is not False:
            return []
        if is_open(options):
            return []
        if isinstance(template, Path):
            return self._reference(template, options, pointer)
        if isinstance(template, Text):
            return self._text(options, pointer)
        if not isinstance(template, Static | Fields | Items):
            return []
        best: list[Misfit] = []
        for option in options:
            found = self._option(template, option, pointer, by_name="$ref" in _plain(shape.schema))
            if not found:
                return []
            if not best or _closer(found, best, pointer):
                best = found
        allowed = all_types(options)
        if best[0].kind_at(pointer) and len(options) > 1 and allowed:
            return [_wrong_kind(allowed, template, pointer)]
        return best

    def _reference(self, path: Path, options: list[Shape], pointer: str) -> list[Misfit]:
        found = self._look(path)
        given = None if is_open(found) else all_types(found)
        allowed = all_types(options)
        if not given or not allowed or given <= {"null"}:
            return []
        table = _TAKES if self._lax else _EXACT
        if any(table.get(name, allowed) & allowed for name in given - {"null"}) or self._time(options, given):
            return []
        name = path.root + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path.path)
        reason = f"expected {called(allowed - {'null'})}, but {name} is {called(given - {'null'})}"
        if "string" in allowed:
            reason += f"; write {{{{ {'json' if given & {'array', 'object'} else 'str'}({name}) }}}} for its text"
        return [Misfit(pointer, reason)]

    def _time(self, options: list[Shape], given: frozenset[str]) -> bool:
        return bool(given & {"integer", "number"}) and any(option.schema.get("format") in _TIMES for option in options)

    def _text(self, options: list[Shape], pointer: str) -> list[Misfit]:
        allowed = all_types(options)
        if self._lax or not allowed or "string" in allowed:
            return []
        return [Misfit(pointer, f"expected {called(allowed)}, but a template with text around it makes a string")]

    def _option(self, template: Template, option: Shape, pointer: str, *, by_name: bool) -> list[Misfit]:
        schema = option.schema
        if isinstance(template, Fields):
            return self._kind(option, "object", template, pointer) or self._fields(template.fields, option, pointer)
        if isinstance(template, Items):
            return self._kind(option, "array", template, pointer) or self._items(template.items, option, pointer)
        assert isinstance(template, Static)
        value = template.value
        if "enum" in schema or "const" in schema:
            return self._choice(value, schema, pointer, by_name=by_name)
        if self._lax and isinstance(value, str):
            value = _read_text(value, types(schema))
        misfit = self._kind(option, json_type(value), Static(value), pointer)
        if misfit:
            return misfit
        if isinstance(value, dict):
            return self._fields({key: Static(item) for key, item in value.items()}, option, pointer)
        if isinstance(value, list | tuple):
            return self._items(tuple(Static(item) for item in value), option, pointer)
        return _bounds(value, schema, pointer)

    def _kind(self, option: Shape, kind: str, template: Template, pointer: str) -> list[Misfit]:
        allowed = types(option.schema)
        if allowed is None or kind in allowed:
            return []
        value = _value(template)
        if kind == "integer" and "number" in allowed:
            return []
        if kind == "number" and "integer" in allowed and isinstance(value, float) and value.is_integer():
            return []
        if self._lax:
            if kind in ("integer", "number") and option.schema.get("format") in _TIMES:
                return []
            if kind == "boolean" and allowed & {"integer", "number"}:
                return []
            if kind in ("integer", "number") and "boolean" in allowed and value in (0, 1):
                return []
        return [_wrong_kind(allowed, template, pointer)]

    def _fields(self, given: dict[str, Template], option: Shape, pointer: str) -> list[Misfit]:
        schema = option.schema
        declared = schema.get("properties") or {}
        others = schema.get("additionalProperties", True)
        patterns = schema.get("patternProperties")
        found: list[Misfit] = []
        for name, item in given.items():
            place = below(pointer, name)
            if name in declared:
                found.extend(self.check(item, Shape(declared[name], option.root), place))
            elif patterns:
                continue
            elif others is False:
                has = f"; it takes {some(declared)}" if declared else ""
                found.append(Misfit(place, f"there is no field {name!r}{has}", name, tuple(declared)))
            elif isinstance(others, dict):
                found.extend(self.check(item, Shape(others, option.root), place))
        for name in schema.get("required") or ():
            if name not in given and (self._lax or "default" not in _plain(declared.get(name))):
                found.append(Misfit(pointer, f"the field {name!r} is missing"))
        return found

    def _items(self, given: tuple[Template, ...], option: Shape, pointer: str) -> list[Misfit]:
        schema = option.schema
        first = schema.get("prefixItems") or []
        found: list[Misfit] = []
        for position, item in enumerate(given):
            inner = first[position] if position < len(first) else schema.get("items", True)
            found.extend(self.check(item, Shape(inner, option.root), below(pointer, position)))
        low, high = schema.get("minItems"), schema.get("maxItems")
        if low is not None and len(given) < low:
            found.append(Misfit(pointer, f"expected at least {low} elements, found {len(given)}"))
        if high is not None and len(given) > high:
            found.append(Misfit(pointer, f"expected at most {high} elements, found {len(given)}"))
        return found

    def _choice(self, value: Any, schema: dict[str, Any], pointer: str, *, by_name: bool) -> list[Misfit]:
        choices = list(schema["enum"]) if "enum" in schema else [schema["const"]]
        if any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices):
            return []
        if self._lax and isinstance(value, str):
            if value.strip() in choices or any(_same_number(value, choice) for choice in choices):
                return []
            if by_name and value.isidentifier():
                return []  # the name of a member, which a schema does not tell
        texts = [choice for choice in choices if isinstance(choice, str)]
        listed = some((json.dumps(choice) for choice in choices), 12)
        wrong = value if isinstance(value, str) else None
        return [Misfit(pointer, f"expected one of {listed}, found {_show(Static(value))}", wrong, tuple(texts))]


def _plain(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}


def _closer(found: list[Misfit], best: list[Misfit], pointer: str) -> bool:
    """Whether an alternative is more likely the one that was meant: of the right type, or wrong only deeper inside."""
    if found[0].kind_at(pointer) != best[0].kind_at(pointer):
        return best[0].kind_at(pointer)
    return max(len(each.pointer) for each in found) > max(len(each.pointer) for each in best)


def _wrong_kind(allowed: frozenset[str], template: Template, pointer: str) -> Misfit:
    return Misfit(pointer, f"expected {called(allowed - {'null'} or allowed)}, found {_show(template)}", kind=True)


def _value(template: Template) -> Any:
    if isinstance(template, Static):
        return template.value
    return {} if isinstance(template, Fields) else []


def _show(template: Template) -> str:
    value = _value(template)
    if isinstance(value, dict | list):
        return called([json_type(value)])
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _same_number(text: str, choice: Any) -> bool:
    return isinstance(choice, int | float) and not isinstance(choice, bool) and text.strip() == str(choice)


def _read_text(text: str, allowed: frozenset[str] | None) -> Any:
    """Text as one of the allowed types, where it can be read as that; else the text."""
    if allowed is None or "string" in allowed:
        return text
    plain = text.strip()
    if "boolean" in allowed and plain.lower() in _TRUTHS:
        return plain.lower() in ("1", "t", "y", "on", "yes", "true")
    if allowed & {"integer", "number"}:
        try:
            number = float(plain)
        except ValueError:
            return text
        return int(number) if number.is_integer() else number
    if allowed & {"array", "object"} and plain[:1] in ("[", "{"):
        try:
            return json.loads(plain)
        except ValueError:
            return text
    return text


def _bounds(value: Any, schema: dict[str, Any], pointer: str) -> list[Misfit]:
    found: list[str] = []
    if isinstance(value, int | float) and not isinstance(value, bool):
        for key, (words, fits) in _LIMITS.items():
            limit = schema.get(key)
            if isinstance(limit, int | float) and not fits(value, limit):
                found.append(f"expected {words} {limit}, found {value}")
    elif isinstance(value, str) and schema.get("type", "string") == "string":
        value = value.strip()
        length = len(value)
        if length < schema.get("minLength", 0):
            found.append(f"expected at least {schema['minLength']} characters, found {length}")
        if length > schema.get("maxLength", length):
            found.append(f"expected at most {schema['maxLength']} characters, found {length}")
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and length <= 1000 and not _matches(pattern, value):
            found.append(f"{_show(Static(value))} does not match the pattern {pattern}")
    return [Misfit(pointer, reason) for reason in found]


def _matches(pattern: str, text: str) -> bool:
    try:
        return found_in(pattern, text)
    except (re.error, StageError):
        return True  # a pattern in another dialect, or one without end, is for the component to judge
