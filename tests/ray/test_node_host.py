"""What a node host keeps, and when it lets go; without Ray, which only carries its calls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowmason.policy import Placement
from flowmason.report import Ended, Region, Report, region_encoder, report_decoder
from flowmason_actors import node_host
from flowmason_actors.launch import launch_of, open_worker
from flowmason_actors.node_host import NodeHost
from flowmason_cluster.hosts import Hosts
from flowmason_cluster.vigil import Vigil
from ray_kit import Lab, again, outputs, region, stage


@pytest.fixture
async def host(lab: Lab) -> AsyncIterator[NodeHost]:
    made = NodeHost(launch_of(lab.settings(mark="bare"), {}, share=False), silence_s=0, idle_s=0)
    await made.ready()
    yield made
    assert made._ticker is not None
    made._ticker.cancel()


def call(lab: Lab, **config: Any) -> Region:
    return region(lab.plan(stage("it", "call", **config)), placement=Placement.HOST)


async def test_reports_of_many_calls_travel_together(lab: Lab, host: NodeHost) -> None:
    calls = [again(call(lab, seconds=0.2), id=f"call-{n}") for n in range(30)]
    assert await host.submit("me", [region_encoder.encode(wanted) for wanted in calls])
    batches: list[list[Report]] = []
    ended: list[Ended] = []
    while len(ended) < 30:
        batches.append([report_decoder.decode(report) for report in await host.drain("me")])
        ended += [report.ended for report in batches[-1] if report.ended is not None]
    assert len(batches) < 15
    assert set(ended) == {Ended.DONE}


async def test_a_drain_without_news_returns_empty_handed(host: NodeHost) -> None:
    assert await host.drain("me", wait_s=0.05) == []


async def test_everybody_gets_the_reports_of_their_own_calls(lab: Lab, host: NodeHost) -> None:
    await host.submit("one", [region_encoder.encode(again(call(lab), id="a"))])
    await host.submit("two", [region_encoder.encode(again(call(lab), id="b"))])
    assert {report.region for report in await _drain(host, "one")} == {"a"}
    assert {report.region for report in await _drain(host, "two")} == {"b"}


async def test_finished_calls_are_kept_within_bounds(lab: Lab, host: NodeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_host, "KEPT_CALLS", 2)
    for name in "abcd":
        await host.submit("me", [region_encoder.encode(again(call(lab, value=name), id=name))])
        await _drain(host, "me")
    await asyncio.sleep(2 * node_host._TICK_S)
    assert await _attached(host, call(lab), "a") is Ended.REFUSED
    assert await _attached(host, call(lab), "d") is Ended.DONE
    monkeypatch.setattr(node_host, "KEPT_BYTES", 1)
    await asyncio.sleep(2 * node_host._TICK_S)
    assert await _attached(host, call(lab), "d") is Ended.REFUSED
    assert host._kept == 0


async def test_a_retired_host_takes_nothing_more(lab: Lab, host: NodeHost) -> None:
    await host.retire()
    assert await host.submit("me", [region_encoder.encode(call(lab))]) is False
    assert await host.drain("me", wait_s=0.05) == []


async def test_an_idle_host_ends_and_the_next_call_gets_another(lab: Lab, vigil: Vigil) -> None:
    hosts = Hosts(launch_of(lab.settings(mark="idle"), {}, share=False), vigil, detached=False, idle_s=0.5)
    pids = []
    for _ in range(2):
        async with asyncio.timeout(30):
            reports = [report async for report in hosts.submit(call(lab))]
        pids.append(outputs(reports)["it"]["pid"])
        async with asyncio.timeout(60):
            while hosts.pids():
                await asyncio.sleep(0.05)
    assert len(set(pids)) == 2
    await hosts.close()


def test_a_launch_carries_what_workers_are_meant_to_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    providers = {"extra": {"mine": {"api_key_env": "MY_KEY"}}}
    settings = lab.settings(env=["REGION"], providers=providers)
    environ = {"REGION": "eu", "MY_KEY": "k", "FLOWMASON_SECRET_A": "s", "OPENAI_API_KEY": "o", "OTHER": "x"}
    for name in (*environ, "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody")
    open_worker(launch_of(settings, environ, share=True))
    assert {name: os.environ.get(name) for name in environ} == {**environ, "OTHER": None}
    assert "DATABASE_URL" not in os.environ
    assert launch_of(settings, environ, share=False) == launch_of(settings, {}, share=True)


async def _attached(host: NodeHost, wanted: Region, name: str) -> Ended | None:
    await host.submit("other", [region_encoder.encode(again(wanted, id=name, attach=True))])
    return (await _drain(host, "other"))[-1].ended


async def _drain(host: NodeHost, client: str) -> list[Report]:
    """Reports until one of them is the last of its call."""
    found: list[Report] = []
    while not any(report.ended is not None for report in found):
        found += [report_decoder.decode(report) for report in await host.drain(client)]
    return found
