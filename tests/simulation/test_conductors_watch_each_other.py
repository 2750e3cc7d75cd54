"""Who is taken for dead: by virtual time, which is as long as it has to be."""

from __future__ import annotations

import asyncio
import random

import pytest

from flowmason.conductor import Conductor
from flowmason.ids import Ids
from flowmason.journal_memory import MemoryJournal
from simulation.late import Office
from simulation.virtual import run_virtual
from simulation.world import SimExecutor, World


class Pool:
    """Two conductors of one journal, which goes away for `away_s` just before the second one would beat."""

    def __init__(self, away_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.journal = MemoryJournal()
        self._outage = (loop.time() + 28.5, loop.time() + 28.5 + away_s)
        self._ids = Ids(loop.time, random.Random(1))
        self.conductors = [self._begin() for _ in range(2)]
        self.tasks = [loop.create_task(self._run(each, after_s)) for after_s, each in enumerate(self.conductors)]

    def _begin(self) -> Conductor:
        world = World(1, trouble=False)
        return Conductor(
            journal=Office(self.journal, None, self._outage).journal,
            values=world.values,
            executor=SimExecutor(world),
            now=lambda: int(asyncio.get_running_loop().time() * 1000),
            ids=self._ids,
            rng=random.Random(1),
        )

    async def _run(self, conductor: Conductor, after_s: float) -> None:
        await asyncio.sleep(after_s)  # they beat in turns
        await conductor.run()

    async def alive(self) -> list[bool]:
        """Which of the two are listed and at work."""
        listed = await self.journal.beats()
        pairs = zip(self.conductors, self.tasks, strict=True)
        return [each.id in listed and not task.done() for each, task in pairs]

    async def stop(self) -> None:
        for each in self.conductors:
            each.stop()
        await asyncio.wait(self.tasks)


def test_nobody_is_taken_for_dead_because_the_store_was_away_for_all(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[bool]:
        pool = Pool(away_s=41)  # and comes back just before the first one beats
        await asyncio.sleep(120)
        found = await pool.alive()
        await pool.stop()
        return found

    assert run_virtual(main()) == [True, True]
    said = [record.getMessage() for record in caplog.records]
    assert said.count("cannot claim runs: the store is away") == 2, "each says it once"


def test_who_is_silent_for_ten_seconds_is_taken_for_dead() -> None:
    async def main() -> tuple[list[bool], list[bool]]:
        pool = Pool(away_s=0)
        await asyncio.sleep(20)
        pool.tasks[1].cancel()
        pool.conductors[1].journal = MemoryJournal()  # it cannot say goodbye
        await asyncio.sleep(8)
        soon = [each.id in await pool.journal.beats() for each in pool.conductors]
        await asyncio.sleep(8)
        late = [each.id in await pool.journal.beats() for each in pool.conductors]
        await pool.stop()
        return soon, late

    assert run_virtual(main()) == ([True, True], [True, False])
