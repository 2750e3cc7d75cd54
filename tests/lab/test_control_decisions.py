"""What control flow decides, given evaluated inputs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.control import catches, decide, subpipeline_output, takes_over, trycatch_output
from flowmason.errors import Code, ExpressionError, Failure, StageError, UsageError


def output(kind: str, **inputs: Any) -> dict[str, Any]:
    return decide(kind, inputs).output


@pytest.mark.parametrize(
    ("condition", "taken"),
    [(True, "true"), (0, "false"), ("", "false"), ("no", "true"), ([], "false"), (None, "false"), ({"a": 1}, "true")],
)
def test_a_conditional_goes_by_truth(condition: Any, taken: str) -> None:
    decision = decide("conditional", {"condition": condition})
    assert decision.choice == (taken,)
    assert decision.output["branch_taken"] == taken
    assert decision.output["condition_value"] == condition


def test_a_condition_expression_sees_the_condition_as_value() -> None:
    found = output("conditional", condition=7, condition_expression="value > 5 and value < 10", pass_data="x")
    assert found == {"branch_taken": "true", "condition_value": 7, "condition_result": True, "data": "x"}


def test_an_error_in_an_expression_is_an_error_not_false() -> None:
    with pytest.raises(ExpressionError):
        decide("conditional", {"condition": {"a": 1}, "condition_expression": "value.b > 5"})
    with pytest.raises(ExpressionError):
        decide("return", {"condition": "x", "condition_expression": "value > "})


def test_expressions_cannot_reach_python() -> None:
    with pytest.raises(ExpressionError):
        decide("conditional", {"condition": 1, "condition_expression": "value.__class__"})


ROUTES = {"a": ["one", "two"], "B": "three", "3": ["four"], "true": ["five"], "null": ["six"]}


@pytest.mark.parametrize(
    ("value", "route", "stages"),
    [
        ("a", "a", ["one", "two"]),
        ("B", "B", ["three"]),
        (3, "3", ["four"]),
        (3.0, "3", ["four"]),
        (True, "true", ["five"]),
        (None, "null", ["six"]),
        ("b", "default", ["else"]),
        (["a"], "default", ["else"]),
    ],
)
def test_a_router_matches_exactly_then_as_text_then_the_default(value: Any, route: str, stages: list[str]) -> None:
    decision = decide("router", {"value": value, "routes": ROUTES, "default_route": "else"})
    assert decision.choice == (route,)
    assert decision.output["stages_to_execute"] == stages
    listed = {"one", "two", "three", "four", "five", "six", "else"}
    assert set(decision.output["stages_to_skip"]) == listed - set(stages)


def test_a_router_may_ignore_case_after_the_exact_key() -> None:
    found = output("router", value="A", routes={"a": ["low"], "A": ["high"]}, case_insensitive=True)
    assert found["route_taken"] == "A"
    found = output("router", value="B", routes={"a": ["x"], "b": ["y"]}, case_insensitive=True)
    assert (found["route_taken"], found["original_value"]) == ("b", "B")


def test_a_router_may_look_up_an_expression() -> None:
    found = output("router", value=12, routes={"big": ["x"]}, value_expression="'big' if value > 10 else 'small'")
    assert (found["route_taken"], found["original_value"], found["matched_value"]) == ("big", 12, "big")


def test_a_stage_of_two_routes_is_not_skipped_when_either_is_chosen() -> None:
    found = output("router", value="a", routes={"a": ["shared", "x"], "b": ["shared", "y"]})
    assert found["stages_to_skip"] == ["y"]


def test_a_route_called_default_beside_a_default_route_is_refused() -> None:
    with pytest.raises(StageError, match="default"):
        decide("router", {"value": 1, "routes": {"default": ["x"]}, "default_route": ["y"]})


def test_foreach_keeps_order_and_counts_what_it_leaves_out() -> None:
    decision = decide("foreach", {"items": [5, 1, 4, 2], "filter_expression": "item > 1 and index != 2"})
    assert decision.items == [5, 2]
    assert decision.skipped == 2
    assert (decision.output["total_items"], decision.output["skipped_items"]) == (4, 2)
    assert decision.output["items_to_process"] == [5, 2]


def test_foreach_over_an_object_gives_keys_and_values() -> None:
    assert decide("foreach", {"items": {"b": 1, "a": 2}}).items == [{"key": "b", "value": 1}, {"key": "a", "value": 2}]


def test_a_filter_knows_the_names_that_the_stage_gives_its_variables() -> None:
    inputs = {"items": [1, 2], "item_variable": "n", "index_variable": "item", "filter_expression": "n == item + 1"}
    assert decide("foreach", inputs).items == [1, 2]


@pytest.mark.parametrize("items", [3, "text", None, True])
def test_foreach_refuses_what_is_no_list(items: Any) -> None:
    with pytest.raises(StageError, match="items: expected a list") as caught:
        decide("foreach", {"items": items})
    assert caught.value.failure.code == Code.INVALID_INPUT


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_parallel": 0},
        {"max_parallel": 1001},
        {"item_variable": "input"},
        {"item_variable": "a b"},
        {"item_variable": "x", "index_variable": "x"},
    ],
)
def test_foreach_refuses_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(StageError) as caught:
        decide("foreach", {"items": [], **wrong})
    assert caught.value.failure.code == Code.INVALID_INPUT


def test_a_filter_that_fails_names_the_item() -> None:
    with pytest.raises(StageError, match="item 1") as caught:
        decide("foreach", {"items": [{"a": 1}, {}], "filter_expression": "item.a == 1"})
    assert caught.value.failure.details is not None
    assert caught.value.failure.details["index"] == 1


@given(st.lists(st.integers()))
def test_a_filter_keeps_just_what_fits(items: list[int]) -> None:
    decision = decide("foreach", {"items": items, "filter_expression": "item % 2 == 0"})
    assert decision.items == [item for item in items if item % 2 == 0]
    assert decision.skipped == sum(item % 2 for item in items)


@pytest.mark.parametrize(
    ("types", "failure", "taken"),
    [
        ([], Failure(code="EXECUTION", message="", type="KeyError"), True),
        (["KeyError"], Failure(code="EXECUTION", message="", type="KeyError"), True),
        (["LookupError"], Failure(code="EXECUTION", message="", type="KeyError"), True),
        (["Exception"], Failure(code="X", message="", type="TheirError"), True),
        (["TheirError"], Failure(code="X", message="", type="TheirError"), True),
        (["X"], Failure(code="X", message="", type="TheirError"), True),
        (["ValueError", "X2"], Failure(code="X", message="", type="KeyError"), False),
        (["StageError"], Failure(code="TIMEOUT", message="", type="StageTimeoutError"), True),
        (["TimeoutError"], Failure(code="TIMEOUT", message="", type="StageTimeoutError"), True),
        (["ConnectionError"], Failure(code="CONNECTIVITY", message="", type="RetryableError"), True),
        (["ConnectionError"], Failure(code="EXECUTION", message="", type="ConnectionResetError"), True),
        ([], Failure(code="CANCELLED", message=""), False),
        (["CANCELLED"], Failure(code="CANCELLED", message=""), False),
    ],
)
def test_a_catch_goes_by_class_name_or_code(types: list[str], failure: Failure, taken: bool) -> None:
    assert catches(types, failure) is taken


def test_trycatch_goes_on_unless_told_otherwise() -> None:
    assert decide("trycatch", {"try_stages": ["a"]}).settings["error_scope"] == "continue"
    with pytest.raises(StageError, match="error_scope"):
        decide("trycatch", {"error_scope": "swallow"})


def test_the_output_of_a_trycatch_shows_the_error() -> None:
    failure = Failure(code="X", message="broke", type="TheirError", stage="a")
    found = trycatch_output("caught", failure=failure, recovered=True, catch_result=3)
    assert (found["error_message"], found["error_type"], found["error_occurred"]) == ("broke", "TheirError", True)
    assert found["error"] == {"message": "broke", "type": "TheirError", "code": "X", "stage": "a", "details": {}}


def test_return_decides_and_carries_its_value() -> None:
    decision = decide("return", {"return_value": [1], "status": "failed"})
    assert (decision.returned, decision.output["return_value"]) == ("failed", [1])
    decision = decide("return", {"condition": 3, "condition_expression": "value > 5", "return_value": 1})
    assert decision.returned is None
    assert decision.output["should_return"] is False
    with pytest.raises(StageError, match="status"):
        decide("return", {"status": "done"})


def test_a_subpipeline_names_its_pipeline_and_input() -> None:
    decision = decide("subpipeline", {"pipeline_id": "sub@2.0.0", "input_data": {"a": 1}})
    assert (decision.pipeline, decision.input) == ("sub@2.0.0", {"a": 1})
    assert (decision.output["pipeline_id"], decision.output["pipeline_version"]) == ("sub", "2.0.0")
    assert decide("subpipeline", {"pipeline_id": "sub", "pipeline_version": "1.0.0"}).pipeline == "sub@1.0.0"
    assert decide("subpipeline", {"pipeline_id": "sub", "input_data": None}).input == {}
    with pytest.raises(StageError, match="version"):
        decide("subpipeline", {"pipeline_id": "sub@1.0.0", "pipeline_version": "2.0.0"})
    with pytest.raises(StageError, match="input_data"):
        decide("subpipeline", {"pipeline_id": "sub", "input_data": [1]})


def test_a_subpipelines_output_may_be_mapped() -> None:
    given = {"report": {"lines": ["x", "y"]}}
    found = subpipeline_output("completed", pipeline_id="s", result=given, output_mapping={"last": "report.lines[-1]"})
    assert found["result"] == {"last": "y"}
    with pytest.raises(StageError, match="nope"):
        subpipeline_output("completed", pipeline_id="s", result=given, output_mapping={"x": "nope"})


def test_what_becomes_of_a_failed_subpipeline() -> None:
    failure = Failure(code="X", message="")
    assert takes_over({"on_error": "propagate"}, failure) == (False, None)
    assert takes_over({"on_error": "ignore", "default_result": 3}, failure) == (True, None)
    assert takes_over({"on_error": "default", "default_result": 3}, failure) == (True, 3)
    assert takes_over({"on_error": "ignore"}, Failure(code="CANCELLED", message="")) == (False, None)


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StageError, match="loop_stages") as caught:
        decide("foreach", {"items": [], "loop_stage": ["a"]})
    assert caught.value.failure.code == Code.INVALID_INPUT
    with pytest.raises(UsageError):
        decide("while", {})
