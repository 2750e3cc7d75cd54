"""A run's input and output against the pipeline's schemas: defaults filled in, everything wrong told at once."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flowmason.component.patterns import bounded
from flowmason.errors import Code, Failure, Fault, RefusedError, StageError, did_you_mean

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*\Z")
_NOTES = frozenset({"$schema", "$id", "$comment", "title", "description", "examples", "$defs", "default"})
_MAX_DEPTH = 64
_MAX_FAULTS = 50


def prepare_input(schema: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """The input of a run: `given` with the schema's defaults filled in, however deep. `given` is left as it is.

    None stands for an empty object. Raises `RefusedError` (`INVALID_INPUT`) with everything that is wrong, each
    with its JSON path (`$.input.orders[2].total`).
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        fault = Fault(f"expected an object, found {_kind(given)}", "$.input", code=Code.INVALID_INPUT)
        raise RefusedError([fault])
    if says_nothing(schema):
        return dict(given)
    filled = _fill(schema, schema, copy.deepcopy(dict(given)), 0)
    faults = list(_faults(schema, filled, "$.input", Code.INVALID_INPUT))
    if faults:
        raise RefusedError(faults)
    assert isinstance(filled, dict)
    return filled


def blobs_in(given: Any) -> Iterator[tuple[str, Any]]:
    """What stands as `$blob` anywhere in an input, each with its JSON path."""
    left: list[tuple[str, Any]] = [("$.input", given)]
    while left:
        pointer, each = left.pop()
        if isinstance(each, Mapping):
            if "$blob" in each:
                yield pointer, each["$blob"]
            left += [(pointer + _step(str(name)), inner) for name, inner in each.items()]
        elif isinstance(each, list | tuple):
            left += [(pointer + _step(position), inner) for position, inner in enumerate(each)]


def check_output(schema: Mapping[str, Any], value: Any) -> Failure | None:
    """What is wrong with a pipeline's output, as one failure (`INVALID_OUTPUT`); None: nothing."""
    if says_nothing(schema) and isinstance(value, Mapping):
        return None
    if not schema:
        return None
    faults = list(_faults(schema, value, "$.output", Code.INVALID_OUTPUT))
    if not faults:
        return None
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Failure(
        code=Code.INVALID_OUTPUT,
        message=f"the output is not what output_schema promises: {faults[0]}{more}",
        type="InvalidOutputError",
        details={"faults": [{"pointer": fault.pointer, "reason": fault.reason} for fault in faults]},
    )


def says_nothing(schema: Mapping[str, Any]) -> bool:
    """Whether every object fits a schema and none of its fields has a default."""
    for key, value in schema.items():
        if key in _NOTES or (key == "type" and value == "object"):
            continue
        if key in ("properties", "required", "patternProperties") and not value:
            continue
        if key == "additionalProperties" and value in (True, {}) and value is not False:
            continue
        return False
    return True


