"""Data sets and graders: what is read, what is refused where, what is judged how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import FlowMasonError, RefusedError
from flowmason.evals.cases import read_cases
from flowmason.evals.graders import Grade, Grader, check_grader, from_flag, grade, verdict
from flowmason.evals.spec import read_eval_file


def test_cases_are_read_with_their_lines_as_ids(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"input": {"a": 1}}\n\n{"id": 7, "input": {}, "expected": null, "tags": ["t"]}\n')
    first, second = read_cases(path)
    assert (first.id, first.input, second.id, second.tags) == ("case-1", {"a": 1}, "7", ("t",))


def test_every_wrong_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    lines = ['{"input": {}, "id": "a"}', "{", '{"inputs": {}}', '{"input": 3}', "[]", '{"input": {}, "id": "a"}']
    path.write_text("\n".join(lines))
    with pytest.raises(RefusedError) as caught:
        read_cases(path)
    assert {fault.line for fault in caught.value.faults} == {2, 3, 4, 5, 6}
    assert "input" in {fault.nearest for fault in caught.value.faults}
    assert {fault.file for fault in caught.value.faults} == {str(path)}


def test_a_file_without_cases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text("\n")
    with pytest.raises(RefusedError, match="no cases"):
        read_cases(tmp_path / "cases.jsonl")
    with pytest.raises(FlowMasonError, match="cannot read"):
        read_cases(tmp_path / "nothing.jsonl")


ROOTS = {"input": {"n": 2}, "output": {"score": 0.7, "n": 1, "flag": True}, "expected": {"n": 1}}


@pytest.mark.parametrize(
    ("grader", "passed", "score"),
    [
        (Grader(type="exact", of="output.n", expected="expected.n"), True, 1.0),
        (Grader(type="exact", of="output.flag", expected="expected.n"), False, 0.0),
        (Grader(type="exact"), False, 0.0),
        (Grader(type="expression", expression="output.score >= 0.5"), True, 1.0),
        (Grader(type="expression", expression="output.score", threshold=0.8), False, 0.7),
        (Grader(type="expression", expression="output.n + input.n"), False, 0.0),
        (Grader(type="expression", expression="output.missing"), False, 0.0),
        (Grader(type="schema", schema={"required": ["n"]}), True, 1.0),
        (Grader(type="schema", of="output.n", schema={"type": "string"}), False, 0.0),
    ],
)
def test_graders_judge(grader: Grader, passed: bool, score: float) -> None:
    found = grade(grader, ROOTS)
    assert (found.passed, found.score) == (passed, score)
    assert passed or found.reason


def test_a_verdict_is_taken_as_it_is_and_nothing_else_is_one() -> None:
    assert verdict({"pass": True, "score": 0.4, "reason": "so"}) == Grade(True, 0.4, "so")
    for wrong in (None, {}, {"pass": "yes"}, "true"):
        with pytest.raises(ValueError, match="no verdict"):
            verdict(wrong)


@pytest.mark.parametrize(
    "grader",
    [
        Grader(type="exakt"),
        Grader(type="schema"),
        Grader(type="schema", schema={"type": "strin"}),
        Grader(type="expression", expression="output."),
        Grader(type="expression", expression="upstream.a"),
        Grader(type="judge", prompt="{{answer}}"),
    ],
)
def test_wrong_graders_are_refused(grader: Grader) -> None:
    assert check_grader(grader, "$")


def test_flags_make_graders() -> None:
    assert from_flag("exact:output.a", None).of == "output.a"
    assert from_flag("judge:verdict", None).prompt["$prompt"] == "verdict"
    for wrong in ("exakt", "expression", "schema:", "expression:1 +"):
        with pytest.raises(FlowMasonError):
            from_flag(wrong, lambda _: {})


def faults_of(tmp_path: Path, content: Any) -> list[Any]:
    path = tmp_path / "x.eval.json"
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(RefusedError) as caught:
        read_eval_file(path)
    assert all(fault.line and fault.file for fault in caught.value.faults)
    return list(caught.value.faults)


def test_an_eval_file_is_refused_with_places(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        {
            "pipelin": "p",
            "dataset": "d",
            "graders": [{"type": "exact", "off": "x"}, {"type": "expression", "threshold": "high"}, {"type": "exact"}],
            "gate": "pass_rate",
            "concurrency": 0,
        },
    )
    told = {fault.pointer: fault.nearest for fault in faults}
    assert told["$.pipelin"] == "pipeline" and told["$.graders[0].off"] == "of"
    assert {"$.graders[1].threshold", "$.concurrency"} <= set(told)


def test_graders_need_names_of_their_own(tmp_path: Path) -> None:
    graders = [{"type": "exact"}, {"type": "exact"}]
    faults = faults_of(tmp_path, {"pipeline": "p", "dataset": "d", "graders": graders})
    assert "two graders" in faults[0].reason
