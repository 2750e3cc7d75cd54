"""The least value that fits a JSON Schema: what the mock answers where no script says otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flowmason.errors import Code, ProviderError

_DEEPEST = 32
_FORMATS = {
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "PT0S",
    "email": "mock@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def instance_of(schema: Mapping[str, Any]) -> Any:
    """A small value that fits `schema`, the same every time.

    `const`, `enum`, `default` and `examples` are taken where they are given. Raises `ProviderError` where no value is
    found that fits (a `pattern` that a plain text does not match, say): the mock must then be given its answer.
    """
    value = _build(schema, schema, 0)
    _check(schema, value)
    return value


def _check(schema: Mapping[str, Any], value: Any) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema)
    error = next(iter(validator.iter_errors(value)), None)
    if error is not None:
        raise _cannot(f"{error.json_path}: {error.message}")


def _cannot(reason: str) -> ProviderError:
    return ProviderError(
        f"the mock finds no value for this JSON Schema ({reason})",
        code=Code.PROVIDER,
        help="Give the mock its answer.",
    )


def _build(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if depth > _DEEPEST:
        raise _cannot("it never ends")
    if schema is True or schema == {}:
        return "mock"
    if not isinstance(schema, Mapping):
        raise _cannot("a part of it allows nothing")
    if "$ref" in schema:
        return _build({**_resolve(str(schema["$ref"]), root), **_without(schema, "$ref")}, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    if "default" in schema:
        return schema["default"]
    if isinstance(schema.get("allOf"), list):
        return _build(_merge([_without(schema, "allOf"), *schema["allOf"]], root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return _first_that_ends([_merge([_without(schema, key), one], root) for one in schema[key]], root, depth)
    return _of_type(schema, root, depth)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    if kind == "object":
        properties = schema.get("properties", {})
        required = list(dict.fromkeys(schema.get("required", ())))
        return {name: _build(properties.get(name, True), root, depth + 1) for name in required}
    if kind == "array":
        prefix = schema.get("prefixItems", [])
        count = max(schema.get("minItems", 0), len(prefix) if "minItems" not in schema else 0)
        items = [prefix[n] if n < len(prefix) else schema.get("items", True) for n in range(min(count, 1000))]
        return [_build(item, root, depth + 1) for item in items]
    if kind in ("integer", "number"):
        return _number(schema, kind == "integer")
    if kind == "boolean":
        return False
    if kind == "null":
        return None
    text = _FORMATS.get(str(schema.get("format")), "mock")
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: schema["maxLength"]] if "maxLength" in schema else text


def _number(schema: Mapping[str, Any], whole: bool) -> int | float:
    low = max(
        (schema[key] for key in ("minimum", "exclusiveMinimum") if isinstance(schema.get(key), int | float)),
        default=-math.inf,
    )
    high = min(
        (schema[key] for key in ("maximum", "exclusiveMaximum") if isinstance(schema.get(key), int | float)),
        default=math.inf,
    )
    step = schema.get("multipleOf") or 1
    if low == -math.inf:
        low = min(0.0, high - step) if high != math.inf else 0.0
    candidates = [0, low, math.ceil(low / step) * step, (math.floor(low / step) + 1) * step]
    if high != math.inf:
        candidates.append((low + high) / 2)
    for candidate in candidates:
        above = candidate >= low and candidate != schema.get("exclusiveMinimum")
        below = candidate <= high and candidate != schema.get("exclusiveMaximum")
        if above and below and (not whole or candidate == int(candidate)):
            return int(candidate) if candidate == int(candidate) else candidate
    raise _cannot("no number is in its range")


def _first_that_ends(options: list[Mapping[str, Any]], root: Mapping[str, Any], depth: int) -> Any:
    error: ProviderError | None = None
    for option in sorted(options, key=lambda one: one.get("type") == "null"):
        try:
            return _build(option, root, depth + 1)
        except ProviderError as caught:
            error = caught
    raise error or _cannot("it has no option")


def _merge(schemas: list[Any], root: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in schemas:
        if schema is True:
            continue
        if not isinstance(schema, Mapping):
            raise _cannot("a part of it allows nothing")
        part = dict(schema)
        if "$ref" in part:
            part = {**_resolve(str(part.pop("$ref")), root), **part}
        part["properties"] = {**merged.get("properties", {}), **part.get("properties", {})}
        part["required"] = [*merged.get("required", ()), *part.get("required", ())]
        merged.update({key: value for key, value in part.items() if value or key not in ("properties", "required")})
    return merged


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    if not reference.startswith("#"):
        raise _cannot(f"{reference!r} lies elsewhere")
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            raise _cannot(f"{reference!r} is not there")
        found = found[key]
    if not isinstance(found, Mapping):
        raise _cannot(f"{reference!r} is no schema")
    return found


def _without(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}
