"""schema_validate: drafts, strictness, coercion, references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.component.patterns import found_in
from flowmason.errors import Code, StageError
from flowmason.lab.operators.coercion import coerced
from flowmason.lab.operators.schema_validate import SchemaValidate

Run = Callable[..., Any]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}}},
    "required": ["n"],
    "$defs": {"tag": {"type": "string", "maxLength": 3}},
}


async def test_strict_fails_the_stage_with_every_error(run: Run) -> None:
    with pytest.raises(StageError) as caught:
        await run(SchemaValidate, {"data": {"n": "x", "tags": ["ok", "too long"]}, "json_schema": SCHEMA})
    failure = caught.value.failure
    assert failure.code == Code.VALIDATION
    assert failure.details is not None
    assert failure.details["error_count"] == 2
    assert [error["path"] for error in failure.details["errors"]] == [["n"], ["tags", 1]]


async def test_without_strict_the_errors_are_the_output(run: Run) -> None:
    inputs = {"data": {"tags": [1, 2]}, "json_schema": SCHEMA, "strict": False}
    found = await run(SchemaValidate, inputs)
    assert (found["valid"], found["error_count"], found["data"]) == (False, 3, {"tags": [1, 2]})
    assert found["errors"][0]["validator"] == "required"
    found = await run(SchemaValidate, {**inputs, "collect_all_errors": False})
    assert (found["valid"], found["error_count"]) == (False, 1)


async def test_valid_data_go_through(run: Run) -> None:
    found = await run(SchemaValidate, {"data": {"n": 1}, "json_schema": SCHEMA})
    assert found == {"valid": True, "data": {"n": 1}, "errors": [], "error_count": 0}


async def test_the_draft_that_the_schema_names_is_used(run: Run) -> None:
    tuples = {"items": [{"type": "string"}], "additionalItems": False}
    old = {"$schema": "http://json-schema.org/draft-07/schema#", **tuples}
    assert (await run(SchemaValidate, {"data": ["a", 1], "json_schema": old, "strict": False}))["valid"] is False
    with pytest.raises(StageError, match="json_schema"):  # a list of `items` is no 2020-12
        await run(SchemaValidate, {"data": ["a"], "json_schema": tuples})
    newer = {"prefixItems": [{"type": "string"}], "items": False}
    assert (await run(SchemaValidate, {"data": ["a", 1], "json_schema": newer, "strict": False}))["valid"] is False
    with pytest.raises(StageError, match="not known"):
        await run(SchemaValidate, {"data": 1, "json_schema": {"$schema": "https://example.com/mine"}})


@pytest.mark.parametrize("reference", ["http://127.0.0.1:9/schema.json", "file:///etc/passwd", "#/$defs/nope"])
async def test_references_out_of_the_schema_are_not_followed(run: Run, reference: str) -> None:
    with pytest.raises(StageError, match=r"\$ref") as caught:
        await run(SchemaValidate, {"data": 1, "json_schema": {"$ref": reference}})
    assert caught.value.failure.code == Code.INVALID_INPUT


async def test_a_schema_that_is_none_is_refused(run: Run) -> None:
    with pytest.raises(StageError, match="json_schema") as caught:
        await run(SchemaValidate, {"data": 1, "json_schema": {"type": "integr"}})
    assert caught.value.failure.code == Code.INVALID_INPUT
    with pytest.raises(StageError, match="without end"):
        await run(SchemaValidate, {"data": 1, "json_schema": {"$ref": "#"}})


async def test_types_are_coerced_where_nothing_is_lost(run: Run) -> None:
    schema = {
        "properties": {
            "n": {"type": "integer"},
            "x": {"type": ["number", "null"]},
            "ok": {"type": "boolean"},
            "s": {"type": "string"},
            "list": {"type": "array", "items": {"type": "number"}},
            "ref": {"$ref": "#/$defs/int"},
            "keep": {"type": "integer"},
        },
        "additionalProperties": {"type": "integer"},
        "$defs": {"int": {"type": "integer"}},
    }
    data = {"n": "5", "x": "1.5", "ok": "True", "s": 12, "list": '["1", 2]', "ref": "7", "keep": "5.5", "more": "1"}
    found = await run(SchemaValidate, {"data": data, "json_schema": schema, "coerce_types": True, "strict": False})
    assert found["data"] == {
        "n": 5,
        "x": 1.5,
        "ok": True,
        "s": "12",
        "list": [1, 2],
        "ref": 7,
        "keep": "5.5",
        "more": 1,
    }
    assert [error["path"] for error in found["errors"]] == [["keep"]]
    assert data["n"] == "5"


@given(
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
    st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"]),
)
def test_coercion_never_raises_and_leaves_fitting_data_alone(data: Any, name: str) -> None:
    from jsonschema import Draft202012Validator

    fits = Draft202012Validator({"type": name}).is_valid
    made = coerced(data, {"type": name})
    if fits(data):
        assert made == data
    elif made is not data and made != data:
        assert fits(made)


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|a)*$", r"^(\w+\s?)*$", "^(a?){40}a{40}$", "^(a|aa){30}$", f"^{'a?' * 40}{'a' * 40}$"]
)
async def test_a_pattern_that_would_try_for_ever_ends(run: Run, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowmason.component.patterns.SECONDS", 1.0)
    with pytest.raises(StageError, match="takes more than 1 s for a text of 61 characters") as caught:
        await run(SchemaValidate, {"data": "a" * 60 + "!", "json_schema": {"type": "string", "pattern": pattern}})
    assert caught.value.failure.code == Code.INVALID_INPUT


@pytest.mark.parametrize(
    "draft", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
async def test_patterns_with_repeats_in_repeats_match_long_texts_too(run: Run, draft: str) -> None:
    schema = {"$schema": draft, "type": "string", "pattern": r"^(\w+\.)*\w+$"}
    good, bad = ".".join(["größe"] * 20), "." * 40
    assert (await run(SchemaValidate, {"data": good, "json_schema": schema}))["valid"]
    answer = await run(SchemaValidate, {"data": bad, "json_schema": schema, "strict": False})
    assert [error["validator"] for error in answer["errors"]] == ["pattern"]


@given(
    st.sampled_from(
        ["^(a+)+$", "(ab|a)*b", "^(?:x?y*)+z", "a{2,}", "^[^@]+@[^@]+$", "(a|b)+?c", "^(a?b){11}", "^(x|y){12}$"]
    ),
    st.text(alphabet="abxyz@é", max_size=15),
)
def test_a_bounded_pattern_finds_what_re_finds(pattern: str, text: str) -> None:
    import re

    assert found_in(pattern, text) == (re.search(pattern, text) is not None)
