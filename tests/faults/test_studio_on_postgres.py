"""A Studio on PostgreSQL with two conductors and Ray's own state in Redis: the servers and the head are killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.servers import redis_server
from faults.studio_kit import Load, StudioProcess, during
from flowmason.studio import schema
from flowmason.studio.scope import StudioStore
from services import PostgresServer
from studio.kit import ACME

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
RUNS = 200
HEAD_S = 60.0
"""So long may it take until runs go on where Ray itself has to be started first (9 to 14 s on a quiet machine)."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[StudioProcess]:
    """A Studio on PostgreSQL with two replicas, two conductors, and a Redis for the GCS."""
    root: Path = tmp_path_factory.mktemp("studio")
    database = postgres_server.url(postgres_server.new_database())
    with redis_server(root) as redis:
        options = ("--replicas", "2", "--conductors", "2", "--num-cpus", "2", "--gcs-redis", redis)
        made = StudioProcess(root, *options, database=database)
        try:
            made.start()
            yield made
        finally:
            left = made.close()
        assert not left, f"`fm studio stop` left {left}"


async def test_one_of_two_conductors_is_killed(studio: StudioProcess) -> None:
    async with Load(studio, "conductor") as load:
        killed = await during(load, RUNS, lambda: studio.kill("ConductorHost"))
        found = await load.verify(killed)
        print("\nconductor", found)
    assert found["adopted"] > 0


async def test_postgres_is_killed_and_comes_back(studio: StudioProcess, postgres_server: PostgresServer) -> None:
    def strike() -> None:
        postgres_server.kill()
        time.sleep(3.0)
        postgres_server.start_again()

    async with Load(studio, "postgres") as load:
        await during(load, RUNS, strike)
        found = await load.verify()
        print("\npostgres", found)
    assert found["tried_again"], "nobody noticed"


async def test_the_head_is_killed_and_finds_its_state_in_redis(studio: StudioProcess) -> None:
    restarts = studio.status().get("restarts", 0)
    async with Load(studio, "head") as load:
        killed = await during(load, RUNS, studio.kill_head)
        print("\nhead", await load.verify(killed, HEAD_S))
    assert studio.status()["restarts"] == restarts + 1


async def test_a_full_queue_says_when_to_come_again(studio: StudioProcess) -> None:
    gate = studio.root / "gate"
    store = StudioStore.open(studio.database)
    with store.scope(ACME) as scope:
        scope.add(schema.org_limits, max_concurrent_runs=2, max_queued_runs=3, weight=1)
    try:
        async with Load(studio, "full", gate=str(gate)) as load:
            address = f"/api/v1/pipelines/{load.pipeline}/run"
            answers = [await load.client.post(address, json={"input": {}}) for _ in range(12)]
            full = [answer for answer in answers if answer.status_code == 429]
            assert full and {answer.status_code for answer in answers} == {202, 429}
            for answer in full:
                assert int(answer.headers["Retry-After"]) > 0
                assert answer.json()["code"] == "QUEUE_FULL"
                assert answer.headers["Content-Type"].startswith("application/problem+json")
            gate.touch()
            # A client that waits as it is told gets all of its runs in.
            for n in range(20):
                await load.submit(f"full-{n}")
            await load.await_end()
            print("\nfull", await load.verify())
    finally:
        with store.scope(ACME) as scope:
            scope.remove(schema.org_limits)
        store.close()
