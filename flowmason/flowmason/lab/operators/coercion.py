"""Turn values into the types that a JSON Schema asks for, where nothing is lost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

_INTEGER = re.compile(r"\s*[+-]?\d{1,4000}\s*\Z")
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*\Z")
_WORDS = {"true": True, "false": False}
_DEPTH = 200


def coerced(data: Any, schema: Mapping[str, Any]) -> Any:
    """A copy of `data` in which values that do not have the schema's type were turned into it where they can be.

    Text becomes numbers, booleans, null, and lists or objects where it holds such JSON; numbers and booleans
    become text. What cannot be turned stays, for the validator to name. Follows `properties`,
    `additionalProperties`, `items`, `prefixItems`, `allOf`, and `$ref` inside the schema.
    """
    return _walk(data, schema, schema, 0)


def _walk(data: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return data
    reference = schema.get("$ref")
    if isinstance(reference, str):
        data = _walk(data, _resolve(reference, root), root, depth + 1)
    for part in _list(schema.get("allOf")):
        data = _walk(data, part, root, depth + 1)
    wanted = schema.get("type")
    if wanted is not None:
        data = _to_type(data, [wanted] if isinstance(wanted, str) else list(wanted))
    if isinstance(data, dict):
        named = schema.get("properties") or {}
        rest = schema.get("additionalProperties")
        return {key: _walk(item, named.get(key, rest), root, depth + 1) for key, item in data.items()}
    if isinstance(data, list):
        items = schema.get("items")
        first = _list(schema.get("prefixItems")) or _list(items)
        rest = schema.get("additionalItems") if isinstance(items, list) else items
        return [
            _walk(item, first[index] if index < len(first) else rest, root, depth + 1)
            for index, item in enumerate(data)
        ]
    return data


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    if not reference.startswith("#"):
        return None
    at: Any = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(at, Mapping) and key in at:
            at = at[key]
        elif isinstance(at, list) and key.isdecimal() and int(key) < len(at):
            at = at[int(key)]
        else:
            return None
    return at


def _is(data: Any, name: str) -> bool:
    if name in ("integer", "number"):
        if isinstance(data, bool) or not isinstance(data, int | float):
            return False
        return name == "number" or isinstance(data, int) or data.is_integer()
    kinds = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict}
    return isinstance(data, kinds.get(name, ()))


def _to_type(data: Any, names: list[Any]) -> Any:
    if any(_is(data, name) for name in names):
        return data
    for name in names:
        made = _convert(data, name)
        if made is not _NOTHING:
            return made
    return data


_NOTHING: Any = object()


def _convert(data: Any, name: Any) -> Any:
    if isinstance(data, str):
        return _from_text(data, name)
    if name == "string" and isinstance(data, int | float):
        return msgspec.json.encode(data).decode()
    if name == "boolean" and not isinstance(data, bool) and data in (0, 1):
        return bool(data)
    return _NOTHING


def _from_text(text: str, name: Any) -> Any:
    word = text.strip().lower()
    if name == "integer" and _INTEGER.match(text):
        return int(text)
    if name == "number" and _NUMBER.match(text):
        number = int(text) if _INTEGER.match(text) else float(text)
        return number if math.isfinite(number) else _NOTHING
    if name == "boolean" and word in _WORDS:
        return _WORDS[word]
    if name == "null" and word in ("", "null"):
        return None
    if name in ("array", "object"):
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return _NOTHING
        return found if _is(found, name) else _NOTHING
    return _NOTHING
