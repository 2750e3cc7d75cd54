"""A store that is away for a while, and what a conductor must not lose or repeat meanwhile."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any

import pytest

from flowmason.assembly.hosting import post
from flowmason.conductor import Conductor, new_run
from flowmason.errors import JournalError
from flowmason.event import Frame, RunAdopted, StageFinished
from flowmason.ids import Ids, RunId
from flowmason.journal import TERMINAL, Append
from flowmason.journal_memory import MemoryJournal
from running.kit import Engine
from running.test_runs_together import Stubborn


class Away(MemoryJournal):
    """Cannot read the frames of runs as long as it is asked not to."""

    def __init__(self, **hooks: Any) -> None:
        super().__init__(**hooks)
        self.away = True
        self.refused = asyncio.Event()

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        if self.away:
            self.refused.set()
            raise JournalError("the store is away")
        return await super().frames(run_id, after)


class There:
    """A conductor of a pool, with a clock that can be put forward."""

    def __init__(self, engine: Engine, journal: MemoryJournal) -> None:
        self.journal, self.ahead = journal, 0
        self.executor = Stubborn(engine)
        self._engine, self._ids = engine, Ids(time.time)
        self.conductor = Conductor(
            journal=journal,
            values=engine.values,
            executor=self.executor,
            now=self._now,
            ids=self._ids,
            rng=random.Random(1),
            poll_s=0.02,
        )
        self.running = asyncio.create_task(self.conductor.run())

    def _now(self) -> int:
        return int(time.time() * 1000) + self.ahead

    async def submit(self, *stages: dict[str, Any]) -> RunId:
        plan = self._engine.plan({"name": "a", "version": "1.0.0", "stages": list(stages)})
        options = {"lone_stages": True}
        run = new_run(
            plan, {}, run_id=self._ids.run(), now=self._now(), by="test", values=self._engine.values, options=options
        )
        await self.journal.submit(run)
        return run.run_id

    async def reaches(self, run_id: RunId, *statuses: str) -> str:
        async with asyncio.timeout(60):
            while (row := await self.journal.row(run_id)) is None or row.status not in (statuses or TERMINAL):
                await asyncio.sleep(0.005)
        return row.status

    async def stop(self) -> None:
        self.executor.obeys = True
        self.conductor.stop()
        await self.running


def _say(id: str, *, after: str = "", **config: Any) -> dict[str, Any]:
    return {"id": id, "component": "say", "config": config, "depends_on": [after] if after else []}


async def test_a_run_that_could_not_be_read_is_taken_up_later_by_the_same_conductor(engine: Engine) -> None:
    journal = Away()
    there = There(engine, journal)
    run_id = await there.submit(_say("a", value=1))
    await journal.refused.wait()
    async with asyncio.timeout(60):
        while (row := await journal.row(run_id)) is None or row.owner is not None or row.epoch == 0:
            await asyncio.sleep(0.005)
    assert row.status == "queued" and row.wake_at is not None and row.wake_at > there._now()
    journal.away = False
    there.ahead = 60_000
    assert await there.reaches(run_id) == "completed"
    await there.stop()


async def test_a_commit_that_was_done_although_the_store_did_not_say_so_is_not_taken_for_somebody_elses(
    engine: Engine,
) -> None:
    lost: list[Append] = []

    def silent(name: str, argument: Any) -> None:
        if isinstance(argument, Append) and not lost:
            lost.append(argument)
            raise JournalError("whether the last commit was done is not known")

    journal = MemoryJournal(after_commit=silent)
    there = There(engine, journal)
    run_id = await there.submit(_say("a", value=1), _say("b", after="a"))
    assert await there.reaches(run_id) == "completed"
    await there.stop()
    events = [item.event for item in await journal.read(run_id)]
    assert lost and sum(isinstance(event, StageFinished) for event in events) == 2
    assert not any(isinstance(event, RunAdopted) for event in events)


async def test_a_conductor_that_was_declared_dead_says_so_once_and_stops(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    journal = MemoryJournal()
    there = There(engine, journal)
    async with asyncio.timeout(60):
        while there.conductor.id not in await journal.beats():
            await asyncio.sleep(0.005)
        with caplog.at_level(logging.WARNING, "flowmason.conductor"):
            while not await journal.bury(there.conductor.id, (await journal.beats())[there.conductor.id][0]):
                pass
            await there.running
    assert [record.getMessage() for record in caplog.records] == [
        f"conductor {there.conductor.id} was declared dead; it stops"
    ]


async def test_a_run_that_goes_on_before_all_of_it_has_landed_still_hears_its_commands(engine: Engine) -> None:
    """It failed, was resumed, and is walked by the same conductor while something of before takes its time to end."""
    there = There(engine, MemoryJournal())
    run_id = await there.submit(
        _say("long", seconds=0.5), _say("bad", error="ValueError", times=1), _say("then", after="bad", seconds=600.0)
    )
    assert await there.reaches(run_id) == "failed"
    await post(there.journal, run_id, "resume")
    await there.reaches(run_id, "running")
    async with asyncio.timeout(60):
        while "a/long" not in there.executor.ended:
            await asyncio.sleep(0.005)
    await post(there.journal, run_id, "cancel")
    there.executor.obeys = True
    assert await there.reaches(run_id) == "cancelled"
    await there.stop()
