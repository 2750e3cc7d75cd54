"""Sub-pipelines with literal names are compiled, pinned and checked; rings are refused."""

from __future__ import annotations

from typing import Any

from compiling_kit import build, echo, only, refused, stage
from flowmason.errors import Code
from flowmason.plan import SubPipelineBody

CHILD = {
    "name": "child",
    "version": "1.2.0",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer", "default": 2}},
        "required": ["text", "times"],
        "additionalProperties": False,
    },
    "output_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": False},
    "stages": [stage("s", "shout", {"text": "{{input.text}}"})],
}


def calls(id: str, name: Any, **config: Any) -> dict[str, Any]:
    return stage(id, "subpipeline", {"pipeline_id": name, **config})


def pipeline(name: str, *stages: Any) -> dict[str, Any]:
    return {"name": name, "stages": list(stages)}


def test_a_literal_name_is_pinned_by_digest() -> None:
    for config in ({"name": "child"}, {"name": "child@1.2.0"}, {"name": "child", "pipeline_version": "1.2.0"}):
        plan = build(calls("sub", config.pop("name"), input_data={"text": "x"}, **config), others=[CHILD])
        body = plan.stages["sub"].body
        assert isinstance(body, SubPipelineBody) and body.plan is not None
        pinned = plan.plans[body.plan]
        assert pinned.name == "child" and pinned.id == body.plan and pinned.plans == {}


def test_a_templated_name_is_left_for_the_run() -> None:
    plan = build(calls("sub", "{{input.which}}"))
    assert plan.stages["sub"].body == SubPipelineBody(None) and plan.plans == {}


def test_plans_of_plans_lie_side_by_side() -> None:
    inner = pipeline("inner", echo("x"))
    middle = pipeline("middle", calls("go", "inner"), calls("again", "inner"))
    plan = build(calls("one", "middle"), calls("two", "inner"), others=[inner, middle])
    assert sorted(each.name for each in plan.plans.values()) == ["inner", "middle"]
    assert all(not each.plans and each.id == key for key, each in plan.plans.items())


def test_a_change_deep_below_changes_the_digest() -> None:
    def built(value: int) -> Any:
        inner, middle = pipeline("inner", echo("x", value)), pipeline("middle", calls("go", "inner"))
        return build(calls("one", "middle"), others=[inner, middle]).id

    assert built(1) == built(1) != built(2)


def test_a_literal_ring_is_refused_and_shown() -> None:
    a, b = pipeline("a", calls("x", "b")), pipeline("b", calls("y", "sample"))
    fault = only(refused(calls("sub", "a"), others=[a, b, pipeline("sample", calls("sub", "a"))]))
    assert fault.pointer == "$.stages[0].config.pipeline_id"
    assert "sample@1.0.0 → a@1.0.0 → b@1.0.0 → sample@1.0.0" in fault.reason


def test_pipelines_do_not_call_each_other_without_end() -> None:
    others = [pipeline(f"p{n}", calls("next", f"p{n + 1}")) for n in range(30)]
    assert only(refused(calls("go", "p0"), others=others)).code == Code.PIPELINE_DEPTH


def test_an_unknown_pipeline_is_refused() -> None:
    fault = only(refused(calls("sub", "nobody@2.0.0")))
    assert fault.code == Code.PIPELINE_NOT_FOUND and "nobody@2.0.0" in fault.reason


def test_two_versions_at_once_are_refused() -> None:
    fault = only(refused(calls("sub", "child@1.2.0", pipeline_version="2.0.0"), others=[CHILD]))
    assert fault.pointer == "$.stages[0].config.pipeline_version"


def test_faults_of_the_other_pipeline_are_told_here() -> None:
    broken = pipeline("broken", echo("a", "{{upstream.b.value}}"), echo("c", 1, "d"))
    faults = refused(calls("sub", "broken"), others=[broken])
    assert len(faults) == 2 and all(fault.pointer == "$.stages[0].config.pipeline_id" for fault in faults)
    assert "$.stages[0].config.value" in faults[0].reason and "$.stages[1].depends_on[0]" in faults[1].reason


def test_its_input_is_checked_as_far_as_it_is_known() -> None:
    fault = only(refused(calls("sub", "child", input_data={"txt": "x", "text": "y"}), others=[CHILD]))
    assert (fault.pointer, fault.nearest) == ("$.stages[0].config.input_data.txt", "text")
    assert "'text' is missing" in only(refused(calls("sub", "child"), others=[CHILD])).reason
    text = calls("sub", "child", input_data={"text": "x", "times": "5"})
    assert "expected a whole number" in only(refused(text, others=[CHILD])).reason  # a run's input is not coerced
    build(calls("sub", "child", input_data="{{input.all}}"), others=[CHILD])


def test_its_result_is_checked_against_its_output_schema() -> None:
    sub = calls("sub", "child", input_data={"text": "x"})
    build(sub, echo("a", "{{upstream.sub.result.text}} {{upstream.sub.status}}"), others=[CHILD])
    assert only(refused(sub, echo("a", "{{upstream.sub.result.txt}}"), others=[CHILD])).nearest == "text"
    assert only(refused(sub, echo("a", "{{upstream.sub.results}}"), others=[CHILD])).nearest == "result"
    mapped = calls("sub", "child", input_data={"text": "x"}, output_mapping={"loud": "text"})
    build(mapped, echo("a", "{{upstream.sub.result.loud}}"), others=[CHILD])
    assert only(refused(mapped, echo("a", "{{upstream.sub.result.lod}}"), others=[CHILD])).nearest == "loud"


def test_its_own_timeout_bounds_the_body() -> None:
    plan = build(calls("sub", "child", input_data={"text": "x"}, timeout_ms=900), others=[CHILD])
    assert plan.stages["sub"].body_timeout_ms == 900


def test_a_mapping_is_checked_against_its_output_schema() -> None:
    def mapped(path: str) -> dict[str, Any]:
        return calls("sub", "child", input_data={"text": "x"}, output_mapping={"loud": path})

    for path in ("text", "$", "$.text", "['text']"):
        build(mapped(path), others=[CHILD])
    fault = only(refused(mapped("txt"), others=[CHILD]))
    assert (fault.nearest, fault.pointer) == ("text", "$.stages[0].config.output_mapping.loud")
    assert "has no field" in only(refused(mapped("text.more"), others=[CHILD])).reason
    assert "is not a path" in only(refused(mapped("text..more"), others=[CHILD])).reason


def test_options_that_would_do_nothing_in_a_run_of_its_own_are_refused() -> None:
    for own in ({"async_execution": True}, {"wait_for_completion": False}):
        build(calls("sub", "child", input_data={"text": "x"}, **own), others=[CHILD])
        for idle in ({"output_mapping": {"a": "text"}}, {"timeout_ms": 900}, {"on_error": "ignore"}):
            fault = only(refused(calls("sub", "child", input_data={"text": "x"}, **own, **idle), others=[CHILD]))
            assert fault.pointer == f"$.stages[0].config.{next(iter(idle))}" and "no effect" in fault.reason


def test_a_run_of_its_own_has_no_result_to_read() -> None:
    sub = calls("sub", "child", input_data={"text": "x"}, async_execution=True)
    build(sub, echo("a", "{{upstream.sub.run_id}} {{upstream.sub.status}}"), others=[CHILD])
    assert "has no field 'result'" in only(refused(sub, echo("a", "{{upstream.sub.result}}"), others=[CHILD])).reason