def _fill(schema: Any, root: Mapping[str, Any], value: Any, depth: int) -> Any:
    """`value` with the defaults of every object that is there."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return value
    if isinstance(schema.get("$ref"), str):
        value = _fill(_local(root, schema["$ref"]), root, value, depth + 1)
    for part in schema.get("allOf") or ():
        value = _fill(part, root, value, depth + 1)
    if isinstance(value, dict):
        properties = schema.get("properties")
        for name, inner in properties.items() if isinstance(properties, Mapping) else ():
            if name not in value:
                default = _default(inner, root)
                if default is None:
                    continue
                value[name] = copy.deepcopy(default[0])
            value[name] = _fill(inner, root, value[name], depth + 1)
    elif isinstance(value, list):
        first = schema.get("prefixItems") or []
        for position, item in enumerate(value):
            inner = first[position] if position < len(first) else schema.get("items")
            value[position] = _fill(inner, root, item, depth + 1)
    return value


def _default(schema: Any, root: Mapping[str, Any]) -> tuple[Any] | None:
    seen = 0
    while isinstance(schema, Mapping) and seen < _MAX_DEPTH:
        if "default" in schema:
            return (schema["default"],)
        schema = _local(root, schema.get("$ref"))
        seen += 1
    return None


def _local(root: Any, reference: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    here = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(here, Mapping) or key not in here:
            return None
        here = here[key]
    return here


def _faults(schema: Mapping[str, Any], value: Any, pointer: str, code: str) -> Iterator[Fault]:
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        # Sorted by place, so that the same input is told the same things in the same order.
        errors = sorted(_validator(schema).iter_errors(value), key=lambda error: [str(part) for part in error.path])
    except (Unresolvable, RecursionError) as unresolved:
        yield Fault(f"the schema cannot be followed: {unresolved}", pointer, code=code)
        return
    except StageError as endless:
        yield Fault(endless.failure.message, pointer, code=code)
        return
    for error in errors[:_MAX_FAULTS]:
        while error.context:
            # A union: what is wrong with the alternative that was most likely meant.
            inner = best_match(error.context)
            if inner is None or len(inner.absolute_path) <= len(error.absolute_path):
                break
            error = inner
        yield from _told(error, pointer + "".join(_step(part) for part in error.absolute_path), code)
    if len(errors) > _MAX_FAULTS:
        yield Fault(f"{len(errors) - _MAX_FAULTS} more faults are not listed", pointer, code=code)


_KEPT_VALIDATORS = 64
_validators: dict[int, tuple[Mapping[str, Any], Validator]] = {}


def _validator(schema: Mapping[str, Any]) -> Validator:
    """The validator of a schema; those of the latest few are kept, since many runs have the same."""
    known = _validators.get(id(schema))
    if known is not None and known[0] is schema:
        return known[1]
    made = _make_validator(schema)
    while len(_validators) >= _KEPT_VALIDATORS:
        _validators.pop(next(iter(_validators)), None)
    _validators[id(schema)] = (schema, made)
    return made


def _make_validator(schema: Mapping[str, Any]) -> Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(schema, default=Draft202012Validator)
    # An empty registry knows the standard's own schemas and fetches nothing.
    made: Validator = bounded(kind)(schema, registry=Registry())
    return made


def _told(error: Any, pointer: str, code: str) -> Iterator[Fault]:
    known = list(error.schema.get("properties", ())) if isinstance(error.schema, Mapping) else []
    if error.validator == "required":
        for name in error.validator_value:
            if isinstance(error.instance, Mapping) and name not in error.instance and repr(name) in error.message:
                yield Fault(f"the field {name!r} is missing", pointer, code=code)
                return
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        patterns = error.schema.get("patternProperties", ())
        for name in error.instance:
            if name not in known and not any(re.search(pattern, name) for pattern in patterns):
                has = f"; there are {', '.join(known[:8])}" if known else ""
                near = did_you_mean(name, known) if len(name) <= 100 else None
                yield Fault(f"there is no field {name!r}{has}", pointer + _step(name), nearest=near, code=code)
        return
    if error.validator == "type":
        wanted = error.validator_value
        listed = " or ".join(wanted) if isinstance(wanted, list) else wanted
        yield Fault(f"expected {listed}, found {_kind(error.instance)}", pointer, code=code)
        return
    near = None
    if error.validator == "enum" and isinstance(error.instance, str) and len(error.instance) <= 100:
        near = did_you_mean(error.instance, [choice for choice in error.validator_value if isinstance(choice, str)])
    text = error.message
    yield Fault(text if len(text) <= 300 else text[:299] + "…", pointer, nearest=near, code=code)


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _PLAIN.match(part) else f"[{json.dumps(part)}]"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return f"the number {value}" if len(str(value)) < 40 else "a number"
    if isinstance(value, str):
        return f"the string {json.dumps(value[:40], ensure_ascii=False)}"
    return "a list" if isinstance(value, list | tuple) else "an object"
