"""Following a path into a JSON Schema: what a reference will find, as far as a schema tells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from flowmason.compiler.faults import some


class Shape(NamedTuple):
    """One alternative that a value may take."""

    schema: Any
    """A JSON Schema object, or True for anything."""
    root: Any
    """The document that `$ref`s in it point into."""


OPEN: tuple[Shape, ...] = (Shape(True, True),)
"""Anything may be there."""


class Embedded(NamedTuple):
    """Stands in a schema that the compiler makes for shapes that come from other documents."""

    shapes: tuple[Shape, ...]


_NAMES = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "a boolean",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


class Problem(NamedTuple):
    """Why a path leads nowhere."""

    depth: int
    """How many keys of the path could be followed."""
    reason: str
    wrong: str | None = None
    known: tuple[str, ...] = ()


def is_open(shapes: Sequence[Shape]) -> bool:
    """Whether nothing is known."""
    return any(shape.schema is True or shape.schema == {} for shape in shapes)


def expand(shape: Shape) -> list[Shape]:
    """The alternatives of a shape, references into its document followed. `OPEN` where it gets too clever."""
    found: list[Shape] = []
    waiting = [(shape, 0)]
    while waiting:
        (schema, root), steps = waiting.pop(0)
        if schema is False:
            continue
        if isinstance(schema, Embedded):
            waiting.extend((inner, steps + 1) for inner in schema.shapes)
            continue
        if not isinstance(schema, dict) or steps > 32 or len(found) > 64:
            return list(OPEN)
        if "$ref" in schema:
            target = resolve(root, schema["$ref"])
            if target is None:
                return list(OPEN)
            waiting.append((Shape(target, root), steps + 1))
            continue
        options = schema.get("anyOf") or schema.get("oneOf")
        whole = schema.get("allOf")
        if isinstance(options, list):
            waiting.extend((Shape(option, root), steps + 1) for option in options)
        elif isinstance(whole, list):
            if len(whole) != 1 or "properties" in schema:
                return list(OPEN)
            waiting.append((Shape(whole[0], root), steps + 1))
        elif any(key in schema for key in ("if", "not", "$dynamicRef", "dependentSchemas")):
            return list(OPEN)
        else:
            found.append(Shape(schema, root))
    return found


def resolve(root: Any, reference: Any) -> Any:
    """What `#/$defs/x` points to in `root`; None for anything that is not there."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    here = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(here, dict) or key not in here:
            return None
        here = here[key]
    return here


def types(schema: Any) -> frozenset[str] | None:
    """JSON types that one expanded alternative allows; None: it does not say."""
    if not isinstance(schema, dict):
        return None
    given = schema.get("type")
    if isinstance(given, str):
        return frozenset({given})
    if isinstance(given, list):
        return frozenset(str(name) for name in given)
    if "enum" in schema and isinstance(schema["enum"], list):
        return frozenset(json_type(value) for value in schema["enum"])
    if "const" in schema:
        return frozenset({json_type(schema["const"])})
    if "properties" in schema:
        return frozenset({"object"})
    return None


def all_types(shapes: Iterable[Shape]) -> frozenset[str] | None:
    """JSON types that any of the alternatives allows; None: unknown."""
    found: set[str] = set()
    for shape in shapes:
        for option in expand(shape):
            allowed = types(option.schema)
            if allowed is None:
                return None
            found |= allowed
    return frozenset(found)


def json_type(value: Any) -> str:
    """The JSON type of a plain value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list | tuple) else "object"


def called(names: Iterable[str]) -> str:
    """JSON types as people say them."""
    return " or ".join(_NAMES.get(name, name) for name in sorted(names))


def follow(shapes: Sequence[Shape], path: Sequence[str | int], *, lenient: bool = False) -> tuple[Shape, ...] | Problem:
    """What stands at `path`. `lenient`: only a schema that forbids other fields rules a field out.

    Otherwise an object whose fields are listed has those fields and no others unless it says so:
    the schemas of typed classes do not spell that out.
    """
    here = tuple(shapes)
    for depth, key in enumerate(path):
        found = _step(here, key, depth, lenient)
        if isinstance(found, Problem):
            return found
        if is_open(found):
            return OPEN
        here = found
    return here


def _step(shapes: Sequence[Shape], key: str | int, depth: int, lenient: bool) -> tuple[Shape, ...] | Problem:
    found: list[Shape] = []
    fields: dict[str, None] = {}
    misfits: set[str] = set()
    for shape in shapes:
        for option in expand(shape):
            if is_open([option]):
                return OPEN
            allowed = types(option.schema)
            wanted = "object" if isinstance(key, str) else "array"
            if allowed is not None and wanted not in allowed:
                if isinstance(key, int) and "string" in allowed:
                    found.append(Shape({"type": "string"}, True))
                misfits |= allowed - {"null"}
                continue
            inner = _field(option, key, lenient) if isinstance(key, str) else _element(option, key)
            if inner is None:
                fields.update(dict.fromkeys(option.schema.get("properties", ())))
            else:
                found.append(inner)
    if found:
        return OPEN if is_open(found) else tuple(found)
    if isinstance(key, str) and (fields or not misfits):
        has = f"; it has {some(fields)}" if fields else ""
        return Problem(depth, f"has no field {key!r}{has}", key, tuple(fields))
    if isinstance(key, str):
        return Problem(depth, f"is {called(misfits) or 'null'}: it has no field {key!r}")
    if misfits:
        return Problem(depth, f"is {called(misfits)}: it has no element [{key}]")
    return Problem(depth, f"has no element [{key}]")


def _field(shape: Shape, key: str, lenient: bool) -> Shape | None:
    schema = shape.schema
    declared = schema.get("properties") or {}
    if key in declared:
        return Shape(declared[key], shape.root)
    if schema.get("patternProperties"):
        return OPEN[0]
    others = schema.get("additionalProperties", not declared or lenient)
    if others is False:
        return None
    return OPEN[0] if others is True else Shape(others, shape.root)


def _element(shape: Shape, key: int) -> Shape | None:
    schema = shape.schema
    first = schema.get("prefixItems") or []
    if 0 <= key < len(first):
        return Shape(first[key], shape.root)
    if first and key < 0:
        return OPEN[0]
    rest = schema.get("items", True)
    if rest is False:
        return None
    return Shape(rest, shape.root)
