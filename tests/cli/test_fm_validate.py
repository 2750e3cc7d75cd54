"""`fm validate`."""

from __future__ import annotations

import json

from fm_project import ORDERS, Fm, Project


def test_a_good_project_passes(project: Project, fm: Fm) -> None:
    answer = fm("validate")
    assert answer.code == 0, answer
    assert "orders@1.2.0, 4 stages" in answer.out


def test_quiet_says_only_what_is_wrong(project: Project, fm: Fm) -> None:
    good = fm("validate", "-q")
    assert (good.code, good.out, good.err) == (0, "", "")
    project.pipeline({"name": "wrong", "stages": [{"id": "a", "component_type": "fliter", "config": {}}]})
    wrong = fm("validate", "--quiet")
    assert wrong.code == 2 and wrong.out == ""
    assert "did you mean 'filter'?" in wrong.err


def test_all_faults_are_told_with_place_reason_and_nearest_name(project: Project, fm: Fm) -> None:
    project.write(
        "pipelines/wrong.pipeline.yaml",
        """name: wrong
stages:
  - id: fetch
    component_type: http-request
    config:
      url: https://example.com
      methd: GET
  - id: shape
    component_type: json_transform
    config:
      data: "{{upstream.fetch.bdy}}"
""",
    )
    answer = fm("validate", "pipelines/wrong.pipeline.yaml")
    assert answer.code == 2
    assert "pipelines/wrong.pipeline.yaml:7:7: refused" in answer.err
    assert "7 |       methd: GET\n    |       ^" in answer.err
    assert "did you mean 'method'?" in answer.err
    assert "pipelines/wrong.pipeline.yaml:11:7: refused" in answer.err
    assert "did you mean 'body'?" in answer.err
    assert "2 faults in 1 file" in answer.err


def test_json_tells_the_same(project: Project, fm: Fm) -> None:
    project.pipeline({"name": "wrong", "stages": [{"id": "a", "component_type": "fliter", "config": {}}]})
    answer = fm("validate", "--format", "json")
    assert answer.code == 2
    assert answer.json["ok"] is False
    by_file = {report["file"]: report for report in answer.json["files"]}
    assert by_file["pipelines/orders.pipeline.json"]["ok"]
    wrong = by_file["pipelines/wrong.pipeline.json"]
    assert not wrong["ok"]
    fault = wrong["faults"][0]
    assert fault["nearest"] == "filter"
    assert fault["pointer"] == "$.stages[0].component_type"
    assert (fault["line"], fault["code"]) == (6, "COMPONENT_MISSING")


def test_strict_refuses_for_warnings(project: Project, fm: Fm) -> None:
    project.pipeline({**ORDERS, "sample_input": {"orders": "none"}})
    assert fm("validate").code == 0
    strict = fm("validate", "--strict")
    assert strict.code == 2
    assert "$.sample_input.orders" in strict.err


def test_a_broken_component_file_refuses_the_project(project: Project, fm: Fm) -> None:
    project.write("components/broken.py", "x = 1\nimport nowhere_to_be_found\n")
    answer = fm("validate")
    assert answer.code == 2
    assert "components/broken.py:2" in answer.err
    assert fm("validate", "orders").code == 0


def test_a_broken_project_file_is_refused_in_its_place(project: Project, fm: Fm) -> None:
    project.write("flowmason.json", '{\n  "name": "shop",\n  "enviroment": []\n}\n')
    answer = fm("validate")
    assert answer.code == 2
    assert "flowmason.json:3:3" in answer.err


def test_inheritance_is_shown_and_its_faults_are_placed(project: Project, fm: Fm) -> None:
    project.pipeline({"name": "child", "extends": "orders", "overrides": {"end": {"name": "The end"}}, "stages": []})
    answer = fm("validate", "child", "--check-inheritance")
    assert answer.code == 0, answer
    assert "child@1.0.0 ← orders@1.2.0" in answer.out
    project.pipeline({"name": "child", "extends": "orders", "overrides": {"edn": {"name": "x"}}, "stages": []})
    answer = fm("validate", "child")
    assert answer.code == 2
    assert "did you mean 'end'?" in answer.err
    project.pipeline({"name": "child", "extends": "ordrs", "stages": []})
    answer = fm("validate", "child")
    assert answer.code == 2
    assert "pipelines/child.pipeline.json:3:3" in answer.err


