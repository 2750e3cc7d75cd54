"""A project with a pipeline that has a bit of everything, and `fm test` to run in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fm_project import Answer, Fm, Project

TRIAGE: dict[str, Any] = {
    "name": "triage",
    "version": "2.0.0",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "urgent": {"type": "boolean", "default": False}},
        "required": ["text"],
    },
    "stages": [
        {"id": "draft", "component_type": "generator", "config": {"prompt": "Classify: {{input.text}}"}},
        {
            "id": "route",
            "component_type": "router",
            "config": {
                "value": "{{trim(upstream.draft.content)}}",
                "routes": {"hardware": ["desk"], "software": ["code"]},
                "default_route": ["other"],
            },
        },
        {"id": "desk", "component_type": "logger", "config": {"message": "to the desk"}},
        {"id": "code", "component_type": "logger", "config": {"message": "to the coders"}},
        {"id": "other", "component_type": "logger", "config": {"message": "to nobody"}},
        {
            "id": "answer",
            "component_type": "json_transform",
            "config": {
                "data": {"topic": "{{upstream.draft.content}}", "words": "{{split(input.text, ' ')}}"},
                "mapping": {"topic": "topic", "words": "words"},
            },
        },
    ],
    "output_stage_id": "answer",
}
TRIAGE_TESTS: dict[str, Any] = {
    "name": "triage",
    "pipeline": "pipelines/triage.pipeline.json",
    "mocks": {"draft": {"output": {"content": "hardware"}}},
    "tests": [
        {
            "name": "happy",
            "input": {"text": "printer on fire"},
            "assertions": [
                {"path": "output.result.topic", "equals": "hardware"},
                {"path": "result.words", "type": "contains", "value": "fire"},
                {"path": "result.words.length", "greaterThan": 2},
            ],
        }
    ],
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without components of its own (so that nothing needs importing); we are in it."""
    made = Project(tmp_path / "desk", tmp_path / "home")
    made.write("flowmason.json", {"name": "desk", "testing": {"retries": 0, "coverage": False}})
    made.pipeline(TRIAGE)
    for name, value in {"FLOWMASON_HOME": str(made.home), "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture
def fm() -> Fm:
    """Run a command in this process."""

    def run(*args: str) -> Answer:
        from flowmason.cli.app import app

        result = CliRunner().invoke(app, list(args), prog_name="fm")
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def tests_of(project: Project) -> Callable[..., Path]:
    """Write a file of tests of `triage`: the usual one with some keys changed, or other tests in it."""

    def write(*tests: dict[str, Any], name: str = "triage", **changes: Any) -> Path:
        content = {**TRIAGE_TESTS, **changes}
        if tests:
            content["tests"] = list(tests)
        return project.write(f"tests/{name}.test.json", content)

    return write
