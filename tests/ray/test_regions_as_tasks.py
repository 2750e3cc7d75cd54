"""Regions run as Ray tasks: reports stream, deaths and cancels are told, resources are held against the nodes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmason.errors import Code
from flowmason.policy import Placement, Resources
from flowmason.report import Ended, Region, Report
from flowmason_cluster.executor import RayExecutor
from ray_kit import Lab, again, chain, outputs, region, run, stage


async def test_a_chain_runs_in_one_task_and_hands_its_values_on(lab: Lab, ray_executor: RayExecutor) -> None:
    reports = await run(ray_executor, region(lab.plan(*chain(20))))
    found = outputs(reports)
    assert len(found) == 20 and found["s19"]["value"] == "a"
    assert len({made["pid"] for made in found.values()} - {os.getpid()}) == 1
    assert reports[-1].ended is Ended.DONE
    assert reports[-1].worker.startswith(str(found["s0"]["pid"]))


async def test_what_has_finished_is_reported_while_the_rest_still_runs(lab: Lab, ray_executor: RayExecutor) -> None:
    plan = lab.plan(stage("quick", "echo", value=1), stage("slow", "wait", seconds=0.8))
    arrived: dict[str, float] = {}
    begun = time.monotonic()
    async for report in ray_executor.submit([region(plan)]):
        for name in outputs([report]):
            arrived[name] = time.monotonic() - begun
    assert arrived["slow"] - arrived["quick"] > 0.4


async def test_a_task_bears_the_name_of_its_region(lab: Lab, ray_executor: RayExecutor) -> None:
    wanted = region(lab.plan(stage("named", "title"), name="orders"))
    assert outputs(await run(ray_executor, wanted))["named"]["value"] == "ray::orders/named"


async def test_as_many_tasks_run_at_once_as_there_are_cpus(lab: Lab, ray_executor: RayExecutor, tmp_path: Path) -> None:
    assert ray_executor.capacity().task_slots == 2
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    regions = [region(lab.plan(stage("it", "meet", value=pair))) for pair in ([here, there], [there, here])]
    ended = await asyncio.gather(*(run(ray_executor, wanted) for wanted in regions))
    assert len({outputs(reports)["it"]["pid"] for reports in ended}) == 2


async def test_the_death_of_a_worker_is_a_report(lab: Lab, ray_executor: RayExecutor) -> None:
    reports = await run(ray_executor, region(lab.plan(stage("fatal", "die"))))
    assert reports[-1].ended is Ended.LOST
    failure = reports[-1].failure
    assert failure is not None and failure.code == Code.LOST and "died" in failure.message


async def test_what_was_reported_before_a_death_is_kept(lab: Lab, ray_executor: RayExecutor) -> None:
    plan = lab.plan(
        stage("first", "echo", value=7),
        stage("later", "wait", seconds=0.3, after=["first"]),
        stage("fatal", "die", after=["later"]),
    )
    reports = await run(ray_executor, region(plan))
    assert outputs(reports)["first"]["value"] == 7
    assert "fatal" not in outputs(reports)
    assert reports[-1].ended is Ended.LOST


async def test_a_cancelled_region_brings_home_what_had_finished(lab: Lab, ray_executor: RayExecutor) -> None:
    plan = lab.plan(stage("first", "echo", value=1), stage("endless", "wait", seconds=60, after=["first"]))
    wanted = region(plan)
    reports, took = await _cancelled(
        ray_executor, wanted, grace_s=5.0, begun=lambda reports: "first" in outputs(reports)
    )
    assert reports[-1].ended is Ended.CANCELLED
    assert outputs(reports)["first"]["value"] == 1
    assert took < 28


def deaf(lab: Lab, file: Path) -> Region:
    """Leaves a file, and takes no notice of anything from then on."""
    return region(lab.plan(stage("deaf", "meet", value=[str(file), f"{file} of nobody"])))


async def test_a_task_that_takes_no_notice_of_a_cancel_is_ended_by_force(
    lab: Lab, ray_executor: RayExecutor, tmp_path: Path
) -> None:
    file = tmp_path / "begun"
    reports, took = await _cancelled(ray_executor, deaf(lab, file), grace_s=0.5, begun=lambda _: file.exists())
    assert reports[-1].ended is Ended.LOST
    assert 0.4 < took < 28


async def test_without_grace_a_task_is_ended_at_once(lab: Lab, ray_executor: RayExecutor, tmp_path: Path) -> None:
    file = tmp_path / "begun"
    reports, took = await _cancelled(ray_executor, deaf(lab, file), grace_s=0.0, begun=lambda _: file.exists())
    assert reports[-1].ended is Ended.LOST
    assert took < 28


async def test_a_region_that_waits_for_a_cpu_can_be_cancelled(lab: Lab, ray_executor: RayExecutor) -> None:
    busy = region(lab.plan(stage("busy", "wait", seconds=60)))
    first = [asyncio.create_task(run(ray_executor, again(busy, id=f"busy-{n}"))) for n in range(2)]
    await asyncio.sleep(0.5)
    later = region(lab.plan(stage("later", "echo")))
    reports, took = await _cancelled(ray_executor, later, grace_s=5.0, begun=lambda _: True)
    assert reports[-1].ended is Ended.CANCELLED and took < 10
    for n in range(2):
        await ray_executor.cancel(f"busy-{n}", grace_s=5.0)
    assert {reports[-1].ended for reports in await asyncio.gather(*first)} == {Ended.CANCELLED}


async def test_the_conductor_is_told_that_a_waiting_region_is_not_stuck(
    lab: Lab, ray_executor: RayExecutor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("flowmason_cluster.executor.WAITING_S", 0.2)
    go, begun = tmp_path / "go", [tmp_path / name for name in ("one", "two")]
    plans = [lab.plan(stage("busy", "meet", value=[str(mine), str(go)])) for mine in begun]
    busy = [asyncio.create_task(run(ray_executor, region(plan))) for plan in plans]
    reports: list[Report] = []
    async with asyncio.timeout(100):
        while not all(mine.exists() for mine in begun):
            await asyncio.sleep(0.02)
        async for report in ray_executor.submit([region(lab.plan(stage("later", "echo")))]):
            reports.append(report)
            if len(reports) == 2:
                go.touch()
    assert [report.worker for report in reports[:2]] == ["", ""]
    assert reports[-1].ended is Ended.DONE
    await asyncio.gather(*busy)


async def test_a_call_that_died_with_its_conductor_cannot_be_attached_to(lab: Lab, ray_executor: RayExecutor) -> None:
    reports = await run(ray_executor, region(lab.plan(stage("a", "echo")), attach=True))
    assert [report.ended for report in reports] == [Ended.REFUSED]


async def test_a_plan_that_is_nowhere_is_refused_by_the_worker(lab: Lab, ray_executor: RayExecutor) -> None:
    wanted = region(lab.plan(stage("a", "echo")))
    reports = await run(ray_executor, again(wanted, plan="sha256:" + "0" * 64))
    assert reports[-1].ended is Ended.REFUSED
    assert reports[-1].failure is not None and reports[-1].failure.code == Code.VALUE_MISSING


async def test_resources_that_no_node_has_are_named(ray_executor: RayExecutor) -> None:
    def refusal(resources: Resources) -> str:
        return ray_executor.infeasible(Placement.TASK, resources) or ""

    assert refusal(Resources(num_cpus=64)) == "num_cpus=64: the largest node has 2"
    assert refusal(Resources(num_gpus=1)) == "num_gpus=1: no node has any"
    assert refusal(Resources(custom={"tpu_slice": 2})) == "tpu_slice=2: no node has any"
    assert "accelerator_type=H100" in refusal(Resources(accelerator_type="H100"))
    assert "memory=1e+06 GiB" in refusal(Resources(memory=10**6 * 2**30))
    assert refusal(Resources(num_cpus=2)) == refusal(Resources(num_cpus=0.5)) == refusal(Resources()) == ""


async def test_resources_reach_the_task(lab: Lab, ray_executor: RayExecutor) -> None:
    plan = lab.plan(stage("wide", "block", seconds=0.5))
    wide = Resources(num_cpus=2)
    await run(ray_executor, region(plan, resources=wide))
    begun = time.monotonic()
    await asyncio.gather(*(run(ray_executor, region(plan, resources=wide)) for _ in range(2)))
    assert time.monotonic() - begun >= 1.0


async def test_variables_for_drivers_do_not_reach_components(
    lab: Lab, cluster: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWMASON_SECRET_NEW", "after-ray-was-started")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody")
    executor = RayExecutor(lab.settings(mark="environment"), address="local")
    await executor.start()
    plan = lab.plan(stage("a", "look", value=["DATABASE_URL", "FLOWMASON_SECRET_NEW"]))
    found = outputs(await run(executor, region(plan)))["a"]["value"]
    assert found == [None, "after-ray-was-started"]
    await executor.close()


async def _cancelled(
    executor: RayExecutor, wanted: Region, *, grace_s: float, begun: Callable[[list[Report]], bool]
) -> tuple[list[Report], float]:
    """Cancel a region once it has `begun`; its reports, and how long it took from the cancel to its end."""
    reports: list[Report] = []

    async def collect() -> None:
        async for report in executor.submit([wanted]):
            reports.append(report)

    async with asyncio.timeout(100):
        task = asyncio.create_task(collect())
        while not begun(reports):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        since = time.monotonic()
        await executor.cancel(wanted.id, grace_s=grace_s)
        await task
        return reports, time.monotonic() - since


def test_the_token_is_for_its_owner_alone(home: Path, cluster: object) -> None:
    path = home / "ray_token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) == 64
