"""What a stage gives its component, held against the component's schema before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from compiling_kit import build, echo, only, refused, stage


def test_an_unknown_input_comes_with_the_nearest() -> None:
    fault = only(refused(stage("a", "shout", {"text": "x", "tims": 2})))
    assert (fault.pointer, fault.nearest) == ("$.stages[0].config.tims", "times")
    assert "it takes text, times" in fault.reason
    assert only(refused(stage("a", "generator", {"prompt": "x", "max": 2}))).nearest == "max_tokens"


def test_a_missing_input_is_told_where_the_stage_stands() -> None:
    fault = only(refused(stage("a", "shout", {"times": 2})))
    assert fault.pointer == "$.stages[0]" and "'text' of shout is missing" in fault.reason


@pytest.mark.parametrize(
    ("component", "field", "value"),
    [
        ("shout", "times", "5"),
        ("shout", "times", 5.0),
        ("people", "deep", "yes"),
        ("people", "deep", 1),
        ("people", "query", None),
        ("count", "items", "[1, 2]"),
        ("count", "items", ["{{input.x}}", 2]),
        ("picky", "mode", "fast"),
        ("picky", "tone", "WARM"),  # perhaps the name of a member
        ("picky", "when", 1_700_000_000),
        ("picky", "pair", ["{{input.a}}", "7"]),
        ("picky", "either", [1]),
        ("picky", "either", "3"),
        ("picky", "person", {"name": "{{input.name}}", "age": "41", "friends": [{"name": "Bo"}]}),
        ("picky", "person", '{"name": "Ada"}'),
        ("picky", "mode", "{{input.mode}}"),
    ],
)
def test_values_that_the_component_can_read_are_taken(component: str, field: str, value: Any) -> None:
    text = {"text": "x"} if component == "shout" else {}
    build(stage("a", component, {**text, field: value}))


@pytest.mark.parametrize(
    ("component", "field", "value", "reason", "below"),
    [
        ("shout", "times", "five", 'expected a whole number, found "five"', ""),
        ("shout", "times", 1.5, "expected a whole number, found 1.5", ""),
        ("shout", "times", 0, "expected at least 1, found 0", ""),
        ("shout", "text", 5, "expected a string, found 5", ""),
        ("shout", "text", None, "expected a string, found null", ""),
        ("people", "query", 3, "expected a string, found 3", ""),
        ("picky", "level", 12, "expected at most 9, found 12", ""),
        ("people", "deep", "perhaps", "expected a boolean", ""),
        ("count", "items", {"a": "{{input.x}}"}, "expected a list, found an object", ""),
        ("count", "items", "a, b", "expected a list", ""),
        ("picky", "mode", "fats", 'expected one of "fast", "careful"', ""),
        ("picky", "pair", [1, 2, 3], "at most 2 elements", ""),
        ("picky", "pair", [1, "x"], 'expected a whole number, found "x"', "[1]"),
        ("picky", "either", "x", "expected a list or a whole number", ""),
        ("picky", "either", [1, "x"], "expected a whole number", "[1]"),
        ("picky", "person", {"nam": "{{input.name}}"}, "no field 'nam'", ".nam"),
        ("picky", "person", {"name": "Ada", "age": "old"}, "expected a whole number", ".age"),
        ("picky", "person", {"name": "Ada", "friends": [{"age": 3}]}, "'name' is missing", ".friends[0]"),
    ],
)
def test_values_that_the_component_cannot_read_are_refused(
    component: str, field: str, value: Any, reason: str, below: str
) -> None:
    text = {"text": "x"} if component == "shout" else {}
    faults = refused(stage("a", component, {**text, field: value}))
    assert faults[0].pointer == f"$.stages[0].config.{field}{below}" and reason in faults[0].reason


def test_a_choice_comes_with_the_nearest() -> None:
    assert only(refused(stage("a", "picky", {"mode": "carefull"}))).nearest == "careful"


def test_a_reference_of_a_plainly_wrong_type_is_refused() -> None:
    count, who = stage("n", "count", {"items": []}), stage("who", "people")
    fault = only(refused(count, stage("a", "shout", {"text": "{{upstream.n.total}}"})))
    assert "upstream.n.total is a whole number" in fault.reason and "str(upstream.n.total)" in fault.reason
    fault = only(refused(who, stage("a", "shout", {"text": "{{upstream.who.people}}"})))
    assert "json(upstream.who.people)" in fault.reason
    assert "is an object" in only(refused(who, stage("a", "count", {"items": "{{upstream.who.best}}"}))).reason
    schema = {"type": "object", "properties": {"rows": {"type": "array"}}}
    assert (
        "input.rows is a list"
        in only(refused(stage("a", "shout", {"text": "{{input.rows}}"}), input_schema=schema)).reason
    )


@pytest.mark.parametrize(
    "value",
    ["{{upstream.who.best.age}}", "{{upstream.who.best.name}}", "{{upstream.n.ratio}}", "{{upstream.free.value}}"],
)
def test_a_reference_that_may_fit_is_taken(value: str) -> None:
    stages = [stage("n", "count", {"items": []}), stage("who", "people"), echo("free")]
    build(*stages, stage("a", "shout", {"text": "n = {{upstream.n.total}}", "times": value}))


def test_inputs_of_control_stages_are_checked_too() -> None:
    loop = stage(
        "each", "foreach", {"items": "{{input.rows}}", "loop_stages": ["s"], "max_parallel": 0, "paralel": True}
    )
    faults = refused(loop, echo("s"))
    assert [fault.pointer for fault in faults] == [
        "$.stages[0].config.max_parallel",
        "$.stages[0].config.paralel",
    ]
    assert faults[1].nearest == "parallel"
    assert (
        "error_scope"
        in only(refused(stage("t", "trycatch", {"try_stages": ["s"], "error_scope": "propagat"}), echo("s"))).pointer
    )
