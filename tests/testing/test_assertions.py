"""What assertions ask of an output, in both spellings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason.errors import RefusedError
from flowmason.testing.assertions import MISSING, follow, judge, parse_path, same
from flowmason.testing.reading import read_test_file

OUTPUT: dict[str, Any] = {
    "text": "hardware",
    "n": 3,
    "half": 0.5,
    "yes": True,
    "nothing": None,
    "list": [1, {"a": "x"}, "z"],
    "object": {"a": 1, "b": [True], "dotted.key": 7},
    "length": "a field of that name",
    "output": "inner",
}
OUTCOME = {
    "status": "completed",
    "output": OUTPUT,
    "error": None,
    "stages": {"draft": {"status": "completed", "output": {"content": "hi"}}},
}


def read(tmp_path: Path, assertion: Any) -> Any:
    import json

    content = {"pipeline": "p", "tests": [{"name": "t", "assertions": [assertion]}]}
    path = tmp_path / "x.test.json"
    path.write_text(json.dumps(content))
    return read_test_file(path)[0].cases[0].assertions[0]


KEYED = [
    ({"path": "output.text", "equals": "hardware"}, {"path": "text", "equals": "software"}),
    ({"path": "object", "deepEquals": {"b": [True], "a": 1, "dotted.key": 7}}, {"path": "object", "deepEquals": {}}),
    ({"path": "n", "notEquals": 4}, {"path": "n", "notEquals": 3.0}),
    ({"path": "n", "greaterThan": 2}, {"path": "n", "greaterThan": 3}),
    ({"path": "n", "lessThan": 4}, {"path": "n", "lessThan": 3}),
    ({"path": "n", "greaterThanOrEqual": 3}, {"path": "n", "greaterThanOrEqual": 4}),
    ({"path": "n", "lessThanOrEqual": 3}, {"path": "n", "lessThanOrEqual": 2}),
    ({"path": "text", "contains": "hard"}, {"path": "text", "contains": "soft"}),
    ({"path": "list", "contains": {"a": "x"}}, {"path": "list", "contains": {"a": "y"}}),
    ({"path": "object", "contains": {"a": 1}}, {"path": "object", "contains": {"a": 2}}),
    ({"path": "text", "notContains": "soft"}, {"path": "text", "notContains": "hard"}),
    ({"path": "text", "notContains": "soft"}, {"path": "n", "notContains": "hard"}),
    ({"path": "list", "includes": "z"}, {"path": "list", "includes": "y"}),
    ({"path": "list", "includesAll": ["z", 1]}, {"path": "list", "includesAll": ["z", 2]}),
    ({"path": "text", "startsWith": "hard"}, {"path": "text", "startsWith": "ware"}),
    ({"path": "text", "endsWith": "ware"}, {"path": "text", "endsWith": "hard"}),
    ({"path": "text", "matches": "w.re$"}, {"path": "text", "matches": "^w"}),
    ({"path": "list", "hasLength": 3}, {"path": "list", "hasLength": 2}),
    ({"path": "list", "hasMinLength": 3}, {"path": "list", "hasMinLength": 4}),
    ({"path": "list", "hasMaxLength": 3}, {"path": "list", "hasMaxLength": 2}),
    ({"path": "text", "exists": True}, {"path": "nothing", "exists": True}),
    ({"path": "absent", "exists": False}, {"path": "text", "exists": False}),
    ({"path": "n", "type": "number"}, {"path": "yes", "type": "number"}),
    ({"path": "nothing", "type": "null"}, {"path": "absent", "type": "null"}),
    ({"path": "half", "type": "number"}, {"path": "half", "type": "integer"}),
    ({"path": "n", "greaterThan": 1, "lessThan": 4}, {"path": "n", "greaterThan": 1, "lessThan": 3}),
]
TYPED = [
    ({"path": "text"}, {"path": "absent"}),
    ({"path": "text", "type": "exists"}, {"path": "nothing", "type": "exists"}),
    ({"path": "absent", "type": "notExists"}, {"path": "text", "type": "notExists"}),
    ({"path": "text", "type": "equals", "value": "hardware"}, {"path": "yes", "type": "equals", "value": 1}),
    ({"path": "text", "type": "notEquals", "value": 1}, {"path": "absent", "type": "notEquals", "value": 1}),
    ({"path": "list", "type": "contains", "value": 1}, {"path": "list", "type": "contains", "value": True}),
    ({"path": "list", "type": "notContains", "value": 5}, {"path": "list", "type": "notContains", "value": 1}),
    ({"path": "text", "type": "matches", "value": "^hard"}, {"path": "n", "type": "matches", "value": "3"}),
    ({"path": "yes", "type": "type", "expected_type": "boolean"}, {"path": "n", "type": "type", "value": "string"}),
    ({"path": "n", "type": "lessThan", "less_than": 4}, {"path": "text", "type": "lessThan", "value": 4}),
    ({"path": "n", "type": "greaterThan", "value": 2}, {"path": "n", "type": "greaterThan", "greater_than": 3}),
    ({"path": "list", "type": "lengthEquals", "value": 3}, {"path": "n", "type": "lengthEquals", "value": 3}),
    ({"path": "text", "type": "lengthLessThan", "value": 9}, {"path": "text", "type": "lengthLessThan", "value": 8}),
    ({"path": "text", "type": "lengthGreaterThan", "value": 7}, {"path": "", "type": "lengthGreaterThan", "value": 99}),
    ({"path": "text", "type": "startsWith", "value": "ha"}, {"path": "text", "type": "startsWith", "value": "wa"}),
]


@pytest.mark.parametrize(("holds", "fails"), [*KEYED, *TYPED])
def test_each_operator_can_hold_and_can_fail(tmp_path: Path, holds: Any, fails: Any) -> None:
    assert judge(read(tmp_path, holds), OUTCOME).passed
    assert not judge(read(tmp_path, fails), OUTCOME).passed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("output", OUTPUT),
        ("", OUTPUT),
        ("output.text", "hardware"),
        ("output.output", "inner"),
        ("list.1.a", "x"),
        ("list[1].a", "x"),
        ("list[-1]", "z"),
        ("list.length", 3),
        ("text.length", 8),
        ("length", "a field of that name"),
        ('object["dotted.key"]', 7),
        ("object['dotted.key']", 7),
        ("$.status", "completed"),
        ("$.stages.draft.output.content", "hi"),
    ],
)
def test_a_path_leads_to_a_value(path: str, value: Any) -> None:
    assert follow(parse_path(path), OUTCOME)[0] == value


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("txt", "did you mean 'text'"),
        ("list.7", "a list of 3"),
        ("n.length", "is 3"),
        ("object.zzzzzz", "it has a, b, dotted.key"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ended(path: str, reason: str) -> None:
    found, told = follow(parse_path(path), OUTCOME)
    assert found is MISSING
    assert reason in told


def test_a_failure_says_what_was_wanted_and_what_was_there(tmp_path: Path) -> None:
    result = judge(read(tmp_path, {"path": "n", "lessThan": 3, "message": "small enough"}), OUTCOME)
    assert result.message == "small enough: n should be less than 3; it is 3"
    assert (result.expected, result.actual) == (3, 3)


@pytest.mark.parametrize(
    ("assertion", "reason", "nearest"),
    [
        ({"path": "a", "equls": 1}, "unknown key 'equls'", "equals"),
        ({"path": "a", "equals": 1, "lesThan": 2}, "unknown key 'lesThan'", "lessThan"),
        ({"path": "a", "type": "strng"}, "no assertion of type 'strng'", "string"),
        ({"path": "a", "type": "equal", "value": 1}, "no assertion of type 'equal'", "equals"),
        ({"path": "a", "type": "equals"}, "'equals' needs 'value'", None),
        ({"path": "a", "type": "equals", "less_than": 1}, "'less_than' means nothing for 'equals'", None),
        ({"path": "a", "type": "lessThan", "value": 1, "less_than": 2}, "not both", None),
        ({"path": "a", "type": "type", "value": "text"}, "the types are", None),
        ({"path": "a", "matches": "("}, "not a regular expression", None),
        ({"path": "a", "hasLength": -1}, "a length is a whole number", None),
        ({"path": "a", "includesAll": "x"}, "a list is expected", None),
        ({"path": "a", "greaterThan": None}, "a number (or a text) is expected", None),
        ({"path": "a..b", "equals": 1}, "is not a path", None),
        ({"equals": 1}, "an assertion needs a path", None),
        ("output.a", "an assertion is an object", None),
    ],
)
def test_an_assertion_that_makes_no_sense_is_refused(
    tmp_path: Path, assertion: Any, reason: str, nearest: str | None
) -> None:
    with pytest.raises(RefusedError) as caught:
        read(tmp_path, assertion)
    fault = next(fault for fault in caught.value.faults if reason in fault.reason)
    assert fault.nearest == nearest
    assert fault.pointer.startswith("$.tests[0].assertions[0]")
    assert fault.line == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-1, 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(_JSON, _JSON)
def test_equality_is_that_of_json(left: Any, right: Any) -> None:
    import json

    assert same(left, left)
    assert same(left, right) == same(right, left)
    as_text = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert same(left, right) or not as_text


@settings(max_examples=60)
@given(_JSON, st.data())
def test_every_value_of_an_output_has_a_path(output: Any, data: st.DataObject) -> None:
    import json

    here, path = output, "output"
    while isinstance(here, list | dict) and here:
        key = data.draw(st.sampled_from(range(len(here)) if isinstance(here, list) else sorted(here)))
        path += f"[{key}]" if isinstance(here, list) else f"[{json.dumps(key)}]"
        here = here[key]
    assert same(follow(parse_path(path), {"output": output})[0], here)
