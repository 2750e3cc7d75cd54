"""A Studio whose processes are killed one after another while 200 runs are under way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.kit import wait_for
from faults.studio_kit import Load, StudioProcess, during

pytestmark = pytest.mark.slow
RUNS = 200
HEAD_S = 60.0
"""So long may it take until runs go on where Ray itself has to be started first (9 to 14 s on a quiet machine)."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    """A Studio on SQLite with two replicas."""
    root: Path = tmp_path_factory.mktemp("studio")
    made = StudioProcess(root, "--replicas", "2", "--num-cpus", "2")
    try:
        made.start()
        yield made
    finally:
        left = made.close()
    assert not left, f"`fm studio stop` left {left}"


def _said(what: str, found: dict[str, Any], begun: float) -> None:
    print(f"\n{what}: {time.monotonic() - begun:.1f} s {found}")


async def test_a_killed_conductor_is_replaced_and_its_runs_go_on(studio: StudioProcess) -> None:
    begun = time.monotonic()
    async with Load(studio, "conductor") as load:
        killed = await during(load, RUNS, lambda: studio.kill("ConductorHost"))
        found = await load.verify(killed)
        _said("conductor", found, begun)
    assert found["adopted"] > 0


async def test_a_killed_replica_is_replaced_and_nothing_accepted_is_lost(studio: StudioProcess) -> None:
    begun = time.monotonic()
    async with Load(studio, "replica") as load:
        await during(load, RUNS, lambda: studio.kill("ray::ServeReplica:studio:api"))
        _said("replica", await load.verify(), begun)


async def test_a_killed_node_host_loses_calls_but_no_run(studio: StudioProcess) -> None:
    begun = time.monotonic()
    async with Load(studio, "host") as load:
        await during(load, RUNS, lambda: studio.kill("ray::NodeHost"))
        _said("node host", await load.verify(), begun)


async def test_a_killed_head_is_started_again_and_every_run_goes_on(studio: StudioProcess) -> None:
    begun = time.monotonic()
    restarts = studio.status().get("restarts", 0)
    async with Load(studio, "head") as load:
        killed = await during(load, RUNS, studio.kill_head)
        _said("head", await load.verify(killed, HEAD_S), begun)
    status = studio.status()
    assert status["restarts"] == restarts + 1 and "ended" in status["detail"]


async def test_killed_keeper_and_haproxy_come_back(studio: StudioProcess) -> None:
    begun = time.monotonic()

    def strike() -> None:
        studio.kill("flowmason_serve_apps.studio.deploy")
        studio.kill("bin/haproxy")

    async with Load(studio, "front") as load:
        await during(load, RUNS, strike)
        _said("keeper and HAProxy", await load.verify(), begun)
    wait_for(lambda: studio.processes("flowmason_serve_apps.studio.deploy"), what="the keeper comes back")


async def test_clients_that_go_away_in_the_middle_leave_nothing_behind(studio: StudioProcess) -> None:
    begun = time.monotonic()
    async with Load(studio, "gone") as load:
        for n in range(20):
            run = await load.submit(f"gone-{n}")
            async with load.client.stream("GET", f"/api/v1/runs/{run}/stream") as answer:
                assert answer.status_code == 200
                # The first line, and away.
                await anext(answer.aiter_lines())
        await load.await_end()
        _said("clients", await load.verify(), begun)
        assert (await load.asked("GET", "/health")).status_code == 200
