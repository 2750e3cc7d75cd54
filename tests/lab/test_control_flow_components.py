"""The six components give what the pure functions decide, under typed fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from flowmason import control
from flowmason.component import spec_of
from flowmason.control import inputs as forms
from flowmason.lab import control_flow
from flowmason.policy import Effect

CASES: dict[str, dict[str, Any]] = {
    "conditional": {"condition": 4, "condition_expression": "value > 3", "pass_data": {"a": 1}},
    "router": {"value": "x", "routes": {"x": ["a"], "y": "b"}, "default_route": ["c"]},
    "foreach": {"items": [1, 2, 3], "filter_expression": "item != 2", "parallel": True},
    "trycatch": {"try_stages": ["a"], "catch_error_types": ["KeyError"]},
    "subpipeline": {"pipeline_id": "other", "input_data": {"a": 1}},
    "return": {"condition": True, "return_value": 5, "message": "enough"},
}
COMPONENTS: dict[str, Any] = {spec_of(cls).name: cls for cls in control_flow.COMPONENTS}
FORMS: dict[str, type[msgspec.Struct]] = {
    "conditional": forms.Conditional,
    "router": forms.Router,
    "foreach": forms.Foreach,
    "trycatch": forms.TryCatch,
    "subpipeline": forms.SubPipeline,
    "return": forms.Return,
}


@pytest.mark.parametrize("name", sorted(CASES))
async def test_a_component_gives_the_decisions_output(name: str, run: Callable[..., Any]) -> None:
    assert await run(COMPONENTS[name], CASES[name]) == control.decide(name, CASES[name]).output


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_pure_form_and_the_component_have_the_same_fields_and_defaults(name: str) -> None:
    fields = COMPONENTS[name].Input.model_fields
    required = {field for field, info in fields.items() if info.is_required()}
    form = FORMS[name]
    assert set(fields) == set(form.__struct_fields__)
    assert required == {field.name for field in msgspec.structs.fields(form) if field.required}
    for field in msgspec.structs.fields(form):
        if field.name not in required:
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            assert fields[field.name].get_default(call_default_factory=True) == default, field.name


@pytest.mark.parametrize("name", sorted(CASES))
def test_control_flow_is_pure_and_named_by_its_type(name: str) -> None:
    spec = spec_of(COMPONENTS[name])
    assert (spec.effect, spec.control_flow_type, spec.kind) == (Effect.PURE, name, "control_flow")
    assert not spec.output_open


async def test_an_unknown_field_is_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(ValidationError, match="true_branch"):
        await run(COMPONENTS["conditional"], {"condition": 1, "true_branch": "a"})


def test_the_fields_that_hold_expressions_say_so() -> None:
    marked = {}
    for name, cls in COMPONENTS.items():
        for field, schema in spec_of(cls).input_schema["properties"].items():
            if "x-expression" in schema:
                marked[f"{name}.{field}"] = schema["x-expression"]
    assert marked == {
        "conditional.condition_expression": ["value"],
        "router.value_expression": ["value"],
        "foreach.filter_expression": ["item", "index"],
        "return.condition_expression": ["value"],
    }
