"""A handful of components, as their specs only, and a short way from JSON to a Plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from flowmason.compiler import compile_pipeline
from flowmason.component import ComponentSpec, EffectBy
from flowmason.errors import Fault, RefusedError
from flowmason.ids import StageId
from flowmason.pipeline import Pipeline, parse_pipeline
from flowmason.plan import Arm
from flowmason.policy import Effect, OnLost, Placement, RetryPolicy

ANY: dict[str, Any] = {}
TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
IDS = {"type": "array", "items": TEXT, "default": []}


def spec(
    name: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    required: Sequence[str] = (),
    defs: Mapping[str, Any] | None = None,
    opened: bool = False,
    kind: str = "operator",
    **more: Any,
) -> ComponentSpec:
    """The spec of a component with these fields; its output is closed unless `opened`."""
    return ComponentSpec(
        name=name,
        kind=kind,
        input_schema={
            "type": "object",
            "properties": dict(inputs),
            "required": list(required),
            "additionalProperties": False,
            "$defs": dict(defs or {}),
        },
        output_schema={
            "type": "object",
            "properties": dict(outputs),
            "additionalProperties": opened,
            "$defs": dict(defs or {}),
        },
        target=f"samples:{name.title()}",
        digest="sha256:" + "0" * 64,
        **more,
    )


def control(name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], required: Sequence[str]) -> ComponentSpec:
    """The spec of a control-flow component."""
    return spec(name, inputs, outputs, required=required, kind="control_flow", control_flow_type=name)


PERSON = {
    "type": "object",
    "properties": {"name": TEXT, "age": WHOLE, "friends": {"type": "array", "items": {"$ref": "#/$defs/Person"}}},
}

SPECS = [
    spec("echo", {"value": ANY}, {"value": ANY}, required=["value"]),
    spec("shout", {"text": TEXT, "times": {**WHOLE, "default": 1, "minimum": 1}}, {"text": TEXT}, required=["text"]),
    spec("count", {"items": {"type": "array", "items": ANY}}, {"total": WHOLE, "ratio": {"type": "number"}}),
    spec(
        "people",
        {"query": {"anyOf": [TEXT, {"type": "null"}], "default": None}, "deep": {"type": "boolean", "default": False}},
        {"people": {"type": "array", "items": {"$ref": "#/$defs/Person"}}, "best": {"$ref": "#/$defs/Person"}},
        defs={"Person": PERSON},
    ),
    spec("open_ended", {"options": {"type": "object", "additionalProperties": True}}, {"known": TEXT}, opened=True),
    spec(
        "picky",
        {
            "mode": {"type": "string", "enum": ["fast", "careful"]},
            "tone": {"$ref": "#/$defs/Tone"},
            "person": {"$ref": "#/$defs/Person"},
            "level": {"anyOf": [{**WHOLE, "maximum": 9}, {"type": "null"}]},
            "when": {"type": "string", "format": "date-time"},
            "pair": {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 2},
            "either": {"anyOf": [WHOLE, {"type": "array", "items": WHOLE}]},
        },
        {},
        defs={"Person": {**PERSON, "additionalProperties": False, "required": ["name"]}, "Tone": {"enum": ["f", "w"]}},
    ),
    spec(
        "filter",
        {"data": ANY, "condition": {**TEXT, "x-expression": ["data", "index", "item"]}},
        {"passed": {"type": "boolean"}, "data": ANY},
        required=["data"],
    ),
    spec(
        "http_request",
        {"url": TEXT, "method": {"type": "string", "default": "GET"}, "body": ANY},
        {"status_code": WHOLE, "headers": {"type": "object", "additionalProperties": TEXT}, "body": ANY},
        required=["url"],
        effect=Effect.UNSAFE,
        effect_by=EffectBy("method", {"GET": Effect.IDEMPOTENT, "PUT": Effect.IDEMPOTENT}),
        on_lost=OnLost.UNKNOWN,
        placement=Placement.HOST,
        timeout_ms=60_000,
    ),
    spec(
        "generator",
        {"prompt": TEXT, "max_tokens": {**WHOLE, "default": 4096}},
        {"content": TEXT, "tokens_used": WHOLE},
        required=["prompt"],
        kind="node",
        effect=Effect.IDEMPOTENT,
        placement=Placement.HOST,
        retry=RetryPolicy(max_retries=3),
        timeout_ms=120_000,
        requires_llm=True,
    ),
    spec(
        "variable_set",
        {"name": TEXT, "value": ANY, "overwrite": {"type": "boolean", "default": True}},
        {"name": TEXT, "value": ANY, "previous_value": ANY, "was_set": {"type": "boolean"}},
        required=["name", "value"],
    ),
    control(
        "conditional",
        {
            "condition": {"x-condition": True},
            "condition_expression": {**TEXT, "x-expression": ["value"]},
            "true_branch_stages": IDS,
            "false_branch_stages": IDS,
            "pass_data": ANY,
        },
        {"branch_taken": TEXT, "condition_result": {"type": "boolean"}, "data": ANY},
        ["condition"],
    ),
    control(
        "router",
        {"value": ANY, "routes": {"type": "object"}, "default_route": ANY, "value_expression": TEXT, "pass_data": ANY},
        {"route_taken": TEXT, "data": ANY},
        ["value", "routes"],
    ),
    control(
        "foreach",
        {
            "items": {"anyOf": [{"type": "array", "items": ANY}, {"type": "object", "additionalProperties": True}]},
            "loop_stages": IDS,
            "item_variable": TEXT,
            "index_variable": TEXT,
            "parallel": {"type": "boolean"},
            "max_parallel": {**WHOLE, "minimum": 1, "maximum": 1000},
            "break_on_error": {"type": "boolean"},
            "filter_expression": {**TEXT, "x-expression": ["index", "item"]},
        },
        {"total_items": WHOLE, "results": {"type": "array"}},
        ["items"],
    ),
    control(
        "trycatch",
        {
            "try_stages": IDS,
            "catch_stages": IDS,
            "finally_stages": IDS,
            "error_scope": {"enum": ["propagate", "continue"]},
            "catch_error_types": IDS,
            "max_retries": WHOLE,
        },
        {"status": TEXT},
        [],
    ),
    control(
        "subpipeline",
        {
            "pipeline_id": TEXT,
            "pipeline_version": {"anyOf": [TEXT, {"type": "null"}]},
            "input_data": ANY,
            "output_mapping": {"type": "object"},
            "timeout_ms": WHOLE,
            "async_execution": {"type": "boolean"},
            "wait_for_completion": {"type": "boolean"},
            "on_error": {"enum": ["propagate", "ignore", "default"]},
            "default_result": ANY,
        },
        {"result": ANY},
        ["pipeline_id"],
    ),
    control("return", {"condition": {"x-condition": True}, "return_value": ANY}, {"should_return": ANY}, []),
]

BY_NAME = {each.name: each for each in SPECS}


def read(document: Mapping[str, Any]) -> Pipeline:
    """A pipeline from plain JSON data, which must be in order as a document."""
    faults: list[Fault] = []
    pipeline = parse_pipeline({"name": "sample", **document}, faults)
    assert pipeline is not None and not faults, faults
    return pipeline


def stage(id: str, component: str, config: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A stage of a document."""
    return {"id": id, "component_type": component, "config": dict(config or {}), **more}


