"""`fm test`: what it runs, how it judges, and what it ends with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fm_project import Fm, Project

TestsOf = Callable[..., Path]


def case(name: str, /, **keys: Any) -> dict[str, Any]:
    return {"name": name, "input": {"text": "printer on fire"}, **keys}


def results(fm: Fm, *args: str) -> dict[str, Any]:
    """Status by test, as the JSON report tells it."""
    answer = fm("test", "--reporter", "json", *args)
    return {each["name"]: each for file in answer.json["files"] for each in file["tests"]}


def test_a_test_that_holds_passes(fm: Fm, tests_of: TestsOf) -> None:
    tests_of()
    answer = fm("test")
    assert answer.code == 0, answer
    assert "tests/triage.test.json  triage@2.0.0" in answer.out
    assert "✓ happy" in answer.out
    assert "1 passed" in answer.out


def test_a_failed_assertion_tells_what_was_there(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(case("wrong", assertions=[{"path": "output.result.topic", "equals": "software"}, {"path": "result.top"}]))
    answer = fm("test")
    assert answer.code == 1
    assert 'output.result.topic should equal "software"; it is "hardware"' in answer.out
    assert "result has no 'top'; did you mean 'topic'?" in answer.out
    assert "1 failed" in answer.out


def test_a_run_that_fails_fails_its_test(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(case("broken", mocks={"answer": {"error": {"code": "BROKE", "message": "oh no"}}}))
    answer = fm("test")
    assert answer.code == 1
    assert "answer: [BROKE] oh no" in answer.out


@pytest.mark.parametrize(
    ("expected", "status"),
    [(True, "passed"), ("BROKE", "passed"), ("oh no", "passed"), ("ValueError", "passed"), ("other", "failed")],
)
def test_an_error_can_be_expected(fm: Fm, tests_of: TestsOf, expected: Any, status: str) -> None:
    error = {"type": "ValueError", "code": "BROKE", "message": "oh no"}
    tests_of(
        case(
            "broken",
            mocks={"answer": {"error": error}},
            expect_error=expected,
            assertions=[{"path": "$.error.stage", "equals": "answer"}, {"path": "$.status", "equals": "failed"}],
        )
    )
    assert results(fm)["broken"]["status"] == status


def test_an_error_that_does_not_come_is_a_failure(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(case("fine", expect_error=True))
    assert "an error was expected, but the run completed" in fm("test").out


def test_a_wrong_input_is_an_error_of_the_run(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(
        {"name": "none", "expect_error": "INVALID_INPUT"},
        {"name": "wrong", "input": {"text": 3}, "expect_error": "expected string"},
        {"name": "unexpected", "input": {}},
    )
    found = results(fm)
    assert [found[name]["status"] for name in ("none", "wrong", "unexpected")] == ["passed", "passed", "failed"]


def test_the_test_s_own_mocks_and_script_come_before_the_file_s(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(
        case("own", mocks={"draft": {"output": {"content": "software"}}}, assertions=[_topic("software")]),
        case("file's", assertions=[_topic("hardware")]),
    )
    assert {each["status"] for each in results(fm).values()} == {"passed"}


def test_models_are_scripted_for_a_file_or_a_test(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(
        case("file's", assertions=[_topic("general"), {"path": "$.usage.calls", "equals": 1}]),
        case("own", llm={"printer": "hardware"}, assertions=[_topic("hardware")]),
        case("broken", provider=[{"error": {"status": 400, "message": "no"}}], expect_error="PROVIDER"),
        mocks={},
        llm="general",
    )
    assert {name: each["status"] for name, each in results(fm).items()} == {
        "file's": "passed",
        "own": "passed",
        "broken": "passed",
    }


def _topic(topic: str) -> dict[str, Any]:
    return {"path": "output.result.topic", "equals": topic}


def test_skip_only_and_reasons(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(case("a"), case("b", skip="not yet"), case("c", skip=True))
    tests_of(case("d"), case("e", only=True), case("f", only=True, skip=True), name="alone")
    found = results(fm)
    assert {name: each["status"] for name, each in found.items()} == {
        "a": "passed",
        "b": "skipped",
        "c": "skipped",
        "d": "skipped",
        "e": "passed",
        "f": "skipped",
    }
    assert found["b"]["error"] == "not yet"


def test_filters_and_tags_choose(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(case("first", tags=["fast"]), case("second", tags=["slow"]), case("third"))
    tests_of(case("fourth"), name="other", tags=["fast"])
    assert sorted(results(fm, "--tag", "fast")) == ["first", "fourth"]
    assert sorted(results(fm, "--filter", "SECOND", "-k", "thi")) == ["second", "third"]
    assert sorted(results(fm, "tests/other.test.json")) == ["fourth"]
    assert sorted(results(fm, "tests")) == ["first", "fourth", "second", "third"]
    nothing = fm("test", "--filter", "nosuch")
    assert nothing.code == 2
    assert "no test fits 'nosuch'; 4 were left out" in nothing.err


def test_a_test_that_takes_too_long_fails(fm: Fm, tests_of: TestsOf) -> None:
    tests_of(case("slow", timeout=150, mocks={"answer": {"delay_ms": 20_000}}), timeout=9000)
    found = results(fm)["slow"]
    assert (found["status"], found["code"]) == ("failed", "TIMEOUT")
    assert "took longer than 150 ms" in found["error"]


def test_a_failed_test_runs_again_as_often_as_the_project_says(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    project.write("flowmason.json", {"name": "desk", "testing": {"retries": 2}})
    tests_of(case("wrong", assertions=[_topic("software")]), case("right"))
    found = results(fm)
    assert (found["wrong"]["attempts"], found["right"]["attempts"]) == (3, 1)


def test_tests_may_run_side_by_side(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    project.write("flowmason.json", {"name": "desk", "testing": {"parallel": True}})
    delay = {"draft": {"output": {"content": "hardware"}, "delay_ms": 400}}
    tests_of(case("a", mocks=delay), case("b", mocks=delay), case("c", mocks=delay))
    answer = fm("test", "--reporter", "json").json
    assert answer["summary"]["passed"] == 3
    assert answer["files"][0]["duration"] < sum(each["duration"] for each in answer["files"][0]["tests"])


def test_setup_gives_input_environment_and_secrets(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    project.write("flowmason.json", {"name": "desk", "env": ["PLACE"]})
    project.write("components/keys.py", _KEYS)
    project.pipeline(
        {
            "name": "where",
            "input_schema": {"type": "object", "required": ["n", "m"]},
            "stages": [
                {"id": "key", "component_type": "shows_key"},
                {
                    "id": "end",
                    "component_type": "json_transform",
                    "config": {"data": "{{env.PLACE}} {{upstream.key.last}} {{input.n}} {{input.m}}"},
                },
            ],
        }
    )
    tests_of(
        {"name": "set", "input": {"m": 3}, "assertions": [{"path": "result", "equals": "there y 1 3"}]},
        pipeline="where",
        mocks={},
        setup={"input": {"n": 1, "m": 2}, "env": {"PLACE": "there"}, "secrets": {"key": "the-key"}},
    )
    assert fm("test").code == 0


_KEYS = """
from flowmason import NodeInput, NodeOutput, node


