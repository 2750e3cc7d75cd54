"""Runs that are handed to the conductor that will walk them: recorded as its own, and not read back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from flowmason.assembly.hosting import now_ms
from flowmason.conductor import Conductor, new_run
from flowmason.errors import Code, JournalError
from flowmason.event import Frame, Recorded, RunAdopted, RunCancelled, RunCompleted, RunFailed, RunStarted
from flowmason.ids import Ids, RunId
from flowmason.journal import Append, Command, NewRun
from flowmason.journal_memory import MemoryJournal
from flowmason.report import Report
from running.kit import Engine

LONG_S = 60.0
"""Far above what a slow machine needs."""


class Readings(MemoryJournal):
    """A journal that notes which runs' events were read."""

    def __init__(self, **hooks: Any) -> None:
        super().__init__(**hooks)
        self.read_back: list[RunId] = []

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        self.read_back.append(run_id)
        return await super().frames(run_id, after)


class Ends:
    """Notes the ends of runs, and how many were under way at most."""

    def __init__(self) -> None:
        self.last: dict[RunId, Any] = {}
        self.most = 0
        self.told = asyncio.Event()
        self._begun: set[RunId] = set()

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        self._begun.add(run_id)
        for each in events:
            if isinstance(each.event, RunCompleted | RunFailed | RunCancelled):
                self.last[run_id] = each.event
        self.most = max(self.most, len(self._begun - self.last.keys()))
        self.told.set()

    def beside(self, run_id: RunId, report: Report) -> None:
        pass

    async def of(self, *run_ids: RunId) -> list[Any]:
        """The last events of these runs, once they are there."""
        async with asyncio.timeout(LONG_S):
            while not all(run_id in self.last for run_id in run_ids):
                self.told.clear()
                await self.told.wait()
        return [self.last[run_id] for run_id in run_ids]


class Walking:
    """A conductor at work; `async with`."""

    def __init__(self, engine: Engine, journal: MemoryJournal, **more: Any) -> None:
        self.engine, self.journal, self.ids = engine, journal, Ids(time.time)
        self.ends = Ends()
        self.conductor = Conductor(
            journal=journal,
            values=engine.values,
            executor=engine.executor,
            now=now_ms,
            ids=self.ids,
            rng=random.Random(1),
            **more,
        )
        self.conductor.follow(self.ends)

    async def __aenter__(self) -> Walking:
        self.task = asyncio.create_task(self.conductor.run())
        while self.conductor.id not in await self.journal.beats():
            await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.conductor.stop()
        await self.task

    def run(self, *stages: dict[str, Any], **fields: Any) -> NewRun:
        """A new run of these stages."""
        plan = self.engine.plan({"name": "small", "version": "1.0.0", "stages": list(stages)})
        given: dict[str, Any] = {"run_id": self.ids.run(), "now": now_ms(), "by": "test", "values": self.engine.values}
        return new_run(plan, {}, **(given | fields))


def _say(**config: Any) -> dict[str, Any]:
    return {"id": "a", "component": "say", "config": config}


async def test_a_run_that_its_submitter_walks_is_neither_read_back_nor_adopted(engine: Engine) -> None:
    journal = Readings()
    async with Walking(engine, journal) as walking:
        row = await walking.conductor.submit(walking.run(_say(value=1), options={"spans": (1, 2)}))
        assert (row.owner, row.epoch) == (walking.conductor.id, 1)
        [end] = await walking.ends.of(row.run_id)
        assert isinstance(end, RunCompleted)
        assert journal.read_back == []
    events = [each.event for each in await journal.read(row.run_id)]
    assert isinstance(events[1], RunStarted)
    assert not any(isinstance(event, RunAdopted) for event in events)


async def test_runs_for_which_there_is_no_place_wait_for_one(engine: Engine) -> None:
    async def slow(name: str, _: Any) -> None:
        if name == "begin":
            await asyncio.sleep(0.01)

    async with Walking(engine, MemoryJournal(before_commit=slow), capacity=2) as walking:
        rows = await asyncio.gather(
            *(walking.conductor.submit(walking.run(_say(value=n, seconds=0.01))) for n in range(7))
        )
        assert sum(row.owner is not None for row in rows) == 2
        ends = await walking.ends.of(*(row.run_id for row in rows))
        assert all(isinstance(end, RunCompleted) for end in ends)
        assert walking.ends.most == 2


async def test_a_run_whose_recording_was_not_answered_is_walked_all_the_same(engine: Engine) -> None:
    lost: list[RunId] = []

    def lose(name: str, run: Any) -> None:
        if name == "begin" and not lost:
            lost.append(run.run_id)
            raise JournalError("the connection died", code=Code.STORAGE)

    async with Walking(engine, MemoryJournal(after_commit=lose)) as walking:
        with pytest.raises(JournalError):
            await walking.conductor.submit(walking.run(_say(value=1)))
        [end] = await walking.ends.of(*lost)
        assert isinstance(end, RunCompleted)


async def test_an_earlier_run_of_the_same_key_is_not_walked_twice(engine: Engine) -> None:
    tried: list[Append] = []

    def note(name: str, argument: Any) -> None:
        if isinstance(argument, Append):
            tried.append(argument)

    async with Walking(engine, MemoryJournal(before_commit=note)) as walking:
        first = await walking.conductor.submit(walking.run(_say(value=1, seconds=0.05), idempotency_key="k"))
        again = await walking.conductor.submit(walking.run(_say(value=1, seconds=0.05), idempotency_key="k"))
        assert again.run_id == first.run_id
        await walking.ends.of(first.run_id)
    assert len(tried) == len(await walking.journal.frames(first.run_id)) - 1  # no other walker had to be fenced


async def test_a_cancel_that_comes_with_the_run_is_carried_out(engine: Engine) -> None:
    journal = MemoryJournal()

    async def at_once(name: str, run: Any) -> None:
        if name == "begin":
            await journal.post(Command(id="cmd_1", run_id=run.run_id, name="cancel", at=now_ms()))

    journal.after_commit = at_once
    async with Walking(engine, journal, poll_s=0.05) as walking:
        row = await walking.conductor.submit(walking.run(_say(value=1, seconds=LONG_S)))
        [end] = await walking.ends.of(row.run_id)
        assert isinstance(end, RunCancelled)


async def test_a_run_submitted_to_a_conductor_that_has_not_begun_waits_for_it(engine: Engine) -> None:
    walking = Walking(engine, MemoryJournal())
    row = await walking.conductor.submit(walking.run(_say(value=1)))
    assert row.owner is None
    async with walking:
        [end] = await walking.ends.of(row.run_id)
        assert isinstance(end, RunCompleted)
