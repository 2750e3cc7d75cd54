"""Regions on their way: how many more fit, which of them share a task, and who hears what becomes of them.

Small pure regions of several runs of one org travel together: sending one costs as much as sending fifty. How
many share a task is learned as the size of a region is: it grows while they end in their time and falls when
something comes back unstarted.

Where there is no room for all, the next free slot is for the org that has the least under way, and of its runs for the
one that asked first: an org with a thousand runs at work does not make one with three wait for all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

from flowmason.conductor.dispatcher import Room
from flowmason.conductor.flights import Flight
from flowmason.errors import Code, Failure, FlowMasonError
from flowmason.executor import Executor
from flowmason.ids import OrgId, RunId
from flowmason.policy import Placement
from flowmason.report import Ended, Region, Report

FIRST_CROWD = 16
LARGEST_CROWD = 128


class _Batch:
    """Regions that share a task."""

    def __init__(self, flights: Sequence[Flight]) -> None:
        self.flights = flights
        self.open = {flight.region.id: flight for flight in flights}
        self.late = False
        self.task: asyncio.Task[None] | None = None


class Traffic:
    """All that one conductor has sent to its executor. `nudge` wakes the walker of a run, if it has one."""

    def __init__(self, executor: Executor, nudge: Callable[[RunId], bool]) -> None:
        self.crowd = FIRST_CROWD
        """How many regions may share a task."""
        self._executor = executor
        self._nudge = nudge
        self._taken = {Placement.TASK: 0, Placement.HOST: 0}
        self._held: Counter[OrgId] = Counter()
        """What is taken, by org."""
        self._awaiting: dict[Placement, dict[OrgId, dict[RunId, None]]] = {Placement.TASK: {}, Placement.HOST: {}}
        self._turns: dict[OrgId, int] = {}
        """When an org that waits was last invited: at equal parts they take turns."""
        self._turn = 0
        self._invited: dict[RunId, OrgId] = {}
        """Nudged because there was room, and not yet heard of."""
        self._coming: Counter[OrgId] = Counter()
        """How many of those an org has."""
        self._gathering: dict[OrgId, list[Flight]] = {}
        """What leaves at the end of this turn of the loop."""
        self._batches: dict[Flight, _Batch] = {}
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether anything is on its way, or about to leave."""
        return any(self._taken.values()) or any(self._gathering.values())

    def close(self) -> None:
        """From now on there is no room."""
        self._closed = True

    # -- room ------------------------------------------------------------------------------------

    def room(self, run_id: RunId, org_id: OrgId) -> Room:
        """How many more regions of a run fit. Of tasks no more than there are free slots, though many may share one."""
        capacity = self._executor.capacity()
        hosts = max(0, capacity.host_slots - self._taken[Placement.HOST])
        return Room(self._tasks_for(org_id, capacity.task_slots, run_id), hosts)

    def _tasks_for(self, org_id: OrgId, slots: int, run_id: RunId | None = None) -> int:
        """How many tasks one more run of an org may fill or join; `run_id` is that run, if it was invited."""
        coming = {org: len(flights) for org, flights in self._gathering.items()}
        for run, org in self._invited.items():
            if run != run_id:
                coming[org] = coming.get(org, 0) + 1
        own = coming.pop(org_id, 0)
        free = slots - self._taken[Placement.TASK] - sum(-(-count // self.crowd) for count in coming.values())
        return max(0, min(free, free * self.crowd - own))

    def await_room(self, run_id: RunId, org_id: OrgId, placements: AbstractSet[Placement]) -> None:
        """Nudge the run's walker once there is room in these, and for no other: what it wanted there is settled.

        Of an org, who asked first comes first.
        """
        for placement, waiting in self._awaiting.items():
            if placement in placements:
                waiting.setdefault(org_id, {}).setdefault(run_id)
            else:
                self._settled(waiting, org_id, run_id)

    def leave(self, run_id: RunId, org_id: OrgId) -> None:
        """The run wants nothing more: room that was kept for it is offered to others at once."""
        self.await_room(run_id, org_id, frozenset())
        self.offer_room(run_id)

    def offer_room(self, run_id: RunId | None = None) -> None:
        """Nudge as many of the walkers that wait for room as there is room. `run_id` has taken what it wanted."""
        if run_id is not None and (org_id := self._invited.pop(run_id, None)) is not None:
            self._coming[org_id] -= 1
        capacity = self._executor.capacity()
        hosts = capacity.host_slots - self._taken[Placement.HOST] - len(self._invited)
        waiting = self._awaiting[Placement.HOST]
        while hosts > 0 and waiting:
            hosts -= self._invite(waiting, self._next(waiting))
        waiting = self._awaiting[Placement.TASK]
        full: set[OrgId] = set()
        while self._taken[Placement.TASK] < capacity.task_slots and (orgs := waiting.keys() - full):
            org = self._next(orgs)
            if self._tasks_for(org, capacity.task_slots) > 0:
                self._invite(waiting, org)
            else:
                full.add(org)
        if not any(self._awaiting.values()):
            self._turns.clear()
            self._coming = +self._coming

    def _next(self, orgs: Iterable[OrgId]) -> OrgId:
        """Whose turn it is."""
        return min(orgs, key=lambda org: (self._held[org] + self._coming[org], self._turns.get(org, 0), org))

    def _invite(self, waiting: dict[OrgId, dict[RunId, None]], org_id: OrgId) -> bool:
        run_id = next(iter(waiting[org_id]))
        self._settled(waiting, org_id, run_id)
        if not self._nudge(run_id):
            return False
        if run_id not in self._invited:
            self._invited[run_id] = org_id
            self._coming[org_id] += 1
        self._turn += 1
        self._turns[org_id] = self._turn
        return True

    def _settled(self, waiting: dict[OrgId, dict[RunId, None]], org_id: OrgId, run_id: RunId) -> None:
        runs = waiting.get(org_id, {})
        runs.pop(run_id, None)
        if not runs:
            waiting.pop(org_id, None)

    def _take(self, region: Region) -> None:
        self._taken[region.placement] += 1
        self._held[region.org_id] += 1

    def _give_back(self, region: Region) -> None:
        self._taken[region.placement] -= 1
        self._held[region.org_id] -= 1
        if not self._held[region.org_id]:
            del self._held[region.org_id]

    def reserve(self, flights: Sequence[Flight]) -> None:
        """These leave later, each alone: room is kept for them."""
        for flight in flights:
            flight.reserved = True
            self._take(flight.region)

    # -- departures ------------------------------------------------------------------------------

    def send(self, flight: Flight) -> None:
        """Submit a region; its walker hears what becomes of it."""
        if flight.shares and not flight.reserved:
            gathering = self._gathering.setdefault(flight.region.org_id, [])
            gathering.append(flight)
            if len(gathering) == 1 and len(self._gathering) == 1:
                asyncio.get_running_loop().call_soon(self._depart)
            return
        if not flight.reserved:
            self.reserve([flight])
        self._send([flight])

    async def departed(self) -> None:
        """Wait until what was sent in this turn of the loop has left.

        A commit that is begun before that runs beside it, and takes the interpreter from it: work would start later.
        """
        await asyncio.sleep(0)  # it gathers
        await asyncio.sleep(0)  # it leaves

    def _depart(self) -> None:
        """Spread what has gathered over the free slots, in the order in which it came."""
        gathered, self._gathering = {org: flights for org, flights in self._gathering.items() if flights}, {}
        if not gathered:
            return
        counts = {org: -(-len(flights) // self.crowd) for org, flights in gathered.items()}
        spare = self._executor.capacity().task_slots - self._taken[Placement.TASK] - sum(counts.values())
        while spare > 0:
            org = max(gathered, key=lambda org: len(gathered[org]) / counts[org])
            if counts[org] >= len(gathered[org]):
                break
            counts[org] += 1
            spare -= 1
        for org, flights in gathered.items():
            count = counts[org]
            for number in range(count):
                part = flights[number * len(flights) // count : (number + 1) * len(flights) // count]
                self._take(part[0].region)
                self._send(part)

    def _send(self, flights: Sequence[Flight]) -> None:
        batch = _Batch(flights)
        for flight in flights:
            flight.company = len(flights) > 1
            self._batches[flight] = batch
        batch.task = asyncio.get_running_loop().create_task(self._listen(batch))

    async def _listen(self, batch: _Batch) -> None:
        failure = Failure(code=Code.LOST, message="the executor ended without a word")
        try:
            async for report in self._executor.submit([flight.region for flight in batch.flights]):
                batch.late = batch.late or report.released
                flight = batch.open.get(report.region)
                if flight is None:
                    continue
                if report.ended is not None:
                    self._land(batch, flight)
                _tell(flight, report)
        except FlowMasonError as error:
            failure = error.failure
        finally:
            self._give_back(batch.flights[0].region)
            self._learn(batch)
            for flight in list(batch.open.values()):
                self._land(batch, flight)
                _tell(flight, Report(region=flight.region.id, ended=Ended.LOST, failure=failure))
            self.offer_room()

    def _learn(self, batch: _Batch) -> None:
        count = len(batch.flights)
        if not batch.flights[0].shares:
            return
        if batch.late:
            if count > 1:
                self.crowd = min(self.crowd, count // 2)
        elif 2 * count > self.crowd:
            self.crowd = min(LARGEST_CROWD, self.crowd + max(1, self.crowd // 4))

    def _land(self, batch: _Batch, flight: Flight) -> None:
        batch.open.pop(flight.region.id, None)
        self._batches.pop(flight, None)
        flight.landed = True
        if flight.waiter is not None and not flight.waiter.done():
            flight.waiter.set_result(None)

    def abandon(self, flight: Flight) -> None:
        """Nobody hears of the region any more. A task that has no other one is ended."""
        batch = self._batches.get(flight)
        if batch is not None:
            self._land(batch, flight)
            if not batch.open and batch.task is not None:
                batch.task.cancel()
        elif not flight.landed:
            flight.landed = True
            if flight.reserved:
                self._give_back(flight.region)
            elif flight in (gathering := self._gathering.get(flight.region.org_id, [])):
                gathering.remove(flight)


def _tell(flight: Flight, report: Report) -> None:
    if flight.hear is not None:
        flight.hear(flight, report)