@node(name="shows_key", category="test", description="The last letter of a secret.", secrets=["key"])
class ShowsKey:
    class Input(NodeInput):
        pass

    class Output(NodeOutput):
        last: str

    async def execute(self, input, context):
        return self.Output(last=context.secrets.get("key")[-1])
"""


def test_a_component_is_tested_without_a_pipeline(fm: Fm, project: Project) -> None:
    project.write(
        "tests/transform.test.json",
        {
            "component": "json-transform",
            "tests": [
                {
                    "name": "maps",
                    "input": {"data": {"a": {"b": "{{no template}}"}}, "mapping": {"x": "a.b"}},
                    "assertions": [{"path": "result.x", "equals": "{{no template}}"}],
                },
                {"name": "lacks", "input": {}, "expect_error": "INVALID_INPUT"},
                {"name": "strange", "input": {"data": 1, "mappings": {}}, "expect_error": "did you mean 'mapping'"},
            ],
        },
    )
    project.write(
        "tests/generator.test.json",
        {
            "component_type": "generator",
            "llm": ["hello"],
            "tests": [
                {"name": "asks", "input": {"prompt": "x"}, "assertions": [{"path": "content", "equals": "hello"}]}
            ],
        },
    )
    answer = fm("test")
    assert answer.code == 0, answer
    assert "4 passed" in answer.out


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ({"tests": [{"name": "a"}]}, "1:1", "exactly one of 'pipeline' and 'component'"),
        ({"pipeline": "triage", "tests": []}, "3:3", "there are no tests"),
        ({"pipeline": "triage", "test": [], "tests": [{"name": "a"}]}, "3:3", "did you mean 'tests'"),
        ({"pipeline": "triage", "tests": [{"name": "a", "inputs": {}}]}, "6:7", "did you mean 'input'"),
        ({"pipeline": "triage", "tests": [{"name": "a"}, {"name": "a"}]}, "8:7", "another test named 'a'"),
        ({"pipeline": "triag", "tests": [{"name": "a"}]}, "2:3", "did you mean 'triage'"),
        ({"component": "genrator", "tests": [{"name": "a"}]}, "2:3", "did you mean 'generator'"),
        ({"pipeline": "triage", "mocks": {"drft": {"output": {}}}, "tests": [{"name": "a"}]}, "4:5", "mean 'draft'"),
        ({"pipeline": "triage", "tests": [{"name": "a", "mocks": {"x": {}}}]}, "7:9", "a mock needs an output"),
        ({"pipeline": "triage", "llm": "a", "provider": "b", "tests": [{"name": "a"}]}, "4:3", "two spellings"),
        ({"component": "generator", "mocks": {"a": {"output": 1}}, "tests": [{"name": "a"}]}, "3:3", "mocks no comp"),
        ({"pipeline": "triage", "setup": {"envs": {}}, "tests": [{"name": "a"}]}, "4:5", "unknown key 'envs'"),
        ({"pipeline": "triage", "timeout": 0, "tests": [{"name": "a"}]}, "3:3", "the least is 1"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(
    fm: Fm, project: Project, content: dict[str, Any], place: str, reason: str
) -> None:
    project.write("tests/bad.test.json", content)
    answer = fm("test")
    assert answer.code == 2
    assert f"tests/bad.test.json:{place}: refused" in answer.err
    assert reason in " ".join(answer.err.split())


def test_a_refused_file_does_not_keep_others_from_running(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of()
    project.write("tests/bad.test.json", "{")
    project.pipeline({"name": "wrong", "stages": [{"id": "a", "component_type": "genrator"}]})
    tests_of(name="wrong", pipeline="wrong", mocks={})
    answer = fm("test", "--reporter", "json")
    assert answer.code == 2
    summary = answer.json["summary"]
    assert (summary["passed"], summary["refused_files"]) == (1, 2)
    assert any("pipelines/wrong.pipeline.json" in str(fault["file"]) for fault in answer.json["files"][2]["faults"])


def test_no_tests_is_a_usage_error(fm: Fm, project: Project) -> None:
    assert fm("test").code == 2
    project.write("tests/x.test.json", {})
    assert "did you mean 'x.test.json'" in fm("test", "tests/y.test.json").err


def test_junit(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of(
        case("good"),
        case("bad \x01 & <odd>", assertions=[_topic("x")]),
        case("broken", mocks={"answer": {"error": "boom"}}),
        case("later", skip="why"),
    )
    project.write("tests/bad.test.json", "{")
    assert fm("test", "--reporter", "junit", "--out", "out/results.xml").code == 2
    root = ElementTree.fromstring((project.root / "out/results.xml").read_text())
    totals = [root.get(key) for key in ("tests", "failures", "errors", "skipped")]
    assert totals == ["5", "2", "1", "1"]
    texts = {each.get("name"): [child.tag for child in each] for each in root.iter("testcase")}
    assert texts == {
        "(file)": ["error"],
        "good": [],
        "bad \ufffd & <odd>": ["failure"],
        "broken": ["failure"],
        "later": ["skipped"],
    }


def test_the_json_report_tells_everything(fm: Fm, tests_of: TestsOf) -> None:
    tests_of()
    answer = fm("test", "--reporter", "json", "--coverage")
    report = answer.json  # nothing else is on stdout
    assert "✓ happy" in answer.err
    found = report["files"][0]["tests"][0]
    assert found["output"]["result"]["topic"] == "hardware"
    assert found["assertions"][0] == {
        "path": "output.result.topic",
        "passed": True,
        "message": 'output.result.topic should equal "hardware"',
        "expected": "hardware",
        "actual": "hardware",
    }
    assert report["coverage"]["stages"] == {"covered": 4, "total": 6, "percent": 66.67}


def test_a_text_report_can_go_to_a_file(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of()
    assert fm("test", "--out", "report.txt").code == 0
    assert "✓ happy" in (project.root / "report.txt").read_text()


def test_what_cannot_be_done_is_said(fm: Fm, tests_of: TestsOf) -> None:
    tests_of()
    for wrong in (
        ["--reporter", "jsn"],
        ["--coverage=html"],
        ["--fail-under", "101"],
        ["--reporter", "json", "--coverage=lcov"],
        ["--out", "/proc/nothing/x"],
    ):
        assert fm("test", *wrong).code == 2, wrong


def test_a_component_that_does_not_stop_ends_with_the_process(project: Project) -> None:
    project.write("components/stuck.py", _STUCK)
    project.write(
        "tests/stuck.test.json",
        {"component": "stuck", "timeout": 300, "tests": [{"name": "hangs", "expect_error": "TIMEOUT"}]},
    )
    process = project.start("test")
    out, err = process.communicate(timeout=25)
    assert process.returncode == 0, out + err
    assert "1 passed" in out


_STUCK = """
import time
from flowmason import OperatorInput, OperatorOutput, operator


@operator(name="stuck", category="test", description="Blocks its thread.")
class Stuck:
    class Input(OperatorInput):
        pass

    class Output(OperatorOutput):
        pass

    async def execute(self, input, context):
        time.sleep(60)
        return self.Output()
"""
