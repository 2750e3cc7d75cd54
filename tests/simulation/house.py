"""The conductors of a simulated world: they crash, are taken for dead, are replaced, and work side by side."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from flowmason.conductor import Conductor
from flowmason.errors import Code, FlowMasonError
from flowmason.ids import ConductorId, Ids, RunId
from flowmason.journal_memory import MemoryJournal
from simulation.late import Office
from simulation.world import SimExecutor, World


class Crash(BaseException):
    """The conductor's process dies here."""


class Process:
    """One process with a conductor."""

    def __init__(
        self, conductor: Conductor, office: Office, executor: SimExecutor, visit: Coroutine[Any, Any, None]
    ) -> None:
        self.conductor = conductor
        self.office = office
        self.executor = executor
        self.task = asyncio.get_running_loop().create_task(conductor.run())
        self.visit = asyncio.get_running_loop().create_task(visit)
        self.drains: asyncio.Task[None] | None = None

    def kill(self) -> None:
        """As by SIGKILL: nothing of it writes, sends or ends anything any more."""
        self.office.dead = True
        self.executor.die()
        inside: list[asyncio.Task[Any]] = [self.task, self.visit, *self.conductor._tasks.values()]
        for task in [*inside, *self.conductor._submitting, *([self.drains] if self.drains else [])]:
            task.cancel()


class House:
    """Keeps one conductor at work, in some worlds two, whatever becomes of them."""

    def __init__(
        self,
        seed: int,
        journal: MemoryJournal,
        world: World,
        ids: Ids,
        now: Callable[[], int],
        *,
        trouble: bool,
        visitor: Callable[[Conductor], Coroutine[Any, Any, None]],
    ) -> None:
        self.crashes = 0
        self.problems: list[str] = []
        """What went wrong inside of conductors."""
        self._seed, self._journal, self._world, self._ids, self._now = seed, journal, world, ids, now
        self._trouble, self._visitor = trouble, visitor
        self.handed: dict[RunId, ConductorId] = {}
        """Runs that were handed to a conductor, and to which."""
        self.over = False
        """Nobody comes any more."""
        self._rng = random.Random(f"{seed}/house")
        self._wanted = self._rng.choice((1, 1, 2)) if trouble else 1
        begun = asyncio.get_running_loop().time() + self._rng.random() * 10
        self._outage = (begun, begun + (self._rng.choice((5, 40, 90)) if trouble and self._rng.random() < 0.1 else 0))
        self._living: list[Process] = []
        self._left_behind: list[Process] = []
        """Those that were only taken for dead: they go on beside whoever adopts their runs."""
        self._begun = 0
        self.fallen: tuple[ConductorId, bool] | None = None
        """Who crashed just now, and whether it was only taken for dead."""
        self._fell = asyncio.Event()

    def fell(self, conductor: str, *, taken_for_dead: bool) -> bool:
        """A conductor crashes now. True: nobody but the others sees that it does."""
        self.crashes += 1
        self.fallen = (ConductorId(conductor), taken_for_dead)
        self._fell.set()
        return taken_for_dead

    @property
    def visited(self) -> bool:
        """Whether somebody may still hand a conductor a run."""
        return any(not each.visit.done() for each in (*self._living, *self._left_behind))

    async def until(self, over: Coroutine[Any, Any, None]) -> None:
        """Keep conductors at work until `over` returns."""
        loop = asyncio.get_running_loop()
        waiting = loop.create_task(over)
        while not waiting.done() or self._fell.is_set():
            while len(self._living) < self._wanted:
                self._living.append(self._begin())
            fell = loop.create_task(self._fell.wait())
            await asyncio.wait(
                [waiting, fell, *(each.task for each in self._living)], return_when=asyncio.FIRST_COMPLETED
            )
            fell.cancel()
            if self._fell.is_set():
                await self._bury()
            for each in [each for each in self._living if each.task.done()]:
                self._gone(each)

    async def close(self) -> None:
        """All stop in good order, with nothing left over."""
        for each in self._living:
            await self._idle(each.conductor)
        everyone = [*self._living, *self._left_behind]
        for each in everyone:
            each.conductor.stop()
        if everyone:
            await asyncio.wait([each.task for each in everyone], timeout=600)
        for each in everyone:
            assert each.task.done(), "a conductor that was told to stop went on for ever"
            self._gone(each)
        for conductor, (beat, _, _) in (await self._journal.beats()).items():
            await self._journal.bury(conductor, beat)  # it could not say goodbye

    async def _idle(self, conductor: Conductor) -> None:
        """Once no run is left to walk, nothing is held for any: no slot, no place in a line, no part of a budget."""
        for _ in range(200):
            await asyncio.sleep(0.5)
            left = _left(conductor)
            if conductor._stopping or not left:
                return
        self.problems.append(f"an idle conductor still holds {left}")

    def _begin(self) -> Process:
        self._begun += 1
        rng = random.Random(f"{self._seed}/office/{self._begun}") if self._trouble else None
        office, executor = Office(self._journal, rng, self._outage), SimExecutor(self._world)
        conductor = Conductor(
            journal=office.journal,
            values=self._world.values,
            executor=executor,
            now=self._now,
            ids=self._ids,
            rng=random.Random(f"{self._seed}/conductor"),
        )
        made = Process(conductor, office, executor, self._visitor(conductor))
        if self._trouble and self._rng.random() < 0.2:
            made.drains = asyncio.get_running_loop().create_task(self._drain(conductor))
        return made

    async def _drain(self, conductor: Conductor) -> None:
        """Somebody replaces it in good order, after a while."""
        await asyncio.sleep(self._rng.random() * self._rng.choice((0.1, 1.0, 10.0)))
        await conductor.drain(self._rng.choice((0.0, 0.5, 10.0)))

    async def _bury(self) -> None:
        assert self.fallen is not None
        (conductor, taken_for_dead), self.fallen = self.fallen, None
        self._fell.clear()
        for each in [each for each in self._living if each.conductor.id == conductor]:
            self._living.remove(each)
            if taken_for_dead:
                self._left_behind.append(each)
                if self._rng.random() < 0.3:
                    asyncio.get_running_loop().call_later(self._rng.random() * 2, each.kill)
            else:
                each.kill()
        beat = (await self._journal.beats()).get(conductor)
        if beat is not None:
            await self._journal.bury(conductor, beat[0])

    def _gone(self, process: Process) -> None:
        if process in self._living:
            self._living.remove(process)
        if process.drains is not None:
            process.drains.cancel()
        error = None if process.task.cancelled() else process.task.exception()
        if error is not None and not isinstance(error, FlowMasonError):
            self.problems.append(f"a conductor failed: {error!r}")
        for run_id, failure in process.conductor.failures.items():
            if failure.failure.code == Code.INTERNAL and "Crash" not in str(failure):
                self.problems.append(f"the walker of {run_id} failed: {failure}")


def _left(conductor: Conductor) -> dict[str, Any]:
    traffic, treasury = conductor.traffic, conductor.treasury
    found = {
        "runs": list(conductor._tasks),
        "walkers": list(conductor.walkers),
        "given up": dict(conductor._given_up),
        "slots": {where: count for where, count in traffic._taken.items() if count},
        "of orgs": dict(traffic._held),
        "in line": {where: runs for where, runs in traffic._awaiting.items() if runs},
        "invited": dict(traffic._invited),
        "coming": {org: count for org, count in traffic._coming.items() if count},
        "batches": list(traffic._batches),
        "users": {org: count for org, count in treasury._users.items() if count},
        "slices": {**treasury._slices, **dict.fromkeys(treasury._owed)},
    }
    return {name: each for name, each in found.items() if each}
