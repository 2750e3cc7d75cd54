"""Calls of effects overlap on one node host, which fails safely: nothing hangs, nothing is paid for twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code
from flowmason.policy import Placement
from flowmason.report import Ended, Region, Report
from flowmason_actors.launch import launch_of
from flowmason_cluster.executor import RayExecutor
from flowmason_cluster.hosts import Hosts
from flowmason_cluster.vigil import Vigil
from ray_kit import Lab, again, outputs, region, run, stage


def call(lab: Lab, component: str = "call", **config: Any) -> Region:
    """A call of an effect, on a host."""
    return region(lab.plan(stage("it", component, **config)), placement=Placement.HOST)


async def test_calls_overlap_in_one_process(lab: Lab, ray_executor: RayExecutor) -> None:
    wanted = call(lab, seconds=0.3)
    await run(ray_executor, again(wanted, id="first"))
    begun = time.monotonic()
    ended = await asyncio.gather(*(run(ray_executor, again(wanted, id=f"call-{n}")) for n in range(100)))
    assert time.monotonic() - begun < 25
    assert len({outputs(reports)["it"]["pid"] for reports in ended} - {os.getpid()}) == 1
    assert {reports[-1].ended for reports in ended} == {Ended.DONE}


async def test_a_killed_host_loses_its_calls_at_once_and_a_new_one_takes_over(
    lab: Lab, ray_executor: RayExecutor, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    calls = [again(call(lab, seconds=60, file=str(notes)), id=f"k-{n}") for n in range(3)]
    tasks = [asyncio.create_task(run(ray_executor, wanted)) for wanted in calls]
    pid = (await _noted(notes, 3))[0]
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    ended = await asyncio.gather(*tasks)
    assert time.monotonic() - begun < 28
    assert {reports[-1].ended for reports in ended} == {Ended.LOST}
    assert f"pid {pid}" in _message(ended[0])
    assert outputs(await run(ray_executor, call(lab)))["it"]["pid"] != pid


async def test_a_cancelled_call_ends_and_its_neighbours_go_on(
    lab: Lab, ray_executor: RayExecutor, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    neighbour = asyncio.create_task(run(ray_executor, again(call(lab, seconds=1.0), id="neighbour")))
    wanted = call(lab, seconds=60, file=str(notes))
    task = asyncio.create_task(run(ray_executor, wanted))
    pid = (await _noted(notes, 1))[0]
    await ray_executor.cancel(wanted.id, grace_s=5.0)
    assert (await task)[-1].ended is Ended.CANCELLED
    assert outputs(await neighbour)["it"]["pid"] == pid
    assert outputs(await run(ray_executor, call(lab)))["it"]["pid"] == pid


async def test_a_call_that_does_not_stop_retires_its_host_and_neighbours_finish(
    lab: Lab, ray_executor: RayExecutor, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    wanted = call(lab, "stubborn", seconds=6, file=str(notes))
    task = asyncio.create_task(run(ray_executor, wanted))
    pid = (await _noted(notes, 1))[0]
    beside = again(call(lab, seconds=1.5, file=str(tmp_path / "beside")), id="beside")
    neighbour = asyncio.create_task(run(ray_executor, beside))
    await _noted(tmp_path / "beside", 1)
    await ray_executor.cancel(wanted.id, grace_s=0.5)
    reports = await task
    assert reports[-1].ended is Ended.LOST and "did not stop within 0.5 s" in _message(reports)
    assert outputs(await run(ray_executor, call(lab)))["it"]["pid"] != pid
    assert outputs(await neighbour)["it"]["pid"] == pid


async def test_a_call_that_was_never_sent_can_be_cancelled(lab: Lab, cluster: object) -> None:
    executor = RayExecutor(lab.settings(mark="no host yet"), address="local")
    await executor.start()
    wanted = call(lab, seconds=60)
    task = asyncio.create_task(run(executor, wanted))
    await asyncio.sleep(0)
    await executor.cancel(wanted.id, grace_s=5.0)
    assert (await task)[-1].ended is Ended.CANCELLED
    await executor.close()


async def test_a_host_that_does_not_answer_is_ended(
    lab: Lab, ray_executor: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowmason_cluster.hosts._ANSWER_S", 0.5)
    notes = tmp_path / "notes"
    wanted = call(lab, seconds=60, file=str(notes))
    task = asyncio.create_task(run(ray_executor, wanted))
    os.kill((await _noted(notes, 1))[0], signal.SIGSTOP)
    await ray_executor.cancel(wanted.id, grace_s=0.2)
    reports = await task
    assert reports[-1].ended is Ended.LOST and "did not answer" in _message(reports)


class TestBlockedLoops:
    """A component that blocks the loop of its host."""

    @pytest.fixture
    async def hosts(self, lab: Lab, vigil: Vigil) -> AsyncIterator[Hosts]:
        launch = launch_of(lab.settings(mark="blocked"), os.environ, share=True)
        found = Hosts(launch, vigil, detached=False, silence_s=0.75)
        yield found
        await found.close()

    async def test_a_blocked_host_ends_and_the_call_is_named(self, lab: Lab, hosts: Hosts, tmp_path: Path) -> None:
        notes = tmp_path / "notes"
        innocent = asyncio.create_task(_run(hosts, again(call(lab, seconds=300, file=str(notes)), id="innocent")))
        await _noted(notes, 1)
        reports = await _run(hosts, again(call(lab, "jam", seconds=300), id="culprit"))
        assert reports[-1].ended is Ended.LOST
        assert "culprit blocked its event loop at" in _message(reports) and "trouble.py" in _message(reports)
        assert "culprit blocked" in _message(await innocent)

    async def test_a_second_time_is_the_last_time_that_neighbours_suffer(self, lab: Lab, hosts: Hosts) -> None:
        for n in range(2):
            await _run(hosts, again(call(lab, "jam", seconds=30), id=f"culprit-{n}"))
        neighbour = asyncio.create_task(_run(hosts, again(call(lab, seconds=3.0), id="neighbour")))
        third = await _run(hosts, again(call(lab, "jam", seconds=30), id="culprit-2"))
        assert third[-1].ended is Ended.LOST
        assert (await neighbour)[-1].ended is Ended.DONE

    async def test_a_slow_import_is_no_blocked_loop(self, tmp_path: Path, vigil: Vigil) -> None:
        slow = Lab(tmp_path / "slow", "import time\ntime.sleep(2)\n")
        launch = launch_of(slow.settings(), {}, share=False)
        own = Hosts(launch, vigil, detached=False, silence_s=0.75)
        assert (await _run(own, call(slow)))[-1].ended is Ended.DONE
        await own.close()

    async def test_a_process_that_was_stopped_for_a_while_has_not_blocked(
        self, lab: Lab, hosts: Hosts, tmp_path: Path
    ) -> None:
        notes = tmp_path / "notes"
        task = asyncio.create_task(_run(hosts, call(lab, seconds=1.0, file=str(notes))))
        pid = (await _noted(notes, 1))[0]
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(2.0)
        os.kill(pid, signal.SIGCONT)
        assert (await task)[-1].ended is Ended.DONE


async def _run(hosts: Hosts, wanted: Region) -> list[Report]:
    async with asyncio.timeout(60):
        return [report async for report in hosts.submit(wanted)]


def _message(reports: list[Report]) -> str:
    failure = reports[-1].failure
    assert failure is not None and failure.code == Code.LOST
    return failure.message


async def _noted(notes: Path, count: int) -> list[int]:
    """The pids of the calls that have begun, once there are so many."""
    async with asyncio.timeout(60):
        while True:
            lines = notes.read_text().splitlines() if notes.exists() else []
            pids = [int(line.split()[1]) for line in lines if line.startswith("began")]
            if len(pids) >= count:
                return pids
            await asyncio.sleep(0.02)
