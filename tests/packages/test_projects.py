"""`flowmason.json` and finding a project's pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code, RefusedError, UsageError
from flowmason.project import Project, ProviderConfig, find_project, load_project, project_for


def write(root: Path, settings: dict[str, Any] | str, **pipelines: dict[str, Any] | str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "flowmason.json").write_text(settings if isinstance(settings, str) else json.dumps(settings))
    for name, content in pipelines.items():
        path = root / "pipelines" / f"{name}.pipeline.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def test_a_name_is_enough(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, {"name": "small"}))
    assert project == Project(root=tmp_path, name="small")
    assert project.components.include == ("components/**/*.py",)
    assert (project.testing.timeout, project.testing.retries, project.pipeline_dirs) == (30_000, 2, ("pipelines",))
    assert project.state_dir == tmp_path / ".flowmason"


def test_every_key_is_read(tmp_path: Path) -> None:
    settings = {
        "$schema": "https://example.org/schema.json",
        "name": "whole",
        "version": "2.1.0",
        "description": "d",
        "author": "a",
        "license": "MIT",
        "repository": "r",
        "main": "pipelines/main.pipeline.json",
        "components": {"include": ["parts/*.py"], "exclude": ["parts/old.py"]},
        "providers": {
            "default": "local",
            "anthropic": {"model": "m", "api_key_env": "KEY"},
            "local": {"base_url": "http://127.0.0.1:8080/v1", "temperature": 0, "max_tokens": 64},
            "extra": {"other": {"extra": {"n_ctx": 512}}},
        },
        "testing": {"timeout": 5, "retries": 0, "parallel": True, "coverage": False, "test_patterns": ["t/*.json"]},
        "org": {"default": "acme"},
        "pipeline_dirs": ["flows"],
        "env": ["REGION"],
        "egress": {"allow": ["127.0.0.1:8080", "[::1]:9000"]},
        "mcp": {"servers": {"files": {"command": "x"}}},
        "budget": {"max_cost": "0.50", "max_tokens": 1000},
        "extra": {"a": 1},
        "x-team": "b",
    }
    project = load_project(write(tmp_path, settings))
    assert (project.name, project.version, project.main, project.org) == ("whole", "2.1.0", settings["main"], "acme")
    assert project.default_provider == "local"
    assert project.providers == {
        "anthropic": ProviderConfig(model="m", api_key_env="KEY"),
        "local": ProviderConfig(base_url="http://127.0.0.1:8080/v1", temperature=0, max_tokens=64),
        "other": ProviderConfig(extra={"n_ctx": 512}),
    }
    assert (project.env, project.egress_allow) == (("REGION",), ("127.0.0.1:8080", "[::1]:9000"))
    assert (project.components.include, project.pipeline_dirs) == (("parts/*.py",), ("flows",))
    assert project.testing.test_patterns == ("t/*.json",)
    assert project.mcp_servers == {"files": {"command": "x"}}
    assert project.budget.max_cost == "0.50"
    assert project.extra == {"a": 1, "x-team": "b"}


def test_everything_wrong_is_said_at_once_with_its_place(tmp_path: Path) -> None:
    text = """{
  "nmae": "x",
  "components": {"includes": []},
  "providers": {"defualt": "local", "local": {"modle": "m", "base_url": "ftp://x", "temperature": 9, "max_tokens": 0}},
  "testing": {"timeout": "5"},
  "pipeline_dirs": ["../up", 3],
  "env": "PATH",
  "egress": {"allow": ["localhost"]},
  "budget": {"max_cost": "much", "max_tokens": true}
}"""
    with pytest.raises(RefusedError) as caught:
        load_project(write(tmp_path, text))
    faults = {fault.pointer: fault for fault in caught.value.faults}
    assert set(faults) == {
        "$",
        "$.nmae",
        "$.components.includes",
        "$.providers.defualt",
        "$.providers.local.modle",
        "$.providers.local.base_url",
        "$.providers.local.temperature",
        "$.providers.local.max_tokens",
        "$.testing.timeout",
        "$.pipeline_dirs[0]",
        "$.pipeline_dirs[1]",
        "$.env",
        "$.egress.allow[0]",
        "$.budget.max_cost",
        "$.budget.max_tokens",
    }
    assert faults["$.nmae"].nearest == "name"
    assert faults["$.components.includes"].nearest == "include"
    assert faults["$.providers.defualt"].nearest == "default"
    assert faults["$.providers.local.modle"].nearest == "model"
    assert faults["$.nmae"].line == 2
    assert faults["$.egress.allow[0]"].line == 8
    assert all(fault.file == str(tmp_path / "flowmason.json") for fault in caught.value.faults)


@pytest.mark.parametrize("text", ["[]", "{", '{"name": 3}', '{"name": "a", "name": "b"}'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RefusedError):
        load_project(write(tmp_path, text))


def test_the_project_is_found_from_below(tmp_path: Path) -> None:
    root = write(tmp_path / "p", {"name": "x"})
    deep = root / "a/b"
    deep.mkdir(parents=True)
    assert find_project(deep) == root
    assert project_for(deep / "x.pipeline.json").name == "x"
    assert find_project(tmp_path) is None
    alone = project_for(tmp_path / "x.pipeline.json")
    assert (alone.manifest, alone.root) == (False, tmp_path)
    with pytest.raises(UsageError, match=r"no flowmason\.json"):
        load_project(tmp_path)


def test_a_pipeline_is_found_by_name_version_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(
        tmp_path,
        {"name": "x"},
        one={"name": "greet", "version": "1.9.0", "stages": []},
        two={"name": "greet", "version": "1.10.0", "stages": []},
        other={"name": "Other thing", "stages": []},
    )
    (root / "top.pipeline.yaml").write_text("name: top\nstages: []\n")
    (root / "pipelines/sub").mkdir()
    (root / "pipelines/sub/deep.pipeline.json").write_text('{"name": "deep", "stages": []}')
    monkeypatch.chdir(root / "pipelines")
    project = load_project(root)
    pipelines = root / "pipelines"
    for wanted, found in [
        ("greet", pipelines / "two.pipeline.json"),
        ("greet@1.9.0", pipelines / "one.pipeline.json"),
        ("Other thing", pipelines / "other.pipeline.json"),
        ("other", pipelines / "other.pipeline.json"),
        ("deep", pipelines / "sub/deep.pipeline.json"),
        ("top", root / "top.pipeline.yaml"),
        ("one.pipeline.json", pipelines / "one.pipeline.json"),
        ("pipelines/one.pipeline.json", pipelines / "one.pipeline.json"),
        (str(pipelines / "one.pipeline.json"), pipelines / "one.pipeline.json"),
    ]:
        assert project.find_pipeline(wanted) == found
    for wanted, hint in [
        ("gret", "did you mean 'greet'"),
        ("greet@3.0.0", "there is 1.9.0, 1.10.0"),
        ("pipelines/on.pipeline.json", "did you mean 'pipelines/one.pipeline.json'"),
    ]:
        with pytest.raises(UsageError, match=hint) as caught:
            project.find_pipeline(wanted)
        assert caught.value.failure.code == Code.PIPELINE_NOT_FOUND


def test_two_files_of_one_name_and_version_are_ambiguous(tmp_path: Path) -> None:
    same = {"name": "same", "stages": []}
    project = load_project(write(tmp_path, {"name": "x"}, a=same, b=same))
    with pytest.raises(UsageError, match=r"a\.pipeline\.json and pipelines/b\.pipeline\.json"):
        project.find_pipeline("same")


def test_a_broken_pipeline_is_listed_with_its_faults(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, {"name": "x"}, good={"name": "good"}, bad="{"))
    entries = {entry.name: entry.faults for entry in project.pipelines()}
    assert entries["good"] == ()
    assert entries["bad"]
    assert project.find_pipeline("bad").name == "bad.pipeline.json"


@pytest.mark.parametrize(
    ("limits", "place", "nearest"),
    [
        ({"concurency": 3}, ".concurency", "concurrency"),
        ({"per_minute": 0}, ".per_minute", None),
        ({"tokens_per_minut": 9}, ".tokens_per_minut", "tokens_per_minute"),
        ({"breaker": {"failure": 1}}, ".breaker.failure", "failures"),
        ({"concurrency": "3"}, ".concurrency", None),
        (7, "", None),
    ],
)
def test_wrong_limits_of_a_provider_are_refused_in_their_place(
    tmp_path: Path, limits: Any, place: str, nearest: str | None
) -> None:
    with pytest.raises(RefusedError) as refused:
        load_project(write(tmp_path, {"name": "x", "providers": {"openai": {"limits": limits}}}))
    (fault,) = refused.value.faults
    assert (fault.pointer, fault.nearest) == (f"$.providers.openai.limits{place}", nearest)


def test_limits_of_a_provider_are_read(tmp_path: Path) -> None:
    limits = {"concurrency": 3, "per_minute": 60, "tokens_per_minute": 9000, "breaker": {"failures": 2}}
    project = load_project(write(tmp_path, {"name": "x", "providers": {"openai": {"limits": limits}}}))
    assert project.providers["openai"].limits == limits
