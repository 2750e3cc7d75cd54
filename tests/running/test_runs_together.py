"""Small regions of several runs share a task: who travels with whom, and what that may not change."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from flowmason.assembly.hosting import post
from flowmason.conductor import Conductor, new_run
from flowmason.errors import Code, Failure, FencedError
from flowmason.event import Recorded, StageFailed, StageFinished, StageLost, StageStarted
from flowmason.executor import Capacity
from flowmason.ids import LOCAL_ORG, Ids, OrgId, RunId
from flowmason.journal import TERMINAL, Append
from flowmason.journal_memory import MemoryJournal
from flowmason.plan import Plan
from flowmason.policy import Placement, Resources
from flowmason.report import Ended, Region, Report
from running.kit import Engine

Lose = Callable[[Sequence[Region]], bool]


def _ms() -> int:
    return int(time.time() * 1000)


class Recorder:
    """The engine's executor, which notes what was submitted together. What `lose` picks is lost untouched."""

    name = "local"

    def __init__(self, engine: Engine, lose: Lose = lambda regions: False) -> None:
        self._inner = engine.executor
        self._lose = lose
        self.tasks: list[list[Region]] = []

    async def start(self) -> None:
        pass

    def capacity(self) -> Capacity:
        return self._inner.capacity()

    def infeasible(self, placement: Placement, resources: Resources) -> str | None:
        return self._inner.infeasible(placement, resources)

    def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        self.tasks.append(list(regions))
        return self._lost(regions) if self._lose(regions) else self._inner.submit(regions)

    async def _lost(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        for region in regions:
            failure = Failure(code=Code.LOST, message="the worker died")
            yield Report(region=region.id, ended=Ended.LOST, failure=failure)

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        await self._inner.cancel(region_id, grace_s=grace_s)

    async def close(self) -> None:
        pass

    @property
    def company(self) -> list[set[RunId]]:
        """Of every task, the runs in it."""
        return [{region.run_id for region in regions} for regions in self.tasks]


async def _walk(
    engine: Engine,
    recorder: Recorder,
    plans: Sequence[tuple[Plan, Mapping[str, Any]]],
    orgs: Sequence[OrgId] = (LOCAL_ORG,),
) -> list[list[Recorded]]:
    """Submit a run of each Plan, the orgs in turn, and walk them with one conductor; their journals."""
    journal, ids = MemoryJournal(), Ids(time.time)
    runs: list[RunId] = []
    for number, (plan, options) in enumerate(plans):
        run = new_run(
            plan,
            {},
            run_id=ids.run(),
            now=_ms(),
            by="test",
            values=engine.values,
            org_id=orgs[number % len(orgs)],
            options=dict(options),
        )
        runs.append((await journal.submit(run)).run_id)
    conductor = Conductor(
        journal=journal, values=engine.values, executor=recorder, now=_ms, ids=ids, rng=random.Random(1)
    )
    async with asyncio.timeout(30):
        await conductor.run(until_idle=True)
    for run_id in runs:
        row = await journal.row(run_id)
        assert row is not None and row.status in TERMINAL
    return [await journal.read(run_id) for run_id in runs]


def _plan(engine: Engine, *stages: dict[str, Any], name: str = "small") -> Plan:
    return engine.plan({"name": name, "version": "1.0.0", "stages": list(stages)})


def _say(id: str = "a", **config: Any) -> dict[str, Any]:
    return {"id": id, "component": "say", "config": config}


def _count(journals: Sequence[Sequence[Recorded]], kind: type[Any]) -> int:
    return sum(isinstance(recorded.event, kind) for events in journals for recorded in events)


async def test_many_small_runs_need_few_tasks(engine: Engine) -> None:
    recorder = Recorder(engine)
    plan = _plan(engine, _say("a", value=1), _say("b", value="{{upstream.a.value}}"))
    journals = await _walk(engine, recorder, [(plan, {})] * 60)
    assert _count(journals, StageFinished) == 120
    assert len(recorder.tasks) < 30 and max(map(len, recorder.tasks)) > 4


async def test_runs_of_different_orgs_never_share_a_task(engine: Engine) -> None:
    recorder = Recorder(engine)
    orgs = (OrgId("one"), OrgId("two"), OrgId("three"))
    journals = await _walk(engine, recorder, [(_plan(engine, _say(value=1)), {})] * 30, orgs)
    assert _count(journals, StageFinished) == 30
    assert {len({region.org_id for region in regions}) for regions in recorder.tasks} == {1}
    assert any(len(regions) > 1 for regions in recorder.tasks)


async def test_a_long_stage_holds_up_no_run_that_shares_its_task(engine: Engine) -> None:
    recorder = Recorder(engine)
    long, short = _plan(engine, _say(seconds=0.5), name="long"), _plan(engine, _say(value=1))
    journals = await _walk(engine, recorder, [(long, {}), *[(short, {})] * 20])
    assert _count(journals, StageFinished) == 21
    ends = [events[-1].at for events in journals]
    assert max(ends[1:]) < ends[0]


async def test_nobody_is_charged_when_a_task_of_several_runs_is_lost(engine: Engine) -> None:
    lost: list[Sequence[Region]] = []

    def lose(regions: Sequence[Region]) -> bool:
        if len(regions) > 1 and not lost:
            lost.append(regions)
            return True
        return False

    recorder = Recorder(engine, lose)
    journals = await _walk(engine, recorder, [(_plan(engine, _say(value=1)), {})] * 12)
    assert _count(journals, StageLost) == 0 and _count(journals, StageFinished) == 12
    victims = {region.run_id for region in lost[0]}
    later = recorder.company[recorder.tasks.index(list(lost[0])) + 1 :]
    # Each then travels alone, so that the one that kills its worker is found.
    assert sorted(map(len, (runs for runs in later if runs & victims))) == [1] * len(victims)


async def test_the_run_that_kills_its_worker_is_found_and_its_neighbours_finish(engine: Engine) -> None:
    deadly = _plan(engine, _say(value=1), name="deadly")
    recorder = Recorder(engine, lambda regions: any(region.plan == deadly.id for region in regions))
    journals = await _walk(engine, recorder, [(_plan(engine, _say(value=1)), {})] * 5 + [(deadly, {})])
    assert _count(journals[:5], StageFinished) == 5 and _count(journals[:5], StageLost) == 0
    assert _count(journals[5:], StageLost) == 3 and _count(journals[5:], StageFailed) == 1


async def test_what_bounds_its_concurrency_or_travels_stage_by_stage_has_a_task_of_its_own(engine: Engine) -> None:
    recorder = Recorder(engine)
    plan = _plan(engine, _say(value=1))
    options: list[Mapping[str, Any]] = [{"max_concurrency": 4}, {"lone_stages": True}]
    await _walk(engine, recorder, [(plan, options[n % 2]) for n in range(10)])
    assert {len(regions) for regions in recorder.tasks} == {1}


class Stubborn(Recorder):
    """Two slots; what is under way ends in its own time, whoever cancels it."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.ended: list[str] = []
        """Names of the regions that did."""

        self.obeys = False
        """Whether what is cancelled ends all the same."""
        self.gate = asyncio.Event()
        """Nothing ends before it is open."""
        self.gate.set()
        self.held: set[str] = set()
        """Names of regions that do not end before they are let."""

    def capacity(self) -> Capacity:
        return Capacity(task_slots=2, host_slots=2)

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        if self.obeys:
            await super().cancel(region_id, grace_s=grace_s)

    async def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        self.tasks.append(list(regions))
        async for report in self._inner.submit(regions):
            await self.gate.wait()
            while report.ended is not None and self.held & {region.name for region in regions}:
                await asyncio.sleep(0.005)
            yield report
        self.ended += [region.name for region in regions]

    async def has(self, count: int) -> None:
        """Wait until so many tasks were submitted."""
        async with asyncio.timeout(60):
            while len(self.tasks) < count:
                await asyncio.sleep(0.005)


class Taken(MemoryJournal):
    """Says, once `gate` is open, of runs of which an effect is to start: they belong to another conductor now."""

    def __init__(self, org: str) -> None:
        super().__init__()
        self.org, self.gate, self.asked = org, asyncio.Event(), asyncio.Event()

    async def append(self, append: Append) -> int:
        if append.org_id == self.org and any(isinstance(event, StageStarted) for event in append.events):
            self.asked.set()
            await self.gate.wait()
            raise FencedError("taken")
        return await super().append(append)


class Together:
    """A conductor with a stubborn executor."""

    def __init__(self, engine: Engine, journal: MemoryJournal) -> None:
        self.executor, self.journal = Stubborn(engine), journal
        self._engine, self._ids = engine, Ids(time.time)
        self.conductor = Conductor(
            journal=journal,
            values=engine.values,
            executor=self.executor,
            now=_ms,
            ids=self._ids,
            rng=random.Random(1),
            poll_s=0.02,
        )

    async def submit(self, org: str, *stages: dict[str, Any]) -> RunId:
        """A run of an org; a pipeline is called as the org is."""
        run = new_run(
            _plan(self._engine, *stages, name=org),
            {},
            run_id=self._ids.run(),
            now=_ms(),
            by="test",
            values=self._engine.values,
            org_id=OrgId(org),
            options={"lone_stages": True},
        )
        await self.journal.submit(run)
        self.conductor.nudge()
        return run.run_id

    async def over(self, run_id: RunId, *statuses: str) -> None:
        """Wait until a run has ended, or has one of these statuses."""
        async with asyncio.timeout(60):
            while (row := await self.journal.row(run_id)) is None or row.status not in (statuses or TERMINAL):
                await asyncio.sleep(0.005)

    async def end(self, running: asyncio.Task[None]) -> None:
        """Let what is under way end, and the conductor."""
        self.executor.held.clear()
        async with asyncio.timeout(60):
            while "a/long" not in self.executor.ended:
                await asyncio.sleep(0.005)
        self.conductor.stop()
        await running


async def test_a_run_that_is_over_keeps_no_place_from_those_that_wait(engine: Engine) -> None:
    """It waited for a place, and was cancelled while what it had under way took its time to end."""
    there = Together(engine, MemoryJournal())
    there.executor.held |= {"a/long", "b/middle"}
    running = asyncio.create_task(there.conductor.run())
    then = {**_say("then"), "depends_on": ["soon"]}
    first = await there.submit("a", _say("long"), _say("soon", seconds=0.2), then)
    await there.executor.has(2)
    await there.submit("b", _say("middle"))
    await there.executor.has(3)
    third = await there.submit("c", _say("last"))
    await asyncio.sleep(0.1)
    assert len(there.executor.tasks) == 3, "both slots are taken"
    await post(there.journal, first, "cancel")
    there.conductor.nudge()
    await there.over(first)
    there.executor.held.remove("b/middle")
    await there.over(third)
    assert "b/middle" in there.executor.ended and "a/long" not in there.executor.ended
    await there.end(running)


async def test_a_run_that_is_taken_away_gives_back_the_places_of_what_it_did_not_send(engine: Engine) -> None:
    """While another run waited for one, and something that it had sent took its time to end."""
    journal = Taken("a")
    there = Together(engine, journal)
    there.executor.held.add("a/long")
    running = asyncio.create_task(there.conductor.run())
    await there.submit("a", _say("long"), *({**_say(f"call{n}"), "component": "touch"} for n in range(2)))
    await there.executor.has(1)
    await journal.asked.wait()
    second = await there.submit("b", {**_say("call"), "component": "touch"})
    await asyncio.sleep(0.1)
    assert len(there.executor.tasks) == 1, "both places are kept"
    journal.gate.set()
    await there.over(second)
    assert there.executor.ended == ["b/call"]
    await there.end(running)


async def test_an_org_that_comes_later_does_not_wait_for_all_that_another_has_under_way(engine: Engine) -> None:
    there = Together(engine, MemoryJournal())
    there.executor.gate.clear()
    running = asyncio.create_task(there.conductor.run())
    for component in ("say", "touch"):  # a task, a call on a host
        there.executor.tasks.clear()
        crowd = [await there.submit("a", {**_say(seconds=0.05), "component": component}) for _ in range(24)]
        for run_id in crowd:
            await there.over(run_id, "running")
        await there.executor.has(2)
        few = [await there.submit("b", {**_say(seconds=0.05), "component": component}) for _ in range(3)]
        for run_id in few:
            await there.over(run_id, "running")
        await asyncio.sleep(0.2)  # they ask for places
        there.executor.gate.set()
        for run_id in crowd + few:
            await there.over(run_id)
        orgs = [regions[0].org_id for regions in there.executor.tasks]
        assert len(orgs) == 27 and orgs[:2] == ["a", "a"]
        assert orgs[:16].count(OrgId("b")) == 3, orgs
        there.executor.gate.clear()
    there.conductor.stop()
    await running
