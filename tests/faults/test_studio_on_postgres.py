"""A Studio on PostgreSQL with two conductors, and a Redis for each of its uses: what it stands on is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from faults.kit import wait_for
from faults.servers import RedisServer, redis_server
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
def gcs_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis in which Ray keeps its own state."""
    with redis_server(tmp_path_factory.mktemp("redis"), "gcs") as server:
        yield server


@pytest.fixture(scope="module")
def limits_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis in which the replicas count requests."""
    with redis_server(tmp_path_factory.mktemp("redis"), "limits") as server:
        yield server


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    gcs_redis: RedisServer,
    limits_redis: RedisServer,
) -> Iterator[StudioProcess]:
    """A Studio on PostgreSQL with two replicas, two conductors, and a Redis for each of its uses."""
    root: Path = tmp_path_factory.mktemp("studio")
    database = postgres_server.url(postgres_server.new_database())
    options = ("--replicas", "2", "--conductors", "2", "--num-cpus", "2", "--gcs-redis", gcs_redis.url)
    made = StudioProcess(root, *options, database=database, REDIS_URL=limits_redis.url)
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


async def test_the_redis_of_the_limits_is_killed_and_comes_back(
    studio: StudioProcess, limits_redis: RedisServer
) -> None:
    said: list[int] = []

    def sign_in() -> int:
        body = {"email": "nobody@example.com", "password": "a wrong password"}
        return httpx2.post(f"{studio.url}/api/v1/auth/login", json=body, timeout=20).status_code

    def strike() -> None:
        limits_redis.kill()
        said.append(sign_in())
        time.sleep(3.0)
        limits_redis.start_again(empty=True)

    async with Load(studio, "limits") as load:
        await during(load, 60, strike)
        print("\nlimits", await load.verify())
        # Whoever has a key is counted by each replica for itself; nobody signs in uncounted.
        assert set(load.refused) <= {"429"}, load.refused
    assert said == [503]
    wait_for(lambda: sign_in() == 401, what="sign-ins are counted again", within_s=20)


async def test_the_redis_of_the_gcs_is_killed_and_comes_back_empty(
    studio: StudioProcess, gcs_redis: RedisServer
) -> None:
    def strike() -> float:
        gcs_redis.kill()
        killed = time.time()
        time.sleep(3.0)
        gcs_redis.start_again(empty=True)
        return killed

    restarts = studio.status().get("restarts", 0)
    async with Load(studio, "gcs") as load:
        killed = await during(load, RUNS, strike)
        print("\ngcs", await load.verify(killed, HEAD_S))
    # Ray does not go on without it: a new head starts on what Redis has, here nothing.
    assert studio.status()["restarts"] == restarts + 1


async def test_postgres_and_both_redises_are_killed_together_and_come_back(
    studio: StudioProcess, postgres_server: PostgresServer, gcs_redis: RedisServer, limits_redis: RedisServer
) -> None:
    def strike() -> None:
        for server in (postgres_server, gcs_redis, limits_redis):
            server.kill()
        time.sleep(3.0)
        for server in (gcs_redis, limits_redis, postgres_server):
            server.start_again()

    restarts = studio.status().get("restarts", 0)
    async with Load(studio, "all") as load:
        await during(load, RUNS, strike)
        print("\nall", await load.verify())
    assert studio.status()["restarts"] == restarts + 1
    assert load.refused, "nobody noticed"


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