def echo(id: str, value: Any = 1, *depends_on: str) -> dict[str, Any]:
    """A stage that hands a value on."""
    return stage(id, "echo", {"value": value}, depends_on=list(depends_on))


def build(*stages: Mapping[str, Any], env: Sequence[str] = (), others: Sequence[Any] = (), **keys: Any) -> Any:
    """Compile a pipeline of these stages. `others` are documents that sub-pipelines may name.

    The Plan is typed as Any, so that a test may look stages up by plain names.
    """
    return compile_pipeline(read({"stages": list(stages), **keys}), BY_NAME, find=finder(others), env=env)


def finder(others: Sequence[Mapping[str, Any]]) -> Callable[[str], Pipeline]:
    """Finds pipelines among documents, by `name` or `name@version`."""
    known = [read(other) for other in others]

    def find(name: str) -> Pipeline:
        for pipeline in known:
            if name in (pipeline.name, pipeline.reference):
                return pipeline
        raise LookupError(name)

    return find


def refused(*stages: Mapping[str, Any], **keys: Any) -> list[Fault]:
    """The faults for which a pipeline of these stages is refused."""
    with pytest.raises(RefusedError) as caught:
        build(*stages, **keys)
    return list(caught.value.faults)


def only(faults: Sequence[Fault]) -> Fault:
    """The one fault there is."""
    assert len(faults) == 1, [str(fault) for fault in faults]
    return faults[0]


def arm(guard: str, *choices: str) -> Arm:
    """The condition that a guard puts on a stage."""
    return Arm(StageId(guard), choices)
