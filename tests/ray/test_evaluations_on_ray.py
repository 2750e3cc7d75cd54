"""`fm eval` on Ray: cases are runs on the cluster, many at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ANSWERS = {"France": "Paris", "Italy": "Rome", "Peru": "Cusco"}
WANTED = {"France": "Paris", "Italy": "Rome", "Peru": "Lima"}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_cases_run_on_the_cluster_and_are_judged(
    tmp_path: Path, cluster: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowmason.cli.app import app

    root = tmp_path / "shop"
    mock = {"extra": {"answers": ANSWERS}}
    _write(root / "flowmason.json", {"name": "shop", "providers": {"default": "mock", "mock": mock}})
    stage = {"id": "ask", "component_type": "generator", "config": {"prompt": "Capital of {{input.country}}?"}}
    _write(root / "pipelines/capital.pipeline.json", {"name": "capital", "version": "1.0.0", "stages": [stage]})
    lines = [{"id": name, "input": {"country": name}, "expected": wanted} for name, wanted in WANTED.items()]
    (root / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(root)
    monkeypatch.setenv("NO_COLOR", "1")

    asked = ["eval", "capital", "--dataset", "cases.jsonl", "--grade", "exact:output.content", "--on", "ray"]
    done = CliRunner().invoke(app, [*asked, "--ray", "local", "--json"], prog_name="fm")
    assert done.exit_code == 0, done.output
    (version,) = json.loads(done.stdout)["versions"]
    assert {case["id"]: case["passed"] for case in version["cases"]} == {"France": True, "Italy": True, "Peru": False}
    assert version["summary"]["tokens"] > 0
    run_id = version["cases"][0]["run_id"]
    told = CliRunner().invoke(app, ["runs", "show", run_id, "--json"], prog_name="fm")
    assert told.exit_code == 0 and '"ray"' in told.stdout, told.output
