"""Whether a value is a sound JSON Schema (2020-12), told without loading a validator.

Stricter than the standard's meta-schema in what would only fail later: a `$ref` must lead to something in the
same schema, and a `pattern` must compile.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from flowmason.pipeline.pointers import Path

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")

_ONE = ("additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then")
_ONE_MORE = ("unevaluatedItems", "unevaluatedProperties")
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_COUNTS = ("maxContains", "maxItems", "maxLength", "maxProperties", "minContains", "minItems", "minLength")
_COUNTS_MORE = ("minProperties",)
_NUMBERS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum")
_TEXTS = ("$anchor", "$comment", "$dynamicAnchor", "$dynamicRef", "$id", "$ref", "$schema", "contentEncoding")
_TEXTS_MORE = ("contentMediaType", "description", "format", "pattern", "title")
_FLAGS = ("deprecated", "readOnly", "uniqueItems", "writeOnly")

_KIND = {
    **dict.fromkeys(_ONE + _ONE_MORE, "schema"),
    **dict.fromkeys(_MANY, "schemas"),
    **dict.fromkeys(_NAMED, "named"),
    **dict.fromkeys(_COUNTS + _COUNTS_MORE, "count"),
    **dict.fromkeys(_NUMBERS, "number"),
    **dict.fromkeys(_TEXTS + _TEXTS_MORE, "text"),
    **dict.fromkeys(_FLAGS, "flag"),
    "type": "type",
    "required": "names",
    "enum": "list",
    "examples": "list",
    "multipleOf": "positive",
    "dependentRequired": "name lists",
    "dependencies": "dependencies",
    "$vocabulary": "object",
}
_LONGEST_PATTERN = 2_000
_ALL_PATTERNS = 200_000
"""Characters of all patterns of a schema; more would take too long to compile."""
_ANCHOR = re.compile(r"[A-Za-z_][-A-Za-z0-9._]*\Z")
_DIALECTS = ("https://json-schema.org/draft/2020-12/schema", "https://json-schema.org/draft/2020-12/schema#")


def check_schema(schema: Any) -> Iterator[tuple[Path, str]]:
    """Everything that is wrong with `schema`, as pairs of place (inside the schema) and reason."""
    pending: list[tuple[Path, Any]] = [((), schema)]
    references: list[tuple[Path, str]] = []
    anchors: set[str] = set()
    patterns = 0
    while pending:
        path, current = pending.pop()
        if isinstance(current, bool):
            continue
        if not isinstance(current, dict):
            yield path, "expected a JSON Schema (an object, true or false)"
            continue
        inner: list[tuple[Path, Any]] = []
        for keyword, value in current.items():
            kind = _KIND.get(keyword)
            if kind is None:
                continue
            place = (*path, keyword)
            if keyword in ("pattern", "patternProperties"):
                patterns += sum(map(len, value)) if isinstance(value, dict) else len(str(value))
                if patterns > _ALL_PATTERNS:
                    yield place, f"the patterns are longer than {_ALL_PATTERNS:,} characters together"
                    return
            yield from _check(kind, keyword, value, place, inner)
            if keyword in ("$ref", "$dynamicRef") and isinstance(value, str):
                references.append((place, value))
            elif keyword in ("$anchor", "$dynamicAnchor") and isinstance(value, str):
                anchors.add(value)
        pending.extend(reversed(inner))
    for place, target in references:
        reason = _dangling(schema, target, anchors)
        if reason:
            yield place, reason


def _check(
    kind: str, keyword: str, value: Any, place: Path, inner: list[tuple[Path, Any]]
) -> Iterator[tuple[Path, str]]:
    if kind == "schema":
        inner.append((place, value))
    elif kind == "schemas":
        if not isinstance(value, list) or not value:
            yield place, f"{keyword} must be a list of at least one JSON Schema"
        else:
            inner.extend(((*place, index), item) for index, item in enumerate(value))
    elif kind == "named":
        if not isinstance(value, dict):
            yield place, f"{keyword} must be an object of JSON Schemas"
            return
        inner.extend(((*place, name), item) for name, item in value.items())
        if keyword == "patternProperties":
            for pattern in value:
                yield from _pattern(pattern, (*place, pattern))
    elif kind == "dependencies":
        if not isinstance(value, dict):
            yield place, f"{keyword} must be an object"
            return
        for name, item in value.items():
            if isinstance(item, list):
                yield from _names(keyword, item, (*place, name))
            else:
                inner.append(((*place, name), item))
    elif kind == "name lists":
        if not isinstance(value, dict):
            yield place, f"{keyword} must be an object of lists of names"
            return
        for name, item in value.items():
            yield from _names(keyword, item, (*place, name))
    elif kind == "names":
        yield from _names(keyword, value, place)
    elif kind == "type":
        yield from _type(value, place)
    else:
        yield from _plain(kind, keyword, value, place)


def _plain(kind: str, keyword: str, value: Any, place: Path) -> Iterator[tuple[Path, str]]:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "count" and not (numeric and value >= 0 and value == value // 1):
        yield place, f"{keyword} must be a whole number of at least 0"
    elif kind == "number" and not numeric:
        yield place, f"{keyword} must be a number"
    elif kind == "positive" and not (numeric and value > 0):
        yield place, f"{keyword} must be a number above 0"
    elif kind == "flag" and not isinstance(value, bool):
        yield place, f"{keyword} must be true or false"
    elif kind == "list" and not isinstance(value, list):
        yield place, f"{keyword} must be a list"
    elif kind == "object" and not isinstance(value, dict):
        yield place, f"{keyword} must be an object"
    elif kind == "text":
        if not isinstance(value, str):
            yield place, f"{keyword} must be a string"
        elif keyword == "pattern":
            yield from _pattern(value, place)
        elif keyword in ("$anchor", "$dynamicAnchor") and not _ANCHOR.match(value):
            yield place, f"{keyword} must be letters, digits, '_', '-' and '.', starting with a letter or '_'"
        elif keyword == "$schema" and value not in _DIALECTS:
            yield place, f"only JSON Schema 2020-12 is supported ({_DIALECTS[0]})"


def _names(keyword: str, value: Any, place: Path) -> Iterator[tuple[Path, str]]:
    if not isinstance(value, list):
        yield place, f"{keyword} must be a list of names"
        return
    seen: set[str] = set()
    for index, name in enumerate(value):
        if not isinstance(name, str):
            yield (*place, index), f"{keyword} must be a list of names (strings)"
        elif name in seen:
            yield (*place, index), f"{name!r} is listed twice"
        else:
            seen.add(name)


def _type(value: Any, place: Path) -> Iterator[tuple[Path, str]]:
    names = value if isinstance(value, list) else [value]
    if not names:
        yield place, "type must name at least one type"
    for index, name in enumerate(names):
        at = (*place, index) if isinstance(value, list) else place
        if not isinstance(name, str) or name not in TYPES:
            yield at, f"type must be one of {', '.join(TYPES)}"
        elif name in names[:index]:
            yield at, f"{name!r} is listed twice"


def _pattern(value: str, place: Path) -> Iterator[tuple[Path, str]]:
    if len(value) > _LONGEST_PATTERN:
        yield place, f"the pattern is longer than {_LONGEST_PATTERN:,} characters"
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        yield place, f"the pattern does not compile: {error}"


def _dangling(schema: Any, target: str, anchors: set[str]) -> str | None:
    if target == "#":
        return None
    if not target.startswith("#"):
        return f"$ref {target!r} leaves the schema; only references into it (#/$defs/…) are followed"
    if not target.startswith("#/"):
        return None if target[1:] in anchors else f"$ref {target!r} leads nowhere: there is no such $anchor"
    current = schema
    for part in target[2:].split("/"):
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(current, dict) and name in current:
            current = current[name]
        elif isinstance(current, list) and name.isdecimal() and int(name) < len(current):
            current = current[int(name)]
        else:
            return f"$ref {target!r} leads nowhere"
    return None if isinstance(current, (dict, bool)) else f"$ref {target!r} leads to something that is no schema"
