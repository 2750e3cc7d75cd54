"""What is under way: one `Flight` per region, and which stages and items it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flowmason.dispatch import Load
from flowmason.ids import StagePath
from flowmason.ledger import lost as lost_call
from flowmason.report import Ended, Region, Report
from flowmason.state import ForeachState, Role, ScopeState, StageState
from flowmason.usage import Amount, Call, total, used

Ranges = list[tuple[int, int]]
Hear = Callable[["Flight", Report], None]


@dataclass(slots=True, eq=False)
class Flight:
    """A region that was submitted and has not ended."""

    region: Region
    load: Load
    heard: float
    """When something was last heard of it (loop time)."""
    patience: float
    """Seconds of silence after which it is ended by force."""
    shares: bool = False
    """Whether regions of other runs may travel in the same task."""
    reserved: bool = False
    """Whether room is being kept for it."""
    company: bool = False
    """Whether regions of other runs do travel in the same task: should it be lost, any of them may be to blame."""
    hear: Hear | None = None
    landed: bool = False
    """Whether nothing more will be heard of it."""
    waiter: asyncio.Future[None] | None = None
    cancelling: bool = False
    timed_out: bool = False
    released: bool = False
    running: tuple[StagePath, ...] = ()
    ended: Ended | None = None
    spent: dict[tuple[StagePath, int], dict[int, Call]] = field(default_factory=dict)
    """Model calls of attempts that have not ended, by number."""

    def calls(self, path: StagePath, attempt: int, *, lost: bool = False) -> tuple[Call, ...]:
        """What is known of the model calls of an attempt that its worker reports no end of.

        One that was `lost` may have used all that it was allowed: the rest of its allowance is noted as used.
        """
        known = self.spent.get((path, attempt), {})
        found = tuple(known[n] for n in sorted(known))
        limit = self.region.allowance
        if not lost or limit is None:
            return found
        rest = limit.less(used(total(found))).amount
        if rest.nanodollars <= 0 and rest.tokens <= 0:
            return found
        return (*found, lost_call(rest.most(Amount())))

    @property
    def effect(self) -> StageState | None:
        """The stage with an effect that it carries."""
        return self.load.stages[0] if self.region.effect else None

    @property
    def deep(self) -> bool:
        """Whether it may run stages that are not named in its load: those of bodies."""
        return bool(self.load.items) or any(stage.stage.body is not None for stage in self.load.stages)

    def wanted(self) -> bool:
        """Whether anything that it may still report would be admitted."""
        if any(not stage.ended and stage.scope.doomed is None for stage in self.load.stages):
            return True
        return any(
            isinstance(owner.body, ForeachState) and owner.body.doomed is None and not owner.ended
            for owner, _ in self.load.items
        )

    def suspects(self) -> set[StagePath]:
        """What may have killed its worker: what it was running, or all it had not ended."""
        if self.running or self.released:
            return set(self.running)
        return {stage.path for stage in self.load.stages if not stage.ended}

    def idle(self) -> bool:
        """Whether it only waits for its task to end: its time is over, and what it was running has ended."""
        here = {stage.path: stage for stage in self.load.stages}
        return self.released and all(path in here and here[path].ended for path in self.running)


@dataclass(slots=True)
class Flights:
    """All regions of one run that are under way."""

    by_id: dict[str, Flight] = field(default_factory=dict)
    held: set[StagePath] = field(default_factory=set)
    """Stages that a flight may still run: they are not dispatched again."""
    busy: dict[StagePath, set[int]] = field(default_factory=dict)
    """Of a foreach: items that released flights are still running."""
    suspects: set[StagePath] = field(default_factory=set)
    """Stages that were in a lost region: each travels alone from then on."""
    narrow: dict[StagePath, int] = field(default_factory=dict)
    """Of a foreach whose region was lost: how many items may travel together."""

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, flight: Flight) -> None:
        """A region was submitted."""
        self.by_id[flight.region.id] = flight
        self.held.update(stage.path for stage in flight.load.stages)

    def release(self, flight: Flight, report: Report) -> None:
        """The region starts nothing more: what it does not run is free again."""
        if flight.released:
            return
        flight.released = True
        flight.running = report.running
        for stage in flight.load.stages:
            self.held.discard(stage.path)
        for path in report.running:
            self.held.add(path)
            for owner, index in _items(path):
                self.busy.setdefault(owner, set()).add(index)

    def remove(self, flight: Flight) -> None:
        """The region ended; what it held is free again."""
        self.by_id.pop(flight.region.id, None)
        for path in flight.running if flight.released else [stage.path for stage in flight.load.stages]:
            self.held.discard(path)
        if flight.released:
            for path in flight.running:
                for owner, index in _items(path):
                    self.busy.get(owner, set()).discard(index)

    def covers(self, stage: StageState) -> bool:
        """Whether some flight may be about to run the stage."""
        if stage.path in self.held:
            return True
        scope: ScopeState | None = stage.scope
        while scope is not None and scope.owner is not None:
            owner = scope.owner
            if owner.path in self.held:
                return True
            if scope.role is Role.ITEM and self._has_item(owner, scope.position):
                return True
            scope = owner.scope
        return False

    def _has_item(self, owner: StageState, index: int) -> bool:
        for flight in self.by_id.values():
            if not flight.released:
                for other, ranges in flight.load.items:
                    if other is owner and any(start <= index < stop for start, stop in ranges):
                        return True
        return False

    @property
    def slots(self) -> int:
        """How many stages all of them may run at once."""
        return sum(len(each.running) if each.released else each.region.slots for each in self.by_id.values())

    def items_under_way(self, owner: StageState) -> int:
        """How many items of a foreach may be running now, whoever runs them."""
        body = owner.body
        assert isinstance(body, ForeachState)
        count, spans = 0, []
        for flight in self.by_id.values():
            if not flight.released:
                own = [span for other, ranges in flight.load.items if other is owner for span in ranges]
                count += min(flight.region.slots, sum(body.done.count(0, start, stop) for start, stop in own))
                spans += own
        # Items that a region left half done, and those that released regions are still at.
        rest = {index for index, scope in body.open.items() if not scope.closed}
        rest.update(index for index in self.busy.get(owner.path, ()) if not body.done[index])
        return count + sum(not any(start <= index < stop for start, stop in spans) for index in rest)

    def waiting(self, owner: StageState) -> Ranges:
        """Items of a foreach that have not ended and that no flight runs."""
        body = owner.body
        assert isinstance(body, ForeachState)
        if owner.path in self.held:
            return []
        taken = [(index, index + 1) for index in self.busy.get(owner.path, ())]
        for flight in self.by_id.values():
            if not flight.released:
                taken.extend(span for other, ranges in flight.load.items if other is owner for span in ranges)
        taken.sort()
        return [span for gap in body.gaps() for span in _without(gap, taken)]


def take(ranges: Ranges, count: int) -> tuple[Ranges, Ranges]:
    """The first `count` items of `ranges`, and the rest."""
    taken: Ranges = []
    rest: Ranges = []
    for start, stop in ranges:
        room = min(count, stop - start)
        if room:
            taken.append((start, start + room))
            count -= room
        if start + room < stop:
            rest.append((start + room, stop))
    return taken, rest


def _items(path: StagePath) -> Iterable[tuple[StagePath, int]]:
    for position, segment in enumerate(path):
        if isinstance(segment, int):
            yield path[:position], segment


def _without(gap: tuple[int, int], taken: Ranges) -> Ranges:
    """`gap` without what the sorted ranges `taken` cover."""
    found = []
    at, stop = gap
    for low, high in taken:
        if high <= at or low >= stop:
            continue
        if at < low:
            found.append((at, low))
        at = max(at, high)
    if at < stop:
        found.append((at, stop))
    return found
