"""Reshape plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmason.component import Context, operator, parse_json
from flowmason.component.models import Field, OperatorInput, OperatorOutput
from flowmason.control import MISSING, parse_dotted, pick
from flowmason.errors import Code, StageError


@operator(
    name="json_transform",
    category="core",
    description="Reshape data: a JMESPath expression, a mapping of fields, flattening, or leaving fields out.",
    icon="code",
    color="#F59E0B",
    timeout_seconds=10,
)
class JsonTransform:
    """JMESPath goes before mapping, mapping before flatten; with none of them the data stay as they are."""

    class Input(OperatorInput):
        data: Any
        mapping: dict[str, str] | None = Field(default=None, description="New field → path: `orders[0].total`.")
        jmespath_expression: str | None = None
        defaults: dict[str, Any] = Field(default={}, description="For fields of the result that are missing or null.")
        flatten: bool = Field(default=False, description="One level, keys written `a.b[0].c`.")
        exclude_fields: list[str] = Field(default=[], description="Paths left out of the result, in every mode.")
        parse_json_strings: bool = Field(
            default=True, description="Read text that holds JSON, also in a fenced block or amid prose."
        )

    class Output(OperatorOutput):
        result: Any = None
        fields_mapped: int = Field(default=0, description="Fields of the result that came from the data.")
        fields_missing: list[str] = Field(default=[], description="Mapped fields that neither data nor defaults had.")

    async def execute(self, input: Input, context: Context) -> Output:
        data = _read(input.data) if input.parse_json_strings and isinstance(input.data, str) else input.data
        missing: list[str] = []
        if input.jmespath_expression:
            result = _search(input.jmespath_expression, data)
        elif input.mapping:
            found = {target: pick(data, path) for target, path in input.mapping.items()}
            missing = [target for target, value in found.items() if value is MISSING and target not in input.defaults]
            result = {target: value for target, value in found.items() if value is not MISSING}
        elif input.flatten:
            result = _flattened(data)
        else:
            result = data
        mapped = len(result) if isinstance(result, Mapping) else int(result is not None)
        if input.defaults and isinstance(result, Mapping):
            result = {**result, **{k: v for k, v in input.defaults.items() if result.get(k) is None}}
        for field in input.exclude_fields:
            result = _without(result, field)
        return self.Output(result=result, fields_mapped=mapped, fields_missing=missing)


def _read(text: str) -> Any:
    try:
        found = parse_json(text)
    except StageError:
        return text
    # A bare number or word is meant as text.
    return found if isinstance(found, dict | list) else text


_STEPS = 10_000_000
"""An expression may take so many steps; two items of a list that it makes are one."""
_VALUES = 10_000_000
"""A result may hold so many values: what is small in memory, one list named many times, is not when it is written."""


def _search(expression: str, data: Any) -> Any:
    import jmespath
    from jmespath.exceptions import JMESPathError
    from jmespath.visitor import TreeInterpreter

    steps = 0

    class Bounded(TreeInterpreter):  # type: ignore[misc]
        def visit(self, node: Any, *args: Any, **named: Any) -> Any:
            nonlocal steps
            found = super().visit(node, *args, **named)
            steps += 1 + (len(found) // 2 if isinstance(found, list) else 0)
            if steps > _STEPS:
                raise _refused(f"it takes more than {_STEPS:,} steps")
            return found

    try:
        found = Bounded().visit(jmespath.compile(expression).parsed, data)
    except JMESPathError as error:
        raise _refused(str(error)) from error
    except RecursionError:
        raise _refused("it nests too deep") from None
    pending, count = [found], 0
    while pending:
        value = pending.pop()
        if isinstance(value, list | Mapping):
            count += len(value)
            if count > _VALUES:
                raise _refused(f"its result holds more than {_VALUES:,} values")
            pending.extend(value.values() if isinstance(value, Mapping) else value)
    return found


def _refused(reason: str) -> StageError:
    return StageError(
        f"jmespath_expression: {reason}", code=Code.INVALID_INPUT, details={"field": "jmespath_expression"}
    )


def _flattened(data: Any) -> Any:
    if not isinstance(data, Mapping | list | tuple):
        return data
    flat: dict[str, Any] = {}
    pending: list[tuple[str, Any]] = [("", data)]
    while pending:
        prefix, value = pending.pop()
        if isinstance(value, Mapping) and value:
            parts = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple) and value:
            parts = [(f"{prefix}[{index}]", item) for index, item in enumerate(value)]
        elif prefix:
            flat[prefix] = value
            continue
        else:
            return value
        pending.extend(reversed(parts))
    return flat


def _without(value: Any, field: str) -> Any:
    """A copy of `value` without what `field` names: in an object, in a flattened one, or in each of a list."""
    if isinstance(value, list):
        return [_without(item, field) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {k: v for k, v in value.items() if k != field and not k.startswith((field + ".", field + "["))}
    if len(kept) < len(value):
        return kept
    return _pruned(value, parse_dotted(field))


def _pruned(value: Any, steps: tuple[str | int, ...]) -> Any:
    if not steps:
        return value
    head, rest = steps[0], steps[1:]
    if isinstance(value, Mapping) and head in value:
        if not rest:
            return {key: item for key, item in value.items() if key != head}
        return {**value, str(head): _pruned(value[str(head)], rest)}
    if isinstance(value, list):
        if isinstance(head, str):
            return [_pruned(item, steps) for item in value]
        if -len(value) <= head < len(value):
            at = head % len(value)
            middle = [_pruned(value[at], rest)] if rest else []
            return [*value[:at], *middle, *value[at + 1 :]]
    return value
