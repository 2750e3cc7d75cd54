"""A run's input: defaults filled in, everything wrong told at once; and the output against its schema."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from flowmason.errors import Code, RefusedError
from flowmason.inputs import check_output, prepare_input

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "limit": {"type": "integer", "default": 10, "maximum": 100},
        "options": {"$ref": "#/$defs/options", "default": {}},
        "orders": {"type": "array", "items": {"$ref": "#/$defs/order"}},
        "kind": {"enum": ["news", "blog"]},
        "who": {"anyOf": [{"type": "string"}, {"type": "object", "required": ["id"]}]},
    },
    "required": ["text"],
    "additionalProperties": False,
    "$defs": {
        "options": {"type": "object", "properties": {"deep": {"type": "boolean", "default": False}}},
        "order": {"type": "object", "properties": {"count": {"default": 1}, "total": {"type": "number"}}},
    },
}


def faults_of(given: Any, schema: dict[str, Any] = SCHEMA) -> list[tuple[str, str]]:
    with pytest.raises(RefusedError) as caught:
        prepare_input(schema, given)
    assert caught.value.failure.code == Code.INVALID_INPUT
    return [(fault.pointer, fault.reason) for fault in caught.value.faults]


def test_defaults_are_filled_in_however_deep() -> None:
    given = {"text": "x", "orders": [{"total": 2}, {"count": 5}]}
    assert prepare_input(SCHEMA, given) == {
        "text": "x",
        "limit": 10,
        "options": {"deep": False},
        "orders": [{"total": 2, "count": 1}, {"count": 5}],
    }
    assert given == {"text": "x", "orders": [{"total": 2}, {"count": 5}]}


def test_a_default_is_a_fresh_copy_each_time() -> None:
    schema = {"properties": {"tags": {"type": "array", "default": []}}}
    prepare_input(schema, {})["tags"].append("x")
    assert prepare_input(schema, None) == {"tags": []}


def test_everything_wrong_is_told_at_once_with_its_place() -> None:
    given = {
        "txt": "x",
        "limit": 500,
        "orders": [{"total": "much"}],
        "kind": "blogg",
        "who": {},
        "options": {"deep": 1},
    }
    found = dict(faults_of(given))
    assert set(found) == {
        "$.input",
        "$.input.txt",
        "$.input.limit",
        "$.input.orders[0].total",
        "$.input.kind",
        "$.input.who",
        "$.input.options.deep",
    }
    assert "'text' is missing" in found["$.input"] and 'found the string "much"' in found["$.input.orders[0].total"]
    with pytest.raises(RefusedError) as caught:
        prepare_input(SCHEMA, given)
    nearest = {fault.pointer: fault.nearest for fault in caught.value.faults}
    assert (nearest["$.input.txt"], nearest["$.input.kind"]) == ("text", "blog")


def test_the_input_is_an_object() -> None:
    assert faults_of([1]) == [("$.input", "expected an object, found a list")]
    assert prepare_input({}, None) == {} and prepare_input({"type": "object", "properties": {}}, {"a": 1}) == {"a": 1}


def test_nothing_is_fetched() -> None:
    schema = {"properties": {"x": {"$ref": "https://example.org/other.json"}}}
    assert "cannot be followed" in faults_of({"x": 1}, schema)[0][1]


def test_a_schema_that_refers_to_itself_is_fine() -> None:
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"properties": {"next": {"$ref": "#/$defs/t"}, "n": {"default": 0}}}}}
    assert prepare_input(tree, {"next": {"next": {}}}) == {"n": 0, "next": {"n": 0, "next": {"n": 0}}}


def test_an_output_is_held_against_its_schema() -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    assert check_output(schema, {"total": 3}) is None and check_output({}, [1]) is None
    failure = check_output(schema, {"total": "3"})
    assert failure is not None and failure.code == Code.INVALID_OUTPUT
    assert "$.output.total" in failure.message and failure.details is not None
    assert check_output(schema, None) is not None


def test_a_schema_that_says_nothing_needs_no_validator() -> None:
    code = "import sys; from flowmason.inputs import prepare_input; prepare_input({'type': 'object'}, {'a': 1});"
    code += (
        "import flowmason.compiler; print([name for name in ('jsonschema', 'pydantic', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_pattern_that_would_try_for_ever_refuses_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowmason.component.patterns.SECONDS", 1.0)
    schema = {"type": "object", "properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}}
    with pytest.raises(RefusedError) as caught:
        prepare_input(schema, {"text": "a" * 60 + "!"})
    [fault] = caught.value.faults
    assert "takes more than 1 s" in fault.reason
