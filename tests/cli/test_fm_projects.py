"""`fm init`, `list`, `info`, `pack`, `install`, `uninstall`, `doctor`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fm_project import Fm, Project

pytestmark = pytest.mark.wheel


def test_a_new_project_validates_and_runs_as_it_stands(
    project: Project, fm: Fm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root.parent)
    answer = fm("init", "New Shop")
    assert answer.code == 0, answer
    assert "cd 'New Shop'" in answer.err
    monkeypatch.chdir(project.root.parent / "New Shop")
    assert json.loads(Path("flowmason.json").read_text())["name"] == "new-shop"
    assert fm("validate", "--strict").code == 0
    run = fm("run", "--json")
    assert run.code == 0, run
    assert run.json["output"] == {"lines": 2, "total": 180.0}
    assert run.json["stages"]["small"]["status"] == "skipped"
    mocked = fm("run", "describe", "--provider", "mock", "--json")
    assert mocked.json["status"] == "completed", mocked
    for test in Path("tests").glob("*.test.json"):
        assert Path(json.loads(test.read_text())["pipeline"]).is_file()
    again = fm("init", ".")
    assert again.code == 2
    assert "nothing was written" in again.err


def test_list_shows_pipelines_and_components(project: Project, fm: Fm) -> None:
    project.write("pipelines/broken.pipeline.json", "{")
    found = fm("list", "--json").json
    assert [(item["name"], item["ok"]) for item in found["pipelines"]] == [("broken", False), ("orders", True)]
    components = {item["name"]: item for item in found["components"]}
    assert components["filter"]["from"] == "built in"
    assert components["nap"]["from"] == "components/tests.py"
    assert components["foreach"]["kind"] == "foreach"
    assert list(fm("list", "pipelines", "--json").json) == ["pipelines"]
    text = fm("list").out
    assert "orders    1.2.0" in text
    assert "http_request" in text
    assert "Did you mean 'components'" in fm("list", "component").err


def test_info_draws_a_pipeline(project: Project, fm: Fm) -> None:
    text = fm("info", "orders").out
    assert "orders@1.2.0  pipelines/orders.pipeline.json" in text
    assert "input: orders* (list), shop (object, default" in text
    lines = text.splitlines()
    assert any(line.startswith("  1 ○ big") for line in lines)
    assert any("⟳ each" in line for line in lines)
    assert any(line.startswith("  2 ○ end") and "← big, each" in line for line in lines)
    found = fm("info", "orders", "--json").json
    assert found["waves"] == [["big", "each"], ["end"]]
    each = next(stage for stage in found["stages"] if stage["id"] == "each")
    assert each["body"] == [["line"]]
    assert found["plan"].startswith("sha256:")


def test_info_shows_what_a_pipeline_extends(project: Project, fm: Fm) -> None:
    project.pipeline({"name": "child", "extends": "orders", "overrides": {"end": {"name": "x"}}, "stages": []})
    assert "└─ orders@1.2.0" in fm("info", "child", "--inheritance").out
    chain = fm("info", "child", "--inheritance", "--json").json["chain"]
    assert [item["reference"] for item in chain] == ["child@1.0.0", "orders@1.2.0"]


def test_info_describes_a_component(project: Project, fm: Fm) -> None:
    text = fm("info", "http-request").out
    assert "http_request@" in text
    assert "url*" in text
    assert fm("info", "nap", "--json").json["from"] == "components/tests.py"
    assert "did you mean 'filter'?" in fm("info", "fliter").err


def test_a_package_is_packed_installed_used_and_removed(
    project: Project, fm: Fm, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = fm("pack", "--json").json
    assert (packed["name"], packed["version"]) == ("shop", "1.0.0")
    other = Project(project.root.parent / "other", project.home)
    other.write("flowmason.json", {"name": "other"})
    other.pipeline({"name": "use", "stages": [{"id": "a", "component_type": "nap", "config": {"value": "packed"}}]})
    monkeypatch.chdir(other.root)
    assert fm("validate").code == 2
    assert fm("install", packed["path"]).code == 0
    assert fm("run", "use").json == {"value": "packed"}
    assert fm("uninstall", "shop", "--json").json == {"removed": [{"name": "shop", "version": "1.0.0"}]}
    assert fm("uninstall", "shop").code == 2
    assert fm("install", "nowhere.fmpkg").code == 2


def test_doctor_tells_what_is_there(project: Project, fm: Fm) -> None:
    answer = fm("doctor", "--json")
    assert answer.code == 0, answer
    checks = {check["name"]: check["status"] for check in answer.json["checks"]}
    assert {"python", "project", "ray", "journal", "values", "model", "disk", "ports"} <= set(checks)
    assert checks["journal"] == checks["values"] == "ok"
    assert "✓ journal" in fm("doctor").out


def test_doctor_tells_of_a_warm_cluster_that_is_gone(project: Project, fm: Fm) -> None:
    project.home.mkdir(exist_ok=True)
    for pid, told in ((os.getpid(), "was started by `fm cluster up`"), (2**22 + 1, "is gone")):
        (project.home / "cluster.json").write_text(json.dumps({"pids": [pid]}))
        assert told in fm("doctor").out
    (project.home / "cluster.json").write_text("{")
    assert "each run starts its own" in fm("doctor").out


def test_doctor_fails_where_the_journal_cannot_be_opened(
    project: Project, fm: Fm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://nobody@127.0.0.1/none")
    answer = fm("doctor", "--json")
    assert answer.code == 1
    failed = {check["name"] for check in answer.json["checks"] if check["status"] == "failed"}
    assert failed == {"journal"}
