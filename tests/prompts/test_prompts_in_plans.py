"""Prompts by reference: what the compiler makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiling_kit import BY_NAME, read, stage
from flowmason.compiler import compile_pipeline
from flowmason.document.prompts import parse_prompt
from flowmason.errors import Code, ExpressionError, Fault, RefusedError
from flowmason.expressions import evaluate, field_of, unparse_template
from flowmason.plan import Plan, decode
from flowmason.registry import find_components

SUMMARISE = """---
system: You edit {{ upper(tone) }} texts.
max_tokens: 50
model: small
variables:
  text: {}
  tone: {type: string, default: plain}
  limit: {type: integer, default: 20}
---
In {{limit}} words: {{text}}
"""
PROMPTS = {
    "summarise": parse_prompt(SUMMARISE, "summarise"),
    "deep": parse_prompt("---\nvariables: {a: {type: object}}\n---\n{{ a.b.c }} {{ default(a.z, 'none') }}", "deep"),
}
SPECS = {**BY_NAME, "generator": find_components().get("generator")}


def build(config: dict[str, Any], *more: Mapping[str, Any], prompts: Any = PROMPTS, **keys: Any) -> Plan:
    document = {"stages": [stage("s", "generator", config, **keys), *more]}
    return compile_pipeline(read(document), SPECS, prompts=prompts)  # type: ignore[arg-type]


def refused(config: dict[str, Any], **keys: Any) -> list[Fault]:
    with pytest.raises(RefusedError) as caught:
        build(config, **keys)
    return list(caught.value.faults)


def use(name: str = "summarise", **variables: Any) -> dict[str, Any]:
    return {"$prompt": name, "variables": variables}


def written(plan: Plan) -> Any:
    return unparse_template(plan.stages["s"].inputs)  # type: ignore[index]


def test_variables_are_filled_in_and_defaults_are_folded() -> None:
    plan = build({"prompt": use(text="{{input.body}}!")})
    assert written(plan)["prompt"] == "In 20 words: {{ input.body }}!"
    assert "upper('plain')" in written(plan)["system_prompt"].replace('"', "'")


def test_the_plan_names_the_version_and_keeps_its_text() -> None:
    plan = decode(build({"prompt": use(text="a")}).encoded)
    assert plan.prompts["summarise"].text == SUMMARISE
    assert plan.prompts["summarise"].digest == PROMPTS["summarise"].digest
    assert plan.stages["s"].prompts == {"prompt": "summarise", "system_prompt": "summarise"}  # type: ignore[index]


def test_a_plan_without_prompts_says_nothing_of_them() -> None:
    plan = build({"prompt": "hi"})
    assert b"prompts" not in plan.encoded


def test_a_reference_in_a_variable_is_a_dependency() -> None:
    plan = build({"prompt": use(text="{{upstream.b.value}}")}, stage("b", "echo", {"value": 1}))
    assert plan.stages["s"].data == ("b",)  # type: ignore[index]


def test_paths_into_variables_are_followed() -> None:
    plan = build({"prompt": use("deep", a="{{input.given}}")})
    assert "input.given.b.c" in str(written(plan)["prompt"])
    fixed = build({"prompt": use("deep", a={"b": {"c": "{{input.x}} y"}})})
    assert str(written(fixed)["prompt"]).startswith("{{ input.x }} y ")


def test_hints_give_way_to_the_stage() -> None:
    hinted = build({"prompt": use(text="a")}).stages["s"].llm  # type: ignore[index]
    assert hinted == {"max_tokens": 50, "model": "small"}
    own = build({"prompt": use(text="a"), "max_tokens": 7}, llm_settings={"model": "large"})
    assert own.stages["s"].llm == {"model": "large"}  # type: ignore[index]
    other = build({"prompt": use(text="a")}, llm_settings={"provider": "mock"}).stages["s"].llm  # type: ignore[index]
    assert other == {"provider": "mock", "max_tokens": 50}


def test_a_stages_own_system_prompt_wins() -> None:
    plan = build({"prompt": use(text="a"), "system_prompt": "mine"})
    assert written(plan)["system_prompt"] == "mine"


def test_a_system_prompt_by_reference_is_the_prompts_system_text() -> None:
    plan = build({"prompt": "hi", "system_prompt": use(text="a", tone="dry")})
    assert "dry" in written(plan)["system_prompt"]


@pytest.mark.parametrize(
    ("config", "pointer", "words", "nearest"),
    [
        ({"prompt": use("sumarise", text=1)}, "prompt.$prompt", "no prompt", "summarise"),
        ({"prompt": use()}, "prompt", "'text' of the prompt 'summarise' is missing", None),
        ({"prompt": use(text="a", tonne="b")}, "prompt.variables.tonne", "no variable", "tone"),
        ({"prompt": use(text="a", limit="many")}, "prompt.variables.limit", "a whole number", None),
        ({"prompt": use(text="a", limit="{{input.x +}}")}, "prompt.variables.limit", "unexpected", None),
        ({"prompt": use(text="{{upstream.z.value}}")}, "prompt.variables.text", "no stage", None),
        ({"prompt": {"$prompt": "deep", "variable": {}}}, "prompt.variable", "unknown key", "variables"),
        ({"prompt": {"$prompt": 3}}, "prompt.$prompt", "a string", None),
        ({"prompt": "a", "output_schema": {"x": use(text="a")}}, "output_schema.x", "whole value", None),
    ],
)
def test_wrong_references_are_refused_in_their_place(
    config: dict[str, Any], pointer: str, words: str, nearest: str | None
) -> None:
    faults = refused(config)
    found = [fault for fault in faults if fault.pointer == f"$.stages[0].config.{pointer}" and words in fault.reason]
    assert found and found[0].nearest == nearest, faults


def test_where_no_prompts_are_known_the_reference_is_refused_by_name() -> None:
    fault = refused({"prompt": use(text="a")}, prompts=None)[0]
    assert fault.code == Code.NOT_FOUND and "'summarise'" in fault.reason


scalars = st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.dictionaries(st.sampled_from("bc"), inner) | st.lists(inner, max_size=2)
)
BODIES = (
    "{{a}}",
    "x{{a}}y",
    "{{ json(a) }}!",
    "{{ default(a.b, 'none') }}",
    "{{ a if a == b else [b, {'k': a}] }}",
    "{{ str(b) + str(a) }} {{ len(str(a)) }}",
)


@given(values, values, st.sampled_from(BODIES), st.booleans())
def test_a_filled_prompt_says_what_its_body_says_of_the_values(a: Any, b: Any, body: str, referred: bool) -> None:
    prompt = parse_prompt(f"---\nvariables: {{a: {{}}, b: {{}}}}\n---\n> {body}", "p")
    passed: dict[str, Any] = {"a": "{{input.a}}" if referred else quoted(a), "b": quoted(b)}
    plan = build({"prompt": {"$prompt": "p", "variables": passed}}, prompts={"p": prompt})
    filled = field_of(plan.stages["s"].inputs, "prompt")  # type: ignore[index]
    assert filled is not None
    assert said(filled, {"input": {"a": a}}) == said(prompt.body, {"a": a, "b": b})


def said(template: Any, roots: dict[str, Any]) -> Any:
    try:
        return evaluate(template, roots)
    except ExpressionError:
        return "refused"


def quoted(value: Any) -> Any:
    """A value as a pipeline file writes it: braces in texts are no templates."""
    if isinstance(value, dict):
        return {key: quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [quoted(item) for item in value]
    return value.replace("{{", "{{{{") if isinstance(value, str) else value
