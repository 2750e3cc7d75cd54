"""Limits of providers hold over all processes of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import ray
from flowmason.event import StageFinished
from flowmason.executor import WorkerSettings
from flowmason.limiter import Finish, Terms, Ticket
from flowmason_actors.call_limits import CallLimits, Held, SharedCallLimiter
from flowmason_actors.conductor_host import NAMESPACE
from flowmason_actors.launch import launch_of, open_worker
from flowmason_cluster import ray_start
from flowmason_cluster.executor import RayExecutor

ONE, TWO = Terms(concurrency=1), Terms(concurrency=2)


@pytest.fixture
async def name(cluster: ray_start.Cluster) -> AsyncIterator[str]:
    """The name of an actor of this test alone."""
    found = f"limits-{secrets.token_hex(4)}"
    yield found
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(found, namespace=NAMESPACE))


def ticket(id: str, terms: Terms = ONE) -> Ticket:
    return Ticket(id, "", "local", terms, 60.0)


def spans(name: str, prefix: str, count: int) -> list[tuple[float, float]]:
    """Calls of one process, all at once: when each was made and ended."""

    async def work() -> list[tuple[float, float]]:
        limiter = SharedCallLimiter(name)

        async def call(n: int) -> tuple[float, float]:
            mine = ticket(f"{prefix}{n}", TWO)
            assert (await limiter.enter("them", mine)).refused is None
            begun = time.time()
            await asyncio.sleep(0.05)
            ended = time.time()
            await limiter.leave("them", mine, Finish(reached=True))
            return begun, ended

        return await asyncio.gather(*(call(n) for n in range(count)))

    return asyncio.run(work())


async def test_processes_of_a_cluster_share_one_limit(name: str) -> None:
    task: Any = ray.remote(num_cpus=0.5)(spans)
    found = await asyncio.gather(task.remote(name, "a", 6), task.remote(name, "b", 6))
    moments = sorted(
        [(begun, 1) for each in found for begun, _ in each] + [(ended, -1) for each in found for _, ended in each]
    )
    inside = most = 0
    for _, change in moments:
        inside += change
        most = max(most, inside)
    assert most == 2 and sum(map(len, found)) == 12


async def test_a_new_keeper_of_the_limits_hears_what_is_under_way(name: str) -> None:
    limiter = SharedCallLimiter(name)
    first, second = ticket("first"), ticket("second")
    await limiter.enter("them", first)
    ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    waits = asyncio.create_task(limiter.enter("them", second))
    assert not (await asyncio.wait([waits], timeout=2.0))[0]
    await limiter.leave("them", first, Finish())
    async with asyncio.timeout(100):
        assert (await waits).refused is None


async def test_a_call_that_ends_while_a_new_keeper_is_told_of_it_gives_its_place_back(name: str) -> None:
    """The news of what is under way takes a while to be heard, as while the keeper's process starts."""
    limiter, first, second = SharedCallLimiter(name), ticket("first"), ticket("second")
    await limiter.enter("them", first)
    ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    slow = SlowKeeper(limiter._find)
    limiter._actor, limiter._find = None, lambda: slow  # type: ignore[method-assign]
    waits = asyncio.create_task(limiter.enter("them", second))
    await slow.told.wait()
    await limiter.leave("them", first, Finish())
    slow.go.set()
    async with asyncio.timeout(60):
        assert (await waits).refused is None


async def test_a_sign_of_life_that_comes_late_brings_no_ended_call_back() -> None:
    keeper, first, second = CallLimits(), ticket("first"), ticket("second")
    first, second = (msgspec.structs.replace(each, holder="me") for each in (first, second))
    await keeper.enter("them", msgspec.msgpack.encode(first))
    late = msgspec.msgpack.encode((Held("them", first),))
    await keeper.leave("them", msgspec.msgpack.encode(first), msgspec.msgpack.encode(Finish()))
    await keeper.beat("me", late)
    async with asyncio.timeout(60):
        await keeper.enter("them", msgspec.msgpack.encode(second))


