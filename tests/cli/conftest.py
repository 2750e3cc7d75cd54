"""A project in a temporary folder, and `fm` to run in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fm_project import COMPONENTS, ORDERS, Answer, Fm, Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with the pipeline `orders` and a few components of its own; we are in it."""
    root = tmp_path / "shop"
    made = Project(root, tmp_path / "home")
    made.write("flowmason.json", {"name": "shop"})
    made.write("components/tests.py", COMPONENTS)
    made.pipeline(ORDERS)
    for name in list(os.environ):
        if name.startswith(("FLOWMASON_", "RAY_")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWMASON_HOME", str(made.home))
    monkeypatch.setenv("FLOWMASON_ON", "local")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(root)
    return made


@pytest.fixture
def fm() -> Fm:
    """Run a command in this process."""

    def run(*args: str, input: str | None = None) -> Answer:
        from flowmason.cli.app import app

        result = CliRunner().invoke(app, list(args), input=input, prog_name="fm")
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run
