"""json_transform, filter, loop, variable_set and logger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flowmason.control import MISSING, parse_dotted, pick
from flowmason.errors import Code, ExpressionError, StageError
from flowmason.lab.operators.filter import Filter
from flowmason.lab.operators.json_transform import JsonTransform
from flowmason.lab.operators.logger import Logger
from flowmason.lab.operators.loop import Loop
from flowmason.lab.operators.variable_set import VariableSet

pytestmark = pytest.mark.wheel

Run = Callable[..., Any]
ORDER = {"id": 7, "lines": [{"sku": "a", "n": 2}, {"sku": "b", "n": 1}], "to": {"name": "Ada", "zip": None}}


async def test_a_mapping_picks_by_path_and_names_what_is_missing(run: Run) -> None:
    mapping = {"first": "lines[0].sku", "last": "lines[-1].n", "who": "to.name", "gone": "to.street", "phone": "to.tel"}
    found = await run(JsonTransform, {"data": ORDER, "mapping": mapping, "defaults": {"phone": "-"}})
    assert found["result"] == {"first": "a", "last": 1, "who": "Ada", "phone": "-"}
    assert (found["fields_mapped"], found["fields_missing"]) == (3, ["gone"])


async def test_jmespath_goes_before_mapping_and_mapping_before_flatten(run: Run) -> None:
    every = {"data": ORDER, "jmespath_expression": "lines[].sku", "mapping": {"x": "id"}, "flatten": True}
    assert (await run(JsonTransform, every))["result"] == ["a", "b"]
    del every["jmespath_expression"]
    assert (await run(JsonTransform, every))["result"] == {"x": 7}
    del every["mapping"]
    assert (await run(JsonTransform, every))["result"]["lines[1].sku"] == "b"
    assert (await run(JsonTransform, {"data": ORDER}))["result"] == ORDER


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        pytest.param(" | ".join(["[@,@]"] * 40), "values", id="a small tree that is huge when it is written"),
        pytest.param(" | ".join(["[@,@][]"] * 40), "steps", id="a list that doubles"),
        pytest.param("[" * 3000 + "a" + "]" * 3000, "", id="nested"),
    ],
)
async def test_a_jmespath_that_would_fill_the_memory_is_refused(run: Run, expression: str, reason: str) -> None:
    with pytest.raises(StageError, match=f"jmespath_expression: .*{reason}") as caught:
        await run(JsonTransform, {"data": [1, 2], "jmespath_expression": expression})
    assert caught.value.failure.code == "INVALID_INPUT"


async def test_a_wrong_jmespath_is_an_error_that_names_the_field(run: Run) -> None:
    with pytest.raises(StageError, match="jmespath_expression") as caught:
        await run(JsonTransform, {"data": {}, "jmespath_expression": "a[?"})
    assert caught.value.failure.code == Code.INVALID_INPUT


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"jmespath_expression": "{a: id, b: to}"}, {"a": 7}),
        ({"mapping": {"a": "id", "b": "to"}}, {"a": 7}),
        ({"flatten": True, "exclude_fields": ["lines", "to"]}, {"id": 7}),
        ({"exclude_fields": ["lines", "to.zip"]}, {"id": 7, "to": {"name": "Ada"}}),
        ({"exclude_fields": ["to", "lines.n"]}, {"id": 7, "lines": [{"sku": "a"}, {"sku": "b"}]}),
        ({"exclude_fields": ["to", "lines[0]"]}, {"id": 7, "lines": [{"sku": "b", "n": 1}]}),
        ({"jmespath_expression": "lines", "exclude_fields": ["n"]}, [{"sku": "a"}, {"sku": "b"}]),
    ],
)
async def test_fields_are_left_out_in_every_mode(run: Run, options: dict[str, Any], expected: Any) -> None:
    found = await run(JsonTransform, {"data": ORDER, "exclude_fields": ["b"], **options})
    assert found["result"] == expected


@pytest.mark.parametrize(
    "text", ['{"a": [1]}', 'Sure!\n```json\n{"a": [1]}\n```\n', 'Here it is: {"a": [1]} as asked.']
)
async def test_json_text_is_read_also_amid_prose(run: Run, text: str) -> None:
    assert (await run(JsonTransform, {"data": text, "mapping": {"x": "a[0]"}}))["result"] == {"x": 1}
    kept = await run(JsonTransform, {"data": text, "parse_json_strings": False})
    assert kept["result"] == text


async def test_text_that_is_no_json_stays_text(run: Run) -> None:
    for text in ("hello", "12", "true"):
        assert (await run(JsonTransform, {"data": text}))["result"] == text


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), JSON, min_size=1))
async def test_every_flattened_key_is_a_path_to_its_value(data: dict[str, Any]) -> None:
    output = await JsonTransform().execute(JsonTransform.Input(data=data, flatten=True), cast(Any, None))
    for path, value in output.result.items():
        assert pick(data, path) == value


def test_paths_are_read_with_care() -> None:
    assert parse_dotted("a.b[0]['c.d'][-1]") == ("a", "b", 0, "c.d", -1)
    assert parse_dotted("$.a") == parse_dotted("a") == ("a",)
    assert parse_dotted("[0].a") == (0, "a")
    assert pick({"a": {"b": None}}, "a.b") is None
    assert pick({"a": None}, "a.b") is MISSING
    assert pick({"a.b": 1}, "a.b") == 1
    assert pick({"a": [1]}, "a.0") == 1
    assert pick({"a": [1]}, "a[1]") is MISSING
    for wrong in ("a..b", "a.[0]", "a[0]b", ".a", "a[x]", "a."):
        with pytest.raises(StageError):
            parse_dotted(wrong)


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({"condition": "data.id == 7"}, True),
        ({"condition": "item.id > 7"}, False),
        ({"condition": "data.id > 7", "invert": True}, True),
        ({"field_conditions": {"to.name": "Ada", "lines[0].n": 2}}, True),
        ({"field_conditions": {"to.name": "Bob"}}, False),
        ({"field_conditions": {"lines[0].n": True}}, False),
        ({"condition": "data.id == 7", "field_conditions": {"id": 8}}, False),
        ({"field_conditions": {"to.street": "x"}}, False),
        ({"field_conditions": {"to.street": "x"}, "pass_if_missing": True}, True),
        ({"condition": "data.to.street == 'x'", "pass_if_missing": True}, True),
        ({"condition": "data.to.street == 'x'", "pass_if_missing": True, "invert": True}, True),
        ({"condition": "default(data.to.street, 'x') == 'x'"}, True),
        ({"condition": False}, False),
    ],
)
async def test_data_pass_or_fail(run: Run, options: dict[str, Any], passed: bool) -> None:
    found = await run(Filter, {"data": ORDER, **options})
    assert (found["passed"], found["data"]) == (passed, ORDER if passed else None)
    assert found["filtered_count"] == (0 if passed else 1)


async def test_a_list_is_filtered_in_order(run: Run) -> None:
    options = {"data": [5, 3, 8, 1], "filter_mode": "filter_array", "condition": "item >= 3 and index < len(data) - 1"}
    found = await run(Filter, options)
    assert (found["data"], found["filtered_count"], found["passed"]) == ([5, 3, 8], 1, True)
    found = await run(Filter, {**options, "condition": "item > 100"})
    assert (found["data"], found["passed"]) == ([], False)


async def test_a_missing_field_is_an_error_that_names_the_item(run: Run) -> None:
    with pytest.raises(StageError, match="item 1"):
        await run(Filter, {"data": [{"a": 1}, {}], "filter_mode": "filter_array", "condition": "item.a == 1"})


@pytest.mark.parametrize(
    "source", ["data.__class__", "type(data)", "isinstance(data, str)", "().__class__", "open('x')"]
)
async def test_a_filter_runs_no_code(run: Run, source: str) -> None:
    with pytest.raises(ExpressionError):
        await run(Filter, {"data": "x", "condition": source})


async def test_a_filter_without_a_condition_is_refused(run: Run) -> None:
    with pytest.raises(StageError, match="condition"):
        await run(Filter, {"data": 1})
    with pytest.raises(StageError, match="list"):
        await run(Filter, {"data": {"a": 1}, "filter_mode": "filter_array", "condition": "true"})


async def test_a_list_is_cut_into_batches(run: Run) -> None:
    found = await run(Loop, {"items": [0, 1, 2, 3, 4, 5, 6], "batch_size": 3})
    assert found["batches"] == [[0, 1, 2], [3, 4, 5], [6]]
    assert (found["total_items"], found["total_batches"], found["has_more"]) == (7, 3, False)


@given(st.integers(0, 20), st.integers(1, 7), st.integers(0, 25), st.none() | st.integers(1, 5))
async def test_batches_cover_what_they_say(total: int, size: int, start: int, most: int | None) -> None:
    items = list(range(total))
    output = await Loop().execute(
        Loop.Input(items=items, batch_size=size, start_index=start, max_iterations=most), cast(Any, None)
    )
    taken = [item for batch in output.batches for item in batch]
    assert taken == items[start : start + len(taken)]
    assert output.metadata is not None
    assert output.metadata["items_processed"] == len(taken)
    assert output.metadata["items_remaining"] == max(0, total - start - len(taken))
    assert output.has_more is (output.metadata["items_remaining"] > 0)
    if most is None:
        assert not output.has_more


async def test_a_variable_gives_the_value_that_holds_from_here_on(run: Run, context: Any) -> None:
    known = context(variables={"n": 1})
    assert await run(VariableSet, {"name": "n", "value": 2}, known) == {
        "name": "n",
        "value": 2,
        "previous_value": 1,
        "was_set": True,
    }
    kept = await run(VariableSet, {"name": "n", "value": 2, "overwrite": False}, known)
    assert (kept["value"], kept["was_set"]) == (1, False)
    fresh = await run(VariableSet, {"name": "m", "value": ORDER, "extract_path": "lines[1].sku", "overwrite": False})
    assert (fresh["value"], fresh["was_set"], fresh["previous_value"]) == ("b", True, None)


async def test_a_variable_with_a_wrong_path_or_name_is_refused(run: Run) -> None:
    with pytest.raises(StageError, match="extract_path"):
        await run(VariableSet, {"name": "n", "value": {}, "extract_path": "a"})
    with pytest.raises(ValidationError):
        await run(VariableSet, {"name": "not a name", "value": 1})


async def test_a_log_line_keeps_its_id_over_attempts(run: Run, context: Any) -> None:
    first, second = context(), context()
    second.attempt = 2
    inputs = {"message": "seen", "level": "warning", "data": {"a": 1}, "tags": {"t": "x"}, "passthrough": [1]}
    found = await run(Logger, inputs, first)
    assert found == await run(Logger, inputs, second)
    assert (found["logged"], found["passthrough"], len(found["log_id"])) == (True, [1], 8)
    fields = {"log_id": found["log_id"], "data": {"a": 1}, "tags": {"t": "x"}, "trace_id": "trace-1"}
    assert first.logger.lines == [("warning", "seen", fields)]
    other = context()
    other.path = ("each", 3, "stage")
    assert (await run(Logger, inputs, other))["log_id"] != found["log_id"]
