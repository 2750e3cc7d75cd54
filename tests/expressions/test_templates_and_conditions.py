"""Configuration values with expressions in them, and fields that hold a condition."""

from typing import Any

import pytest

from flowmason.errors import ExpressionError
from flowmason.expressions import (
    ABSENT,
    Literal,
    Names,
    Static,
    evaluate,
    field_of,
    is_static,
    parse_condition,
    parse_expression,
    parse_template,
    static_value,
    unparse_template,
)

NAMES = Names(frozenset({"fetch"}), frozenset({"x", "y"}))


def fill(value: Any, **roots: Any) -> Any:
    return evaluate(parse_template(value, NAMES), roots)


@pytest.mark.parametrize("x", [None, True, 3, 2.5, "a", [1, [2]], {"a": None}, b"raw"])
def test_a_string_that_is_one_template_keeps_the_type(x: object) -> None:
    assert fill("{{x}}", x=x) is x
    assert fill("{{\n x \t}}", x=x) is x


@pytest.mark.parametrize(
    ("template", "x", "text"),
    [
        (" {{x}}", 3, " 3"),
        ("{{x}}{{x}}", "a", "aa"),
        ("[{{x}}]", None, "[]"),
        ("[{{x}}]", True, "[true]"),
        ("[{{x}}]", 2.0, "[2.0]"),
        ("[{{x}}]", [1, None, "é", {"a": False}], '[[1,null,"é",{"a":false}]]'),
        ("{{x}}\n", "a", "a\n"),
        ("{{{{x}}", 1, "{{x}}"),
        ("{{{{{{x}}}}", 1, "{{1}}"),
        ("a}} {b} {{x}}", 1, "a}} {b} 1"),
        ("{{ '}}' }}{{x}}", 1, "}}1"),
        ("{{ '{{x}}' }}", 1, "{{x}}"),
        ("{{ {'a': {'b': x}} }}!", 1, '{"a":{"b":1}}!'),
        ("{{{'a': {'b': x}}}}!", 1, '{"a":{"b":1}}!'),
        ("{{ x }}", "{{ y }}", "{{ y }}"),
        ("<{{ x }}>", "{{ y }}", "<{{ y }}>"),
    ],
)
def test_text_around_expressions(template: str, x: object, text: str) -> None:
    assert fill(template, x=x) == text


def test_the_whole_of_a_value_is_filled_and_keys_are_not() -> None:
    value = {"{{x}}": ["{{x}}", {"k": "n{{ x + 1 }}"}, 1.5, None], "plain": {"a": [True]}}
    assert fill(value, x=1) == {"{{x}}": [1, {"k": "n2"}, 1.5, None], "plain": {"a": [True]}}


def test_a_skipped_stage_leaves_null_and_empty_text() -> None:
    roots = {"upstream": {"fetch": ABSENT}}
    assert fill({"a": "{{fetch.output.x}}", "b": "<{{upstream.fetch}}>"}, **roots) == {"a": None, "b": "<>"}


def test_what_is_static_is_copied_so_that_nobody_can_change_the_plan() -> None:
    for value in ({"a": [1]}, {"a": [1], "b": "{{x}}"}):
        template = parse_template(value, NAMES)
        evaluate(template, {"x": 1})["a"].append(2)
        assert evaluate(template, {"x": 1})["a"] == [1]


def test_an_error_while_filling_names_the_place() -> None:
    with pytest.raises(ExpressionError, match=r"^headers\.Accept\[1\]: x has no field 'b'") as caught:
        fill({"headers": {"Accept": ["a", "{{x.b}}"]}}, x={})
    assert (caught.value.failure.details or {})["place"] == ["headers", "Accept", 1]


