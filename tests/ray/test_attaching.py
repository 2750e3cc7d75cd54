"""A detached host remembers its calls: a new conductor finds them, an older one is turned away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code
from flowmason.policy import Placement
from flowmason.report import Ended, Region, Report
from flowmason_actors.launch import launch_of
from flowmason_cluster.hosts import Hosts
from flowmason_cluster.vigil import Vigil
from ray_kit import Lab, again, outputs, region, stage

Conductor = Callable[[], Hosts]


@pytest.fixture
async def conductor(lab: Lab, vigil: Vigil, cluster: object) -> AsyncIterator[Conductor]:
    """Makes the hosts' side of one conductor after another; they share a detached host."""
    import ray

    launch = launch_of(lab.settings(mark="attach"), os.environ, share=True)
    made: list[Hosts] = []

    def make() -> Hosts:
        made.append(Hosts(launch, vigil, detached=True))
        return made[-1]

    yield make
    for hosts in made:
        for host in [*hosts._hosts.values(), *hosts._retired]:
            ray.kill(host.actor)
        await hosts.close()


def call(lab: Lab, **config: Any) -> Region:
    return region(lab.plan(stage("it", "call", **config)), placement=Placement.HOST)


async def test_a_running_call_is_found_by_the_next_conductor(lab: Lab, conductor: Conductor, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    wanted = call(lab, value=5, seconds=1.5, file=str(notes))
    first = conductor()
    task = asyncio.create_task(_run(first, wanted))
    while not notes.exists():
        await asyncio.sleep(0.02)
    task.cancel()
    await first.close()
    reports = await _run(conductor(), again(wanted, attach=True, epoch=2))
    assert reports[-1].ended is Ended.DONE and outputs(reports)["it"]["value"] == 5
    assert [line.split()[0] for line in notes.read_text().splitlines()] == ["began", "ended"]


async def test_a_finished_call_is_told_again_and_not_made_again(lab: Lab, conductor: Conductor, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    wanted = call(lab, value=6, file=str(notes))
    first = await _run(conductor(), wanted)
    again_ = await _run(conductor(), again(wanted, attach=True, epoch=2))
    assert outputs(again_) == outputs(first) and again_[-1].ended is Ended.DONE
    assert notes.read_text().count("began") == 1


async def test_an_acknowledged_call_is_forgotten(
    lab: Lab, conductor: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowmason_cluster.hosts.ACKNOWLEDGE_AFTER_S", 0.0)
    hosts, wanted = conductor(), call(lab)
    await _run(hosts, wanted)
    for _ in range(2):
        await _run(hosts, call(lab))
    reports = await _run(conductor(), again(wanted, attach=True, epoch=2))
    assert reports[-1].ended is Ended.REFUSED


async def test_a_call_that_nobody_knows_is_refused(lab: Lab, conductor: Conductor) -> None:
    reports = await _run(conductor(), again(call(lab), attach=True))
    assert [report.ended for report in reports] == [Ended.REFUSED]


async def test_a_conductor_that_was_superseded_is_refused(lab: Lab, conductor: Conductor, tmp_path: Path) -> None:
    hosts, notes = conductor(), tmp_path / "notes"
    await _run(hosts, again(call(lab), epoch=3, run_id="run_fenced"))
    late = await _run(hosts, again(call(lab, file=str(notes)), epoch=2, run_id="run_fenced"))
    assert late[-1].ended is Ended.REFUSED
    assert late[-1].failure is not None and late[-1].failure.code == Code.FENCED
    assert not notes.exists()
    other = await _run(hosts, again(call(lab), epoch=1, run_id="run_other"))
    assert other[-1].ended is Ended.DONE


async def test_a_retired_host_is_left_behind_for_a_new_one(lab: Lab, conductor: Conductor, tmp_path: Path) -> None:
    hosts = conductor()
    pid = outputs(await _run(hosts, call(lab)))["it"]["pid"]
    notes = tmp_path / "notes"
    neighbour = asyncio.create_task(_run(hosts, again(call(lab, seconds=1.0, file=str(notes)), id="beside")))
    while not notes.exists():
        await asyncio.sleep(0.02)
    await next(iter(hosts._hosts.values())).actor.retire.remote()
    assert outputs(await _run(hosts, call(lab)))["it"]["pid"] != pid
    assert outputs(await _run(conductor(), call(lab)))["it"]["pid"] != pid
    assert outputs(await neighbour)["it"]["pid"] == pid


async def test_an_undetached_host_is_not_even_started_to_be_asked(lab: Lab, vigil: Vigil) -> None:
    hosts = Hosts(launch_of(lab.settings(mark="alone"), {}, share=False), vigil, detached=False)
    reports = await _run(hosts, again(call(lab), attach=True))
    assert reports[-1].ended is Ended.REFUSED and hosts.pids() == []
    await hosts.close()


class Faltering:
    """An actor that Ray calls unavailable now and then; `lost`: its answers to what was asked meanwhile are lost."""

    def __init__(self, actor: Any, name: str, times: int, *, lost: bool) -> None:
        self.actor, self.name, self.times, self.lost = actor, name, times, lost

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.actor, name)
        if name != self.name:
            return method

        class Asked:
            @staticmethod
            async def remote(*arguments: Any) -> Any:
                from ray.exceptions import ActorUnavailableError

                if self.times == 0:
                    return await method.remote(*arguments)
                self.times -= 1
                if self.lost:
                    await method.remote(*arguments)
                raise ActorUnavailableError("for the test", None)

        return Asked


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("name", ["submit", "drain"])
async def test_a_host_that_is_unavailable_for_a_while_is_asked_again_and_nothing_runs_twice(
    lab: Lab, conductor: Conductor, tmp_path: Path, name: str, lost: bool
) -> None:
    hosts = conductor()
    await _run(hosts, call(lab))
    [host] = hosts._hosts.values()
    host.actor = Faltering(host.actor, name, 2, lost=lost)
    notes = tmp_path / "notes"
    reports = await _run(hosts, again(call(lab, seconds=0.3, file=str(notes)), id=f"faltering-{name}-{lost}"))
    assert reports[-1].ended is Ended.DONE
    assert host.actor.times < 2
    host.actor = host.actor.actor
    assert [line.split()[0] for line in notes.read_text().splitlines()] == ["began", "ended"]


async def test_a_host_that_stays_unavailable_is_given_up(
    lab: Lab, conductor: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowmason_cluster.hosts.UNAVAILABLE_S", 0.5)
    hosts = conductor()
    await _run(hosts, call(lab))
    [host] = hosts._hosts.values()
    host.actor = Faltering(host.actor, "submit", 99, lost=False)
    reports = await _run(hosts, again(call(lab), id="in vain"))
    assert reports[-1].ended is Ended.LOST and reports[-1].failure is not None
    assert "for the test" in reports[-1].failure.message
    host.actor = host.actor.actor


async def _run(hosts: Hosts, wanted: Region) -> list[Report]:
    async with asyncio.timeout(30):
        return [report async for report in hosts.submit(wanted)]
