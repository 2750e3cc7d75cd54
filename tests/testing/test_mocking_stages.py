"""Mocks of stages, components and models, on the real engine."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason.errors import RefusedError, StageError, UsageError
from flowmason.testing import FakeModel, mocks, run_pipeline, run_pipeline_async
from fm_project import Project

pytestmark = pytest.mark.usefixtures("project")


def stage(id: str, component: str, /, **config: Any) -> dict[str, Any]:
    return {"id": id, "component_type": component, "config": config}


def echo(id: str, data: Any) -> dict[str, Any]:
    return stage(id, "json_transform", data=data)


def pipeline(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "made", "stages": list(stages), **more}


ASK = pipeline(
    stage("ask", "generator", prompt="Name {{input.thing}}"), echo("end", {"said": "{{upstream.ask.content}}"})
)


def test_a_mocked_stage_gives_its_output_and_its_component_does_not_run() -> None:
    result = run_pipeline(ASK, {"thing": "it"}, mocks={"ask": {"output": {"content": "mocked"}}})
    assert result.output["result"] == {"said": "mocked"}
    assert result.stages["ask"].output["finish_reason"] == "stop"  # fields left out have the Output's defaults
    assert result.usage.calls == 0


def test_a_stage_is_looked_for_before_its_component() -> None:
    made = pipeline(
        stage("one", "generator", prompt="a"),
        stage("two", "generator", prompt="b"),
        echo("end", ["{{upstream.one.content}}", "{{upstream.two.content}}"]),
    )
    both = {"generator": {"output": {"content": "any"}}, "two": {"output": {"content": "own"}}}
    assert run_pipeline(made, mocks=both).output["result"] == ["any", "own"]


def test_a_mock_sees_evaluated_inputs_and_remembers_its_calls() -> None:
    mocked = mocks({"ask": lambda inputs: {"content": inputs["prompt"].upper()}})
    assert run_pipeline(ASK, {"thing": "it"}, mocks=mocked).output["result"] == {"said": "NAME IT"}
    assert [(call.path, call.attempt, call.inputs["prompt"]) for call in mocked.calls["ask"]] == [
        (("ask",), 1, "Name it")
    ]


EACH = pipeline(
    stage("each", "foreach", items="{{input.items}}", loop_stages=["ask"]),
    stage("ask", "generator", prompt="{{item}}"),
    echo("end", "{{upstream.ask}}"),
)


def test_outputs_are_given_one_per_call() -> None:
    outputs = {"ask": {"outputs": [{"content": "a"}, {"content": "b"}]}}
    result = run_pipeline(EACH, {"items": [1, 2]}, mocks=outputs)
    assert [each["content"] for each in result.output["result"]] == ["a", "b"]
    more = run_pipeline(EACH, {"items": [1, 2, 3]}, mocks=outputs)
    assert more.error is not None
    assert "'ask' has 2 outputs; each[2].ask asks for one more" in more.error.message


def test_a_stage_of_a_pure_foreach_body_is_mocked_too() -> None:
    made = pipeline(
        stage("each", "foreach", items="{{input.items}}", loop_stages=["line"]),
        echo("line", "{{item}}"),
        echo("end", "{{upstream.line}}"),
    )
    for key in ("line", "each.line"):
        result = run_pipeline(made, {"items": [1, 2]}, mocks={key: {"output": {"result": 7}}})
        assert [each["result"] for each in result.output["result"]] == [7, 7]


def test_a_mocked_error_fails_the_run() -> None:
    result = run_pipeline(ASK, {"thing": "it"}, mocks={"ask": {"error": {"code": "BROKE", "message": "oh no"}}})
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.message, result.error.stage) == ("BROKE", "oh no", "ask")


def test_an_exception_as_a_mock_is_raised() -> None:
    result = run_pipeline(ASK, {"thing": "it"}, mocks={"ask": StageError("no", code="MINE")})
    assert result.error is not None
    assert result.error.code == "MINE"


def test_transient_errors_are_retried_without_waiting() -> None:
    mocked = mocks({"ask": {"error": {"type": "ConnectionError", "times": 3}, "output": {"content": "at last"}}})
    result = run_pipeline(ASK, {"thing": "it"}, mocks=mocked, timeout_s=3)  # with its delays it would take 7 s
    assert result.output["result"] == {"said": "at last"}
    assert result.stages["ask"].attempts == 4
    assert [call.attempt for call in mocked.calls["ask"]] == [1, 2, 3, 4]


def test_the_component_runs_once_a_mock_has_no_more_errors() -> None:
    made = pipeline(echo("work", {"a": 1}) | {"retry_config": {"max_retries": 1}})
    result = run_pipeline(made, mocks={"work": {"error": {"type": "TimeoutError", "times": 1}}})
    assert result.output["result"] == {"a": 1}
    assert result.stages["work"].attempts == 2


def test_a_trycatch_catches_a_mocked_error_by_its_type() -> None:
    made = pipeline(
        stage("guard", "trycatch", try_stages=["work"], catch_stages=["mend"], catch_error_types=["ValueError"]),
        echo("work", 1),
        echo("mend", "{{error.message}}"),
        echo("end", "{{upstream.mend.result}}"),
    )
    caught = run_pipeline(made, mocks={"work": {"error": {"type": "ValueError", "message": "bad"}}})
    assert caught.output["result"] == "bad"
    loose = run_pipeline(made, mocks={"work": {"error": {"type": "KeyError", "message": "bad"}}})
    assert loose.status == "failed"


def test_a_delay_longer_than_the_stage_s_time_is_a_timeout() -> None:
    made = pipeline(echo("work", 1) | {"timeout_ms": 100})
    result = run_pipeline(made, mocks={"work": {"delay_ms": 5000}})
    assert result.error is not None
    assert result.error.code == "TIMEOUT"
    assert run_pipeline(made, mocks={"work": {"delay_ms": 1}}).output["result"] == 1


def test_a_run_that_takes_too_long_is_ended() -> None:
    result = run_pipeline(pipeline(echo("work", 1)), mocks={"work": {"delay_ms": 20_000}}, timeout_s=0.2)
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.message == "the test took longer than 200 ms"


@pytest.mark.parametrize(
    ("control", "mock", "expected"),
    [
        (stage("pick", "router", value="x", routes={"x": ["left"], "y": ["right"]}), {"route_taken": "y"}, "right"),
        (
            stage("pick", "conditional", condition=True, true_branch_stages=["left"], false_branch_stages=["right"]),
            {"branch_taken": False},
            "right",
        ),
    ],
)
def test_a_mocked_guard_chooses(control: dict[str, Any], mock: dict[str, Any], expected: str) -> None:
    made = pipeline(control, echo("left", 1), echo("right", 2))
    result = run_pipeline(made, mocks={"pick": {"output": mock}})
    assert [name for name in ("left", "right") if result.stages[name].status == "completed"] == [expected]


def test_a_mocked_sub_pipeline_is_not_run(project: Project) -> None:
    project.pipeline({"name": "inner", "stages": [stage("deep", "generator", prompt="x")]})
    made = pipeline(stage("sub", "subpipeline", pipeline_id="inner"), echo("end", "{{upstream.sub.result}}"))
    whole = run_pipeline(made, mocks={"sub": {"output": {"result": {"n": 1}}}})
    assert whole.output["result"] == {"n": 1}
    assert "sub.deep" not in whole.stages
    for key in ("deep", "sub.deep", "generator"):
        inside = run_pipeline(made, mocks={key: {"output": {"content": "from inside"}}})
        assert inside.output["result"]["content"] == "from inside"


@pytest.mark.parametrize(
    ("wrong", "reason", "nearest"),
    [
        ({"aks": {"output": {}}}, "no stage and no component 'aks'", "ask"),
        ({"ask": {"output": {"contents": "x"}}}, "no field 'contents'", "content"),
        ({"ask": {"output": {"content": 3}}}, "never gives this: 3 is not of type 'string'", None),
        ({"ask": {"output": "text"}}, "is an object, not a text", None),
        ({"ask": {"outputs": [{}, {"x": 1}]}}, "no field 'x'", None),
        ({"ask": {"ouput": {}}}, "unknown key 'ouput'", "output"),
        ({"ask": {"output": {}, "outputs": [{}]}}, "either 'output', for every call, or 'outputs'", None),
        ({"ask": {"error": {"typ": "x"}}}, "unknown key 'typ'", "type"),
        ({"ask": {}}, "a mock needs an output", None),
        ({"ask": {"delay_ms": -1}}, "the least is 0", None),
    ],
)
def test_a_mock_that_cannot_be_right_is_refused(wrong: Any, reason: str, nearest: str | None) -> None:
    with pytest.raises(RefusedError) as caught:
        run_pipeline(ASK, {"thing": "it"}, mocks=wrong)
    fault = next(fault for fault in caught.value.faults if reason in fault.reason)
    assert fault.nearest == nearest
    assert fault.pointer.startswith("$.mocks.")


def test_a_loop_is_not_given_an_output() -> None:
    with pytest.raises(RefusedError, match="mock the stages in it"):
        run_pipeline(EACH, {"items": []}, mocks={"each": {"output": {"results": []}}})


def test_a_fake_model_answers_in_the_place_of_every_provider() -> None:
    model = FakeModel({"Name it": "a lamp", "*": "who knows"})
    asked = pipeline(ASK["stages"][0] | {"llm_settings": {"provider": "anthropic"}}, ASK["stages"][1])
    assert run_pipeline(asked, {"thing": "it"}, llm=model).output["result"] == {"said": "a lamp"}
    assert run_pipeline(asked, {"thing": "x"}, llm=model).output["result"] == {"said": "who knows"}
    assert model.prompts == ["Name it", "Name x"]


@pytest.mark.parametrize("llm", ["one text", ["one text"], {"Name": "one text"}])
def test_a_model_s_script_is_a_text_a_list_or_an_object(llm: Any) -> None:
    assert run_pipeline(ASK, {"thing": "it"}, llm=llm).output["result"] == {"said": "one text"}


def test_without_a_script_no_provider_on_the_network_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-key-that-must-not-be-used")
    asked = pipeline(ASK["stages"][0] | {"llm_settings": {"provider": "anthropic"}}, ASK["stages"][1])
    result = run_pipeline(asked, {"thing": "it"})
    assert result.error is not None
    assert result.error.code == "NO_PROVIDER"
    assert "tests make no calls" in result.error.message


def test_no_host_is_called_not_even_one_that_the_project_allows(project: Project) -> None:
    project.write("flowmason.json", {"name": "desk", "egress": {"allow": ["127.0.0.1:9"]}})
    made = pipeline(stage("get", "http_request", url="http://127.0.0.1:9/x"))
    result = run_pipeline(made)
    assert result.error is not None
    assert result.error.code == "EGRESS_DENIED"


def test_env_and_secrets_are_those_of_the_test(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("flowmason.json", {"name": "desk", "env": ["PLACE", "OTHER"]})
    monkeypatch.setenv("PLACE", "here")
    monkeypatch.setenv("OTHER", "kept")
    made = pipeline(echo("end", "{{env.PLACE}} {{env.OTHER}}"))
    assert run_pipeline(made, env={"PLACE": "there"}).output["result"] == "there kept"


def test_a_wrong_pipeline_or_input_is_refused() -> None:
    with pytest.raises(RefusedError, match="nosuch"):
        run_pipeline(pipeline(stage("a", "nosuch")))
    strict = pipeline(echo("end", 1), input_schema={"type": "object", "required": ["a"]})
    with pytest.raises(RefusedError, match="the field 'a' is missing"):
        run_pipeline(strict, {})


async def test_inside_an_event_loop_it_is_awaited() -> None:
    with pytest.raises(UsageError) as caught:
        run_pipeline(ASK, {"thing": "it"})
    assert "run_pipeline_async" in str(caught.value.failure.help)
    assert (await run_pipeline_async(ASK, {"thing": "it"}, llm="x")).ok
