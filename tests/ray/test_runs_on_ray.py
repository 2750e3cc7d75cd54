"""Whole runs on Ray, through the doors that `fm run` uses: the journal, the conductor, tasks and hosts together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flowmason.assembly.picture import RunPicture
from flowmason.assembly.running import opened, run_pipeline
from flowmason.assembly.workspace import Workspace
from ray_kit import Lab, chain, stage


class Project:
    """A project and an executor that is started."""

    def __init__(self, lab: Lab, stores: Any, executor: Any) -> None:
        self._lab, self._stores, self._executor = lab, stores, executor

    async def run(self, *stages: dict[str, Any], name: str) -> RunPicture:
        """Run a pipeline of these stages."""
        path = self._lab.root / f"{name}.pipeline.json"
        path.write_text(json.dumps({"name": name, "version": "1.0.0", "stages": list(stages)}))
        workspace = Workspace.at(self._lab.root)
        compiled = workspace.compile(path)
        return await run_pipeline(workspace, compiled, {}, stores=self._stores, executor=self._executor)


@pytest.fixture
async def project(tmp_path: Path, cluster: object) -> AsyncIterator[Project]:
    lab = Lab(tmp_path / "project")
    async with opened(Workspace.at(lab.root), on="ray", address="local") as (stores, executor):
        assert executor.name == "ray"
        yield Project(lab, stores, executor)


async def test_a_pipeline_of_tasks_and_calls_completes(project: Project) -> None:
    stages = [*chain(12), *(stage(f"call{n}", "call", value=f"{{{{upstream.s{n}.value}}}}") for n in range(12))]
    picture = await project.run(*stages, name="mixed")
    assert picture.status == "completed"
    assert picture.options["executor"] == "ray"


async def test_a_stage_whose_worker_dies_once_runs_again(project: Project, tmp_path: Path) -> None:
    picture = await project.run(
        stage("before", "echo", value=1),
        stage("fatal", "die", file=str(tmp_path / "once"), value="{{upstream.before.value}}"),
        stage("after", "echo", value="{{upstream.fatal.value}}"),
        name="dies-once",
    )
    assert picture.status == "completed"


async def test_a_stage_that_always_kills_its_worker_fails_by_name(project: Project) -> None:
    picture = await project.run(stage("innocent", "echo", value=1), stage("fatal", "die"), name="dies-always")
    assert picture.status == "failed"
    assert picture.failure is not None and picture.failure.stage == "fatal" and picture.failure.code == "LOST"


async def test_a_large_value_travels_through_the_value_store(project: Project) -> None:
    text = "x" * 300_000
    picture = await project.run(
        stage("big", "echo", value=text), stage("size", "echo", value="{{len(upstream.big.value)}}"), name="large"
    )
    assert picture.status == "completed"


async def test_resources_that_no_node_has_fail_the_stage_by_name(project: Project) -> None:
    picture = await project.run(stage("greedy", "greedy"), name="greedy")
    assert picture.status == "failed"
    assert picture.failure is not None and picture.failure.code == "INFEASIBLE_RESOURCES"
    assert "num_cpus=64" in picture.failure.message