class SlowKeeper:
    """A new keeper of which the first answer takes until `go`."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._actor = find()
        self.told, self.go = asyncio.Event(), asyncio.Event()
        self.enter, self.leave, self.beat = self._actor.enter, self._actor.leave, self

    def remote(self, holder: str, held: bytes) -> Any:
        """Of `beat`."""
        told = self._actor.beat.remote(holder, held)
        self.told.set()

        async def heard() -> None:
            await self.go.wait()
            await told

        return heard()


async def test_who_is_cancelled_leaves_the_line(name: str) -> None:
    limiter = SharedCallLimiter(name)
    first, second, third = ticket("first"), ticket("second"), ticket("third")
    await limiter.enter("them", first)
    gone = asyncio.create_task(limiter.enter("them", second))
    await asyncio.wait([gone], timeout=0.2)
    gone.cancel()
    await asyncio.wait([gone])
    await limiter.leave("them", first, Finish())
    async with asyncio.timeout(20):
        assert (await limiter.enter("them", third)).refused is None


async def test_a_busy_process_need_not_ask_for_each_call_and_gives_back_what_it_does_not_take(name: str) -> None:
    terms, limiter, other = Terms(concurrency=20), SharedCallLimiter(name), SharedCallLimiter(name)
    calls = before = 0
    while calls < 50 or limiter.asked == before:  # the last one asks, and so has places left
        before, calls = limiter.asked, calls + 1
        mine = ticket(f"busy{calls}", terms)
        assert (await limiter.enter("them", mine)).refused is None
        await limiter.leave("them", mine, Finish(reached=True))
    assert limiter.asked < calls
    async with asyncio.timeout(25):  # in 30 s the first one would be taken for dead
        # All places there are: none is held by the first one any more, or not for long.
        for n in range(20):
            assert (await other.enter("them", ticket(f"other{n}", terms))).refused is None
        waits = asyncio.create_task(limiter.enter("them", ticket("last", terms)))
        assert not (await asyncio.wait([waits], timeout=1.5))[0]
        await other.leave("them", ticket("other0", terms), Finish(reached=True))
        assert (await waits).refused is None


async def test_workers_on_ray_share_declared_limits_and_no_others(cluster: ray_start.Cluster) -> None:
    worker = open_worker(launch_of(WorkerSettings(values_url="memory://x"), {}, share=False))
    assert isinstance(worker.services.limiter(ONE), SharedCallLimiter)
    assert not isinstance(worker.services.limiter(Terms()), SharedCallLimiter)


async def test_runs_on_two_node_hosts_keep_to_one_limit(cluster: ray_start.Cluster, tmp_path: Path) -> None:
    from running.kit import Engine, pipe, stage  # here: workers import this module, and have no tests on their path

    mock = {"limits": {"concurrency": 1}, "extra": {"delay_ms": 100, "answers": ["word"] * 3}}
    stages = [stage(f"s{n}", "generator", prompt="hello") for n in range(3)]

    async def run(name: str) -> list[tuple[int, int]]:
        engine = Engine(tmp_path / name)  # of a folder of its own: a launch, and so a host, of its own
        engine.settings.options["providers"] = {"default": "mock", "mock": mock}
        engine.executor = executor = RayExecutor(engine.settings, address="local")  # type: ignore[assignment]
        await executor.start()
        try:
            found = await (await engine.begin(pipe(*stages))).end(60)
        finally:
            await executor.close()
        assert found.status == "completed", found.error
        calls = [call for event in found.of(StageFinished) for call in event.calls]
        return [(call.started_at, call.started_at + call.duration_ms) for call in calls]

    first, second = await asyncio.gather(run("one"), run("two"))
    spans = sorted(first + second)
    assert len(spans) == 6
    assert all(ended <= begun + 2 for (_, ended), (begun, _) in itertools.pairwise(spans)), spans