@pytest.mark.parametrize(
    ("value", "place", "offset"),
    [
        ("{{ x", None, 0),
        ("ab {{ x", None, 3),
        ("{{", None, 0),
        ("{{}}", None, 2),
        ("{{ x }", None, 5),
        ("{{ x y }}", None, 5),
        ("a {{ zz.b }}", None, 5),
        ("{{ 'a }}", None, 3),
        ({"a": ["ok", "{{ zz }}"]}, ["a", 1], 3),
        ({"a": {1: 2}}, ["a"], 0),
        ({"a": {1, 2}}, ["a"], 0),
        ([float("nan")], [0], 0),
        ([2**64], [0], 0),
        ("\ud800", None, 0),
        ("{{ '\\ud800' }}", None, 3),
    ],
)
def test_a_value_that_cannot_be_parsed_is_refused_at_its_place(value: object, place: object, offset: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_template(value, NAMES)
    details = caught.value.failure.details or {}
    assert (details.get("place"), details["offset"]) == (place, offset)


def test_every_error_is_found_at_once_where_the_caller_collects_them() -> None:
    errors: list[ExpressionError] = []
    template = parse_template({"a": "{{ zz }}", "b": ["{{x}}", "{{ x"]}, NAMES, errors)
    assert [(error.failure.details or {})["place"] for error in errors] == [["a"], ["b", 1]]
    assert evaluate(template, {"x": 1}) == {"a": None, "b": [1, None]}
    assert parse_condition("zz >", NAMES, errors) == Static(None) and len(errors) == 3
    several: list[ExpressionError] = []
    assert parse_template("{{ zz }} and {{x}} and {{ 1 + }} and {{ yy }}", NAMES, several) == Static(None)
    assert [(error.failure.details or {})["offset"] for error in several] == [3, 30, 40]


def test_a_value_nested_too_deeply_is_refused() -> None:
    value: object = "{{x}}"
    for _ in range(1000):
        value = [value]
    with pytest.raises(ExpressionError, match="nested"):
        parse_template(value, NAMES)


def test_static_values_are_known_without_a_run() -> None:
    known: list[Any] = [None, "a", {"a": [1, "{{{{"]}, "{{ 1 + 2 }}", {"a": "n{{ len('ab') }}"}]
    for value in known:
        assert is_static(parse_template(value, NAMES))
    unknown: list[Any] = ["{{x}}", ["a", {"b": "{{ default(x, 1) }}"}]]
    for value in unknown:
        assert not is_static(parse_template(value, NAMES))
    assert static_value(parse_template({"a": "n{{ 1 + 2 }}", "b": "{{{{"}, NAMES)) == {"a": "n3", "b": "{{"}
    with pytest.raises(ExpressionError, match="division by zero"):
        static_value(parse_template("{{ 1 / 0 }}", NAMES))


def test_fields_of_an_object_template() -> None:
    mixed = parse_template({"url": "{{x}}", "method": "GET"}, NAMES)
    assert field_of(mixed, "method") == Static("GET")
    assert field_of(mixed, "url") == parse_expression("x", NAMES)
    plain = parse_template({"method": "GET", "none": None}, NAMES)
    assert field_of(plain, "method") == Static("GET") and field_of(plain, "none") == Static(None)
    assert field_of(plain, "url") is None and field_of(parse_template("a", NAMES), "a") is None


@pytest.mark.parametrize(
    "condition",
    [
        "x == 200",
        "{{x}} == 200",
        "{{ x }}==200",
        "{{ x == 200 }}",
        "200 == {{x}} and not {{ y }}",
        "({{x}}) - 100 == 100",
        "{{ [x] }}[0] == 200",
        "{{ {'a': {'b': x}} }}.a.b == 200",
        "x in {{ [100, 200] }}",
        True,
        "true",
        "\n x == 200 \n",
    ],
)
def test_a_condition_is_one_expression_with_or_without_braces(condition: object) -> None:
    assert evaluate(parse_condition(condition, NAMES), {"x": 200, "y": 0}) is True


def test_braces_in_a_condition_bind_like_parentheses() -> None:
    assert parse_condition("{{ x or y }} and y", NAMES) == parse_expression("(x or y) and y", NAMES)
    assert parse_condition("{{ 1 - 1 }} * 5", NAMES) == parse_expression("(1 - 1) * 5", NAMES)


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "  ",
        "{{x}",
        "{{x}} {{y}}",
        "{{x}} = 3",
        "'{{x}}' == 'a'",
        "{{ {{x}} }}",
        "yes",
        "{{}} == 1",
        "x >",
        "{{{{x}}}}",
    ],
)
def test_what_is_no_single_expression_is_refused_as_a_condition(condition: str) -> None:
    with pytest.raises(ExpressionError):
        parse_condition(condition, NAMES)


def test_a_condition_that_is_no_string_is_an_ordinary_template() -> None:
    assert parse_condition(None, NAMES) == Static(None)
    assert parse_condition(["{{x}}"], NAMES) == parse_template(["{{x}}"], NAMES)


def test_templates_are_written_back() -> None:
    value = {"a": "{{ x }}", "b": ["{{{{ {{ x + 1 }}!", {"c": "{{{{"}], "d": 1}
    assert unparse_template(parse_template(value, NAMES)) == value
    assert parse_template("{{ 'a' }}", NAMES) == Static("a") == parse_template("a", NAMES)
    assert unparse_template(Literal(1)) == "{{ 1 }}"
