"""Let data pass, or the items of a list, by a condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from flowmason.component import Context, operator
from flowmason.component.models import Field, OperatorInput, OperatorOutput
from flowmason.control import MISSING, pick
from flowmason.errors import Code, StageError
from flowmason.expressions import Names, parse_condition, prepare, references

_NAMES = ("data", "item", "index")


@operator(
    name="filter",
    version="1.1.0",
    category="core",
    description="Let data through, or items of a list, by a condition or by field values.",
    icon="filter",
    color="#8B5CF6",
    timeout_seconds=5,
)
class Filter:
    """`condition` and `field_conditions` must both hold where both are given."""

    class Input(OperatorInput):
        data: Any
        condition: str | bool | None = Field(
            default=None,
            description="An expression over `data` and, in a list, `item` and `index`.",
            json_schema_extra={"x-expression": list(_NAMES)},
        )
        field_conditions: dict[str, Any] = Field(default={}, description="Path → the value it must equal.")
        pass_if_missing: bool = Field(
            default=False, description="What lacks a field that a condition names passes, instead of failing."
        )
        filter_mode: Literal["pass_fail", "filter_array"] = "pass_fail"
        invert: bool = Field(default=False, description="Let through what does not match.")

    class Output(OperatorOutput):
        passed: bool = Field(description="In a list: whether any item passed.")
        data: Any = Field(default=None, description="What passed; null where the data did not.")
        filtered_count: int = Field(default=0, description="How many items (or 1) did not pass.")
        reason: str = ""

    async def execute(self, input: Input, context: Context) -> Output:
        if input.condition in (None, "") and not input.field_conditions:
            raise StageError("filter needs condition or field_conditions", code=Code.INVALID_INPUT)
        test = _test(input)
        if input.filter_mode == "pass_fail":
            passed = test({"data": input.data, "item": input.data, "index": 0})
            return self.Output(
                passed=passed,
                data=input.data if passed else None,
                filtered_count=0 if passed else 1,
                reason=_reason(passed, input),
            )
        if not isinstance(input.data, list | tuple):
            raise StageError(
                f"filter_mode filter_array needs a list, got {type(input.data).__name__}",
                code=Code.INVALID_INPUT,
                details={"field": "data"},
            )
        kept = []
        for index, item in enumerate(input.data):
            try:
                if test({"data": input.data, "item": item, "index": index}):
                    kept.append(item)
            except StageError as error:
                raise StageError(
                    f"condition failed on item {index}: {error}",
                    code=error.failure.code,
                    details={**(error.failure.details or {}), "index": index},
                ) from error
        dropped = len(input.data) - len(kept)
        return self.Output(
            passed=bool(kept),
            data=kept,
            filtered_count=dropped,
            reason=f"{len(kept)} of {len(input.data)} items passed",
        )


def _reason(passed: bool, input: Filter.Input) -> str:
    return "passed" if passed else ("matched, and the filter is inverted" if input.invert else "did not match")


def _test(input: Filter.Input) -> Callable[[Mapping[str, Any]], bool]:
    matches = _matcher(input)
    lacks = _lacking(input) if input.pass_if_missing else None

    def test(roots: Mapping[str, Any]) -> bool:
        if lacks is not None and lacks(roots):
            return True
        return matches(roots) is not input.invert

    return test


def _matcher(input: Filter.Input) -> Callable[[Mapping[str, Any]], bool]:
    fields = list(input.field_conditions.items())
    condition = input.condition
    if isinstance(condition, str) and condition:
        run = prepare(_parsed(condition))
    elif isinstance(condition, bool):
        constant = condition

        def run(roots: Mapping[str, Any], budget: Any = None) -> Any:
            return constant
    else:

        def run(roots: Mapping[str, Any], budget: Any = None) -> Any:
            return True

    def matches(roots: Mapping[str, Any]) -> bool:
        return bool(run(roots, None)) and all(_equal(pick(roots["item"], path), wanted) for path, wanted in fields)

    return matches


def _equal(found: Any, wanted: Any) -> bool:
    # As JSON has it: true is not 1.
    return found is not MISSING and isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)


def _parsed(condition: str) -> Any:
    return parse_condition(condition, Names(stages=frozenset(), variables=frozenset(_NAMES)))


def _lacking(input: Filter.Input) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a field is missing that a condition names."""
    paths: list[tuple[str, tuple[str | int, ...]]] = []
    if isinstance(input.condition, str) and input.condition:
        paths = [(ref.root, ref.path) for ref in references(_parsed(input.condition)) if not ref.optional]

    def lacks(roots: Mapping[str, Any]) -> bool:
        if any(pick(roots["item"], path) is MISSING for path in input.field_conditions):
            return True
        return any(_walk(roots[root], path) is MISSING for root, path in paths if root in roots)

    return lacks


def _walk(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        if isinstance(value, Mapping) and step in value:
            value = value[str(step)]
        elif isinstance(value, list | tuple) and isinstance(step, int) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return MISSING
    return value
