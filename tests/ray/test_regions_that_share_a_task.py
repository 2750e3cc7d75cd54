"""Regions of several runs in one Ray task: each has its own reports, its own end and its own cancel."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowmason.plan import Plan
from flowmason.report import Ended, Region, Report
from flowmason_cluster import mail
from flowmason_cluster.executor import RayExecutor
from ray_kit import Lab, chain, outputs, region, stage

Found = dict[str, list[Report]]


async def _run(executor: RayExecutor, regions: list[Region], found: Found | None = None) -> Found:
    """The reports of each region, noted in `found` as they come."""
    found = {} if found is None else found
    async with asyncio.timeout(100):
        async for report in executor.submit(regions):
            found.setdefault(report.region, []).append(report)
    return found


def _regions(plan: Plan, count: int) -> list[Region]:
    return [region(plan, run_id=f"run_{number}") for number in range(count)]


async def test_one_worker_runs_them_all(lab: Lab, ray_executor: RayExecutor) -> None:
    regions = _regions(lab.plan(*chain(3)), 20)
    found = await _run(ray_executor, regions)
    assert {each.id for each in regions} == set(found)
    assert all(reports[-1].ended is Ended.DONE for reports in found.values())
    assert all(len(outputs(reports)) == 3 for reports in found.values())
    assert len({made["pid"] for reports in found.values() for made in outputs(reports).values()}) == 1


async def test_the_task_is_named_for_what_it_carries(lab: Lab, ray_executor: RayExecutor) -> None:
    alike = _regions(lab.plan(stage("named", "title"), name="orders"), 3)
    found = await _run(ray_executor, alike)
    assert outputs(found[alike[0].id])["named"]["value"] == "ray::orders/named × 3"
    mixed = [*_regions(lab.plan(stage("named", "title"), name="orders"), 1), *_regions(lab.plan(*chain(2)), 2)]
    found = await _run(ray_executor, mixed)
    assert outputs(found[mixed[0].id])["named"]["value"] == "ray::orders/named and 2 more"


async def test_what_ends_early_is_told_while_its_neighbour_still_runs(lab: Lab, ray_executor: RayExecutor) -> None:
    slow = region(lab.plan(stage("slow", "wait", seconds=2.0)))
    quick = region(lab.plan(stage("quick", "echo", value=1)), run_id="run_2")
    ends = []
    async with asyncio.timeout(100):
        async for report in ray_executor.submit([slow, quick]):
            if report.ended is not None:
                ends.append((report.region, asyncio.get_running_loop().time()))
    assert [name for name, _ in ends] == [quick.id, slow.id]
    assert ends[1][1] - ends[0][1] > 0.5


async def test_what_sits_behind_a_blocking_neighbour_comes_back_unstarted(lab: Lab, ray_executor: RayExecutor) -> None:
    blocking = region(lab.plan(stage("busy", "block", seconds=2.0)), budget_ms=20.0)
    behind = region(lab.plan(stage("a", "echo", value=1)), run_id="run_2", budget_ms=20.0)
    released: dict[str, tuple[Report, float]] = {}
    ended: dict[str, float] = {}
    clock = asyncio.get_running_loop().time
    found = []
    async with asyncio.timeout(100):
        async for report in ray_executor.submit([blocking, behind]):
            found.append(report)
            if report.released:
                released[report.region] = (report, clock())
            if report.ended is not None:
                ended[report.region] = clock()
    assert set(released) == {blocking.id, behind.id}
    assert released[behind.id][0].running == () and released[blocking.id][0].running == (("busy",),)
    assert ended[blocking.id] - released[behind.id][1] > 0.5
    assert not outputs([report for report in found if report.region == behind.id])


async def test_one_can_be_cancelled_and_the_other_goes_on(lab: Lab, ray_executor: RayExecutor) -> None:
    plan = lab.plan(stage("first", "echo", value=1), stage("long", "wait", seconds=3.0, after=["first"]))
    unwanted, wanted = _regions(plan, 2)
    found: Found = {}
    under_way = asyncio.create_task(_run(ray_executor, [unwanted, wanted], found))
    while not outputs(found.get(unwanted.id, [])):
        await asyncio.sleep(0.02)
    await ray_executor.cancel(unwanted.id, grace_s=5.0)
    await under_way
    assert found[unwanted.id][-1].ended is Ended.CANCELLED and set(outputs(found[unwanted.id])) == {"first"}
    assert found[wanted.id][-1].ended is Ended.DONE and set(outputs(found[wanted.id])) == {"first", "long"}
    assert await asyncio.to_thread(mail.read, unwanted.id) == []


async def test_all_of_them_can_be_cancelled(lab: Lab, ray_executor: RayExecutor) -> None:
    regions = _regions(lab.plan(stage("long", "wait", seconds=60.0)), 3)
    under_way = asyncio.create_task(_run(ray_executor, regions))
    await asyncio.sleep(1.0)
    await asyncio.gather(*(ray_executor.cancel(each.id, grace_s=5.0) for each in regions))
    found = await under_way
    assert {reports[-1].ended for reports in found.values()} == {Ended.CANCELLED}


async def test_when_the_worker_dies_what_had_ended_is_kept_and_the_rest_is_lost(
    lab: Lab, ray_executor: RayExecutor
) -> None:
    quick = region(lab.plan(stage("quick", "echo", value=1)))
    fatal = region(
        lab.plan(
            stage("first", "echo", value=7),
            stage("later", "wait", seconds=0.5, after=["first"]),
            stage("fatal", "die", after=["later"]),
        )
    )
    beside = region(lab.plan(stage("long", "wait", seconds=30.0)), run_id="run_3")
    found = await _run(ray_executor, [quick, fatal, beside])
    assert found[quick.id][-1].ended is Ended.DONE
    assert found[fatal.id][-1].ended is Ended.LOST and outputs(found[fatal.id])["first"]["value"] == 7
    assert found[beside.id][-1].ended is Ended.LOST


@pytest.mark.parametrize("grace_s", [0.0, 0.5])
async def test_one_that_takes_no_notice_takes_its_neighbours_along(
    lab: Lab, ray_executor: RayExecutor, grace_s: float, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    deaf = region(lab.plan(stage("deaf", "meet", value=[str(begun), str(tmp_path / "nobody")])))
    beside = region(lab.plan(stage("long", "wait", seconds=60.0)), run_id="run_2")
    under_way = asyncio.create_task(_run(ray_executor, [beside, deaf]))
    while not begun.exists():
        await asyncio.sleep(0.02)
    await ray_executor.cancel(deaf.id, grace_s=grace_s)
    found = await under_way
    assert {reports[-1].ended for reports in found.values()} == {Ended.LOST}
