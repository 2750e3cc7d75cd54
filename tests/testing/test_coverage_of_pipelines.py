"""Coverage: which stages and branches tests reach, and how that is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fm_project import Fm, Project

TestsOf = Callable[..., Path]


def stage(id: str, component: str, /, **config: Any) -> dict[str, Any]:
    return {"id": id, "component_type": component, "config": config}


def coverage(fm: Fm, *args: str) -> dict[str, Any]:
    answer = fm("test", "--coverage=json", *args)
    found: dict[str, Any] = answer.json
    return found


def statuses(one: dict[str, Any]) -> dict[str, str]:
    return {name: each["status"] for name, each in one["by_stage"].items()}


WORK = {
    "name": "work",
    "stages": [
        stage("guard", "trycatch", try_stages=["risky"], catch_stages=["mend"], error_scope="continue"),
        stage("risky", "json_transform", data="{{input.n}}"),
        stage("mend", "json_transform", data=0),
        stage("each", "foreach", items="{{input.items}}", loop_stages=["line"]),
        stage("line", "json_transform", data="{{item}}"),
        stage("sub", "subpipeline", pipeline_id="inner", input_data={}),
        stage("end", "json_transform", data="{{input.n}}"),
    ],
    "input_schema": {
        "type": "object",
        "properties": {"n": {"type": "integer", "default": 1}, "items": {"type": "array", "default": []}},
    },
}
INNER = {"name": "inner", "stages": [stage("deep", "json_transform", data=1)]}


def test_the_best_that_happened_to_a_stage_counts(fm: Fm, tests_of: TestsOf) -> None:
    happy = {"name": "happy", "input": {"text": "x"}}
    tests_of(happy)
    found = coverage(fm)
    one = found["pipelines"][0]
    assert statuses(one) == {
        "draft": "executed",
        "route": "executed",
        "desk": "executed",
        "code": "skipped",
        "other": "skipped",
        "answer": "executed",
    }
    assert one["by_stage"]["route"]["branches"] == {"hardware": 1, "software": 0, "default": 0}
    assert (found["stages"]["covered"], found["branches"]["covered"], found["branches"]["total"]) == (4, 1, 3)
    tests_of(
        happy,
        {"name": "other", "input": {"text": "x"}, "mocks": {"draft": {"output": {"content": "?"}}}},
        {"name": "broken", "input": {"text": "x"}, "mocks": {"answer": {"error": "boom"}}, "expect_error": True},
    )
    one = coverage(fm)["pipelines"][0]
    assert statuses(one)["other"] == "executed"
    assert one["by_stage"]["route"]["branches"] == {"hardware": 2, "software": 0, "default": 1}
    assert one["by_stage"]["answer"]["hits"] == 3


def test_what_failed_and_what_never_ran(fm: Fm, tests_of: TestsOf) -> None:
    tests_of({"name": "broken", "input": {"text": "x"}, "mocks": {"draft": {"error": "boom"}}, "expect_error": "boom"})
    found = statuses(coverage(fm)["pipelines"][0])
    assert found["draft"] == "failed"
    assert {found[name] for name in ("route", "desk", "answer")} == {"uncovered"}


def test_bodies_and_sub_pipelines_are_covered(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    project.pipeline(WORK)
    project.pipeline(INNER)
    only_try = {"name": "plain", "input": {"items": [1, 2, 3]}}
    tests_of(only_try, pipeline="work", mocks={}, name="work")
    by_name = {one["pipeline"]: one for one in coverage(fm, "tests/work.test.json")["pipelines"]}
    assert sorted(by_name) == ["inner", "work"]
    assert by_name["inner"]["stages"]["percent"] == 100
    assert statuses(by_name["work"])["mend"] != "executed"
    assert by_name["work"]["by_stage"]["line"]["hits"] == 3
    assert by_name["work"]["by_stage"]["guard"]["branches"] == {"catch": 0}
    caught = {"name": "caught", "mocks": {"risky": {"error": "boom"}}}
    tests_of(only_try, caught, pipeline="work", mocks={}, name="work")
    work = next(one for one in coverage(fm, "tests/work.test.json")["pipelines"] if one["pipeline"] == "work")
    assert work["by_stage"]["guard"]["branches"] == {"catch": 1}
    assert set(statuses(work).values()) == {"executed"}


def test_pipelines_without_tests_count_when_the_whole_project_is_tested(
    fm: Fm, tests_of: TestsOf, project: Project
) -> None:
    project.pipeline(INNER)
    tests_of()
    assert [one["pipeline"] for one in coverage(fm)["pipelines"]] == ["inner", "triage"]
    assert [one["pipeline"] for one in coverage(fm, "tests")["pipelines"]] == ["triage"]


def test_inherited_stages_stand_in_the_file_that_they_are_from(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    project.pipeline({"name": "base", "abstract": True, "stages": [stage("first", "json_transform", data=1)]})
    project.pipeline({"name": "child", "extends": "base", "stages": [stage("second", "json_transform", data=2)]})
    tests_of({"name": "runs"}, pipeline="child", mocks={})
    child = coverage(fm, "tests")["pipelines"][0]
    files = {name: each["file"] for name, each in child["by_stage"].items()}
    assert files == {"first": "pipelines/base.pipeline.json", "second": "pipelines/child.pipeline.json"}


def test_lcov_has_a_line_for_each_stage(fm: Fm, tests_of: TestsOf, project: Project) -> None:
    tests_of()
    assert fm("test", "--coverage=lcov", "--coverage-out", "lcov.info").code == 0
    lines = (project.root / "lcov.info").read_text().splitlines()
    text = (project.root / "pipelines/triage.pipeline.json").read_text().splitlines()
    assert lines[:2] == ["TN:fm_test", "SF:pipelines/triage.pipeline.json"]
    hits = dict(line.removeprefix("DA:").split(",") for line in lines if line.startswith("DA:"))
    named = {text[int(number)].split('"')[3]: int(count) for number, count in hits.items()}  # `id` is the next line
    assert named == {"draft": 1, "route": 1, "desk": 1, "code": 0, "other": 0, "answer": 1}
    branches = [line.rsplit(",", 1)[1] for line in lines if line.startswith("BRDA:")]
    assert branches == ["1", "0", "0"]
    assert {"BRF:3", "BRH:1", "LF:6", "LH:4", "end_of_record"} <= set(lines)


def test_the_text_tells_what_is_missing(fm: Fm, tests_of: TestsOf) -> None:
    tests_of()
    answer = fm("test", "--coverage", "tests")  # what follows is a path, not a format
    assert "pipelines/triage.pipeline.json  stages 4/6 (67 %), branches 1/3 (33 %)" in answer.out
    assert "always skipped: code (line" in answer.out
    assert "branches not taken: route → software, route → default" in answer.out
    assert "55.6 % in all" in answer.out


def test_too_little_coverage_fails(fm: Fm, tests_of: TestsOf) -> None:
    tests_of()
    assert fm("test", "--fail-under", "55").code == 0
    answer = fm("test", "--fail-under", "56")
    assert answer.code == 1
    assert "coverage is 55.6 %, less than 56 %" in answer.out