def test_a_folder_without_a_project_can_be_checked(fm: Fm, project: Project) -> None:
    loose = project.root.parent / "loose"
    loose.mkdir()
    (loose / "a.pipeline.json").write_text(json.dumps(ORDERS))
    assert fm("validate", str(loose)).code == 0
    (loose / "a.pipeline.json").write_text("{")
    assert fm("validate", str(loose)).code == 2
    (loose / "a.pipeline.json").unlink()
    assert "no pipeline file" in fm("validate", str(loose)).err


def test_a_fault_of_a_component_is_told_once_whoever_names_it(project: Project, fm: Fm) -> None:
    project.write("components/broken.py", "this is not Python\n")
    for name in ("one", "two"):
        project.pipeline({"name": name, "stages": [{"id": "a", "component_type": "broken", "config": {}}]})
    answer = fm("validate")
    assert answer.code == 2
    assert answer.err.count("components/broken.py:1") == 1, answer.err
    assert "3 faults in 3 files" in answer.err


MANY = """name: many
version: 1.0
extends: bse
overrides:
  a: 7
stages:
  - id: fetch
    component_type: http_request
    timeout_ms: 1
    config: {url: "https://example.com"}
  - just a line
  - id: shape
    component_type: jsn_transform
    config: {data: "{{upstream.fetch.bdy}}"}
  - id: last
    component_type: json_transform
    depends_on: [shape, line]
    config: {data: "{{upstream.fetch.body"}
"""


def test_faults_of_shape_and_of_meaning_are_told_at_once(project: Project, fm: Fm) -> None:
    project.write("pipelines/many.pipeline.yaml", MANY)
    project.pipeline({"name": "base", "abstract": True, "stages": []})
    for command in (("validate",), ("run",)):
        answer = fm(*command, "pipelines/many.pipeline.yaml")
        assert answer.code == 2
        told = [
            line.split(": ")[0].split("many.pipeline.yaml:")[1]
            for line in answer.err.splitlines()
            if ": refused" in line
        ]
        assert told == ["2:1", "3:1", "5:3", "9:5", "11:5", "13:5", "14:14", "18:14"], answer.err
    mended = MANY.replace("bse", "base").replace("  a: 7\n", "  fecth: {}\n")
    project.write("pipelines/many.pipeline.yaml", mended)
    answer = fm("validate", "pipelines/many.pipeline.yaml")
    assert "no stage 'fecth' is inherited" in answer.err and "'line', which is no stage" not in answer.err


def test_a_parent_with_faults_does_not_hide_those_of_its_child(project: Project, fm: Fm) -> None:
    project.pipeline({"name": "base", "stages": [{"id": "a", "component_type": "logger", "config": 7}]})
    stage = {"id": "b", "component_type": "logger", "config": {"message": "{{upstream.a.message}}", "mesage": 1}}
    project.pipeline({"name": "child", "extends": "base", "stages": [stage]})
    answer = fm("validate", "pipelines/child.pipeline.json", "--format", "json")
    [report] = answer.json["files"]
    assert sorted((fault["file"], fault["pointer"]) for fault in report["faults"]) == [
        ("pipelines/base.pipeline.json", "$.stages[0].config"),
        ("pipelines/child.pipeline.json", "$.stages[0].config.mesage"),
    ]


def test_thousands_of_broken_stages_are_refused_not_a_crash(project: Project, fm: Fm) -> None:
    stages = [{"ids": f"s{number}", "component_type": "logger"} for number in range(3000)]
    project.pipeline({"name": "crowd", "stages": stages})
    answer = fm("validate", "pipelines/crowd.pipeline.json", "--format", "json")
    assert answer.code == 2
    [report] = answer.json["files"]
    assert len(report["faults"]) == 201
    assert any("more than 200 faults" in fault["reason"] for fault in report["faults"])
