"""A Studio on loopback, `fm` signed in to it as a developer, and a project to bring there."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from flowmason.studio.identity.permissions import Role
from flowmason_actors.processes import free_port
from studio.conducting import conducting
from studio.kit import Studio, settings_in, studio_in

Fm = Callable[..., Result]


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """A Studio whose runs are walked."""
    for name in list(os.environ):
        if name.startswith(("FLOWMASON_", "RAY_")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    folder = tmp_path / "server"
    folder.mkdir()
    with studio_in(folder) as started, conducting(settings_in(folder)):
        yield started


@pytest.fixture
def url(studio: Studio) -> Iterator[str]:
    """Where it listens."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(studio.app, port=port, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one pipeline; we are in it."""
    root = tmp_path / "shop"
    (root / "pipelines").mkdir(parents=True)
    (root / "flowmason.json").write_text('{"name": "shop"}')
    write(root, greeting())
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def fm(url: str, studio: Studio) -> Fm:
    """`fm`, signed in as a developer under the alias `acme`."""

    def invoke(*args: str, input: str | None = None) -> Result:
        from flowmason.cli.app import app

        return CliRunner().invoke(app, list(args), input=input, prog_name="fm")

    done = invoke("org", "login", "-a", "acme", "-u", url, "-k", studio.keys[Role.DEVELOPER])
    assert done.exit_code == 0, done.output
    return invoke


def greeting(**more: Any) -> dict[str, Any]:
    """A pipeline that greets."""
    return {
        "name": "greeting",
        "version": "1.0.0",
        "input_schema": {"type": "object", "properties": {"who": {"type": "string", "default": "world"}}},
        "sample_input": {"who": "sample"},
        "stages": [
            {
                "id": "greet",
                "component_type": "json_transform",
                "config": {"data": {"text": "hello {{input.who}}"}, "jmespath_expression": "text"},
            }
        ],
        **more,
    }


def write(root: Path, document: dict[str, Any]) -> Path:
    """Write a pipeline into the project."""
    file = root / "pipelines" / f"{document['name']}.pipeline.json"
    file.write_text(json.dumps(document, indent=2))
    return file
