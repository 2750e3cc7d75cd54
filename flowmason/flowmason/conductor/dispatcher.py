"""From what may start to flights, within the room there is. Decides nothing about the run itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flowmason import event as ev
from flowmason.allowing import Allowed, Held, allow
from flowmason.conductor.flights import Flight, Flights, take
from flowmason.conductor.treasury import RunMoney
from flowmason.debug import Gate
from flowmason.dispatch import Load, is_cheap, is_effect, pieces, placement, region_id, region_name, share
from flowmason.errors import Code, Failure
from flowmason.executor import Executor
from flowmason.ids import OrgId, StagePath, format_path
from flowmason.plan import Kind
from flowmason.policy import CANCEL_GRACE_S, Placement, Resources
from flowmason.report import Region
from flowmason.state import ForeachState, RunState, StageState
from flowmason.usage import Amount

REGION_SLOTS = 256
SMALLEST_SHARE = 16
LARGEST_SHARE = 4096


@dataclass(slots=True)
class Room:
    """How many more regions may be submitted now."""

    tasks: int
    hosts: int

    def of(self, where: Placement) -> int:
        """The room there."""
        return self.tasks if where is Placement.TASK else self.hosts

    def take(self, where: Placement) -> None:
        """One region goes there."""
        if where is Placement.TASK:
            self.tasks -= 1
        else:
            self.hosts -= 1


@dataclass(slots=True)
class Dispatched:
    """What one round of dispatching asks for."""

    events: list[ev.StageEvent] = field(default_factory=list)
    """Starts of effects (and refusals), to be committed before the effects are submitted."""
    pure: list[Flight] = field(default_factory=list)
    """May be submitted at once."""
    effects: list[Flight] = field(default_factory=list)
    """Only after the commit."""
    stops: list[ev.Event] = field(default_factory=list)
    """Of a run that is debugged: what breakpoints and steps make of what was ready."""
    grow: Amount | None = None
    """How much more of its org's budget a stage waits for."""
    short: set[Placement] = field(default_factory=set)
    """Where there was no room for more."""


class Dispatcher:
    """Chooses what a run sends out next."""

    def __init__(
        self,
        state: RunState,
        flights: Flights,
        executor: Executor,
        org_id: OrgId,
        gate: Gate,
        money: RunMoney | None = None,
    ) -> None:
        self.ready: dict[StagePath, StageState] = {}
        self.loops: dict[StagePath, StageState] = {}
        self.size = SMALLEST_SHARE
        self.lone = bool(state.options.get("lone_stages"))
        self._state = state
        self._flights = flights
        self._executor = executor
        self._org_id = org_id
        self._gate = gate
        self._money = money
        self._counter = 0
        self._looked_at = 0
        self._budget_ms = float(state.options.get("region_ms") or 20.0)

    def offer(self, stages: Iterable[StageState]) -> None:
        """Stages became ready."""
        for stage in stages:
            self.ready[stage.path] = stage

    def learn(self, flight: Flight, in_time: bool) -> None:
        """A region ended: shares double while regions end in time, and shrink when they do not."""
        if self.lone or flight.region.effect:
            return
        self.size = min(self.size * 2, LARGEST_SHARE) if in_time else max(self.size // 2, SMALLEST_SHARE)

    def open_items(self) -> None:
        """Open items of loops that are not sent out whole, as many as the loop allows at once."""
        for path, owner in list(self.loops.items()):
            body = owner.body
            if owner.ended or not isinstance(body, ForeachState) or body.doomed is not None or self._gone(owner):
                del self.loops[path]
                continue
            if owner.stage.pure and not self._cut(owner):
                continue
            if owner.stage.pure:
                # Regions that were sent out before the run was to stop here may still be at some.
                under_way, waiting = self._flights.items_under_way(owner), self._flights.waiting(owner)
            else:
                under_way, waiting = sum(not scope.closed for scope in body.open.values()), body.gaps()
            room = body.width - under_way
            if room <= 0:
                continue
            for start, stop in waiting:
                for index in range(start, min(stop, start + room)):
                    self._state.open_item(owner, index)
                    room -= 1
                if room <= 0:
                    break

    def dispatch(self, room: Room, now: int, clock: float) -> Dispatched:
        """Plan the next flights. `now` in ms, `clock` in loop seconds."""
        self._looked_at = now
        done = Dispatched()
        cheap: dict[Placement, list[StageState]] = {Placement.TASK: [], Placement.HOST: []}
        ready: list[StageState] = []
        for path, stage in list(self.ready.items()):
            if not stage.ready or self._gone(stage):
                del self.ready[path]
            elif stage.not_before <= now and not self._flights.covers(stage):
                ready.append(stage)
        if self._gate.active:
            ready, done.stops = self._gate.sift(ready)
        for stage in ready:
            if is_cheap(stage) and stage.path not in self._flights.suspects:
                cheap[placement(stage)].append(stage)
            else:
                self._one(stage, room, clock, done)
            if done.events and isinstance(done.events[-1], ev.StageFailed):
                done.stops = []  # what it brings down with it must not be started any more, and nothing stops there
                return done
        for where, stages in cheap.items():
            if stages:
                self._share(stages, where, room, clock, done)
        for owner in self.loops.values():
            if owner.stage.pure and not self._cut(owner):
                self._items(owner, room, clock, done)
        return done

    def _gone(self, stage: StageState) -> bool:
        """Whether the body that the stage was in has been thrown away: its owner was run again from the start."""
        return self._state.stages.get(stage.path) is not stage

    def _cut(self, owner: StageState) -> bool:
        """Whether the run may have to stop in the body of a stage: its stages are sent out one by one."""
        return self._gate.active and self._gate.shallow(owner)

    def next_at(self) -> int | None:
        """The earliest `not_before` (ms) of what waits for its time; None where nothing does.

        What was due when `dispatch` last looked waits for a place, and is told when there is one.
        """
        times = (stage.not_before for stage in self.ready.values())
        return min((time for time in times if time > self._looked_at), default=None)

    def _left(self) -> int | None:
        """How many more stages `max_concurrency` allows at once; None: it does not limit them."""
        limit = self._state.plan.max_concurrency or self._state.options.get("max_concurrency")
        return max(0, int(limit) - self._flights.slots) if limit else None

    def _one(self, stage: StageState, room: Room, clock: float, done: Dispatched) -> None:
        where = placement(stage)
        refusal = self._executor.infeasible(where, stage.stage.resources)
        if refusal is not None:
            failure = Failure(
                code=Code.INFEASIBLE_RESOURCES,
                message=f"no worker can ever run this stage: {refusal}",
                stage=format_path(stage.path),
            )
            done.events.append(ev.StageFailed(path=stage.path, attempt=stage.attempt, failure=failure))
            return
        if self._left() == 0:
            return
        if room.of(where) < 1:
            done.short.add(where)
            return
        effect = is_effect(stage)
        allowed = Allowed()
        slice_ = self._money.slice if self._money is not None else None
        if effect and (self._state.capped or slice_ is not None):
            found = allow(self._state, stage, slice_)
            if isinstance(found, Failure):
                done.events.append(ev.StageFailed(path=stage.path, attempt=stage.attempt, failure=found))
                return
            if isinstance(found, Held):
                if slice_ is not None:
                    slice_.waited_for = True
                if found.grow is not None:
                    done.grow = found.grow if done.grow is None else done.grow.most(found.grow)
                return  # it is looked at again whenever something has ended
            allowed = found
        room.take(where)
        load = Load([stage])
        flight = self._flight(
            load, where, clock, effect=effect, slots=1, resources=stage.stage.resources, allowed=allowed
        )
        if effect:
            if allowed.allowance is not None:  # what follows in this round finds it reserved
                keys = self._state.budgets(stage)
                self._state.purse.reserve((stage.path, stage.attempt), keys, allowed.allowance)
                if self._money is not None:
                    self._money.reserve((stage.path, stage.attempt), allowed.allowance.amount)
            done.events.append(
                ev.StageStarted(
                    path=stage.path,
                    attempt=stage.attempt,
                    epoch=self._state.epoch,
                    round=stage.round,
                    allowance=allowed.allowance,
                    fallback=allowed.fallback,
                )
            )
            done.effects.append(flight)
        else:
            done.pure.append(flight)

    def _share(self, cheap: list[StageState], where: Placement, room: Room, clock: float, done: Dispatched) -> None:
        free = room.of(where)
        if free < 1:
            done.short.add(where)
            return
        # A host is one process: what it overlaps gains nothing by being divided further than its slots ask for.
        regions = free if where is Placement.TASK else min(free, -(-len(cheap) // REGION_SLOTS))
        left = self._left()
        if left is not None:
            # What others run under the same limit keeps its part of what waits.
            cheap = cheap[: -(-len(cheap) * left // (left + self._flights.slots))]
            regions = min(regions, left)
        if regions < 1:
            return
        taken = set(self._flights.held)
        ahead = self._gate.free if self._gate.active else None
        loads = share(cheap, regions, 1 if self.lone else self.size, taken, ahead)
        for number, load in enumerate(loads):
            slots = REGION_SLOTS
            if left is not None:
                slots = min(slots, left // len(loads) + (number < left % len(loads)))
            room.take(where)
            flight = self._flight(load, where, clock, slots=slots, bounded=left is not None)
            flight.shares = where is Placement.TASK and not self.lone and left is None
            done.pure.append(flight)
        if room.of(where) < 1 and any(stage.path not in taken for stage in cheap):
            done.short.add(where)

    def _items(self, owner: StageState, room: Room, clock: float, done: Dispatched) -> None:
        body = owner.body
        if owner.ended or not isinstance(body, ForeachState) or body.doomed is not None:
            return
        if owner.scope.doomed is not None or self._flights.covers(owner):
            return
        left = self._left()
        free = body.width - self._flights.items_under_way(owner)
        free = free if left is None else min(free, left)
        if free < 1:
            return
        waiting = self._flights.waiting(owner)
        total = sum(stop - start for start, stop in waiting)
        if not total:
            return
        if room.tasks < min(free, total):
            done.short.add(Placement.TASK)
        if room.tasks < 1:
            return
        regions = min(room.tasks, free, total)
        most = self._flights.narrow.get(owner.path, total)
        for number in range(regions):
            count = min(-(-total // regions), most)
            taken, waiting = take(waiting, count)
            if not taken:
                return
            room.tasks -= 1
            load = Load(items=[(owner, tuple(taken))])
            slots = free // regions + (number < free % regions)
            slots = min(slots, REGION_SLOTS)
            done.pure.append(self._flight(load, Placement.TASK, clock, slots=slots, bounded=True))

    @property
    def _limited(self) -> bool:
        """Whether anything of the run, or its org, is under a budget."""
        return self._state.capped or (self._money is not None and self._money.slice is not None)

    def _flight(
        self,
        load: Load,
        where: Placement,
        clock: float,
        *,
        effect: bool = False,
        slots: int,
        resources: Resources = Resources(),  # noqa: B008 - frozen
        attach: bool = False,
        bounded: bool = False,
        allowed: Allowed = Allowed(),  # noqa: B008 - frozen
    ) -> Flight:
        state = self._state
        self._counter += 1
        name = region_id(state, load.stages[0]) if effect else f"{state.run_id}/{state.epoch}/{self._counter}"
        region = Region(
            id=name,
            run_id=state.run_id,
            org_id=self._org_id,
            epoch=state.epoch,
            plan=state.plan.id,
            pieces=pieces(load),
            name=region_name(state.pipeline[0], load),
            placement=where,
            effect=effect,
            attach=attach,
            resources=resources,
            slots=slots,
            bounded=bounded,
            shallow=self._gate.active and any(self._gate.shallow(stage) for stage in load.stages),
            debugged=self._gate.active,
            capped=allowed.allowance is not None or (not effect and self._limited),
            allowance=allowed.allowance,
            fallback=allowed.fallback,
            budget_ms=self._budget_ms,
            options=worker_options(state.options),
            **_wants(load),
        )
        flight = Flight(region, load, clock, patience(load))
        self._flights.add(flight)
        return flight

    def attach(self, stage: StageState, clock: float) -> Flight:
        """A flight that looks for the call of an effect which an earlier conductor started."""
        reserved = self._state.purse.open.get((stage.path, stage.attempt), (None, ()))[0]
        return self._flight(
            Load([stage]),
            placement(stage),
            clock,
            effect=True,
            slots=1,
            resources=stage.stage.resources,
            attach=True,
            allowed=Allowed(reserved, stage.cheaper),
        )


def _wants(load: Load) -> dict[str, Any]:
    """What of an org's secrets a region is for. What travels with others is pure, and pure components get none."""
    if len(load.stages) != 1 or load.items:
        return {}
    stage = load.stages[0]
    ref = stage.scope.plan.components.get(stage.stage.component)
    if ref is None:
        return {}
    return {"secrets": ref.secrets, "models": bool(ref.models) or stage.stage.kind is Kind.NODE}


def patience(load: Load) -> float:
    """Seconds of silence after which a region is taken for stuck: its longest timeout and a grace."""
    longest = max((stage.stage.timeout_ms for stage in load.stages), default=0)
    for stage in [*load.stages, *(owner for owner, _ in load.items)]:
        if stage.stage.body is None:
            continue
        for scope in stage.stage.scopes:
            longest = max([longest, *(inner.timeout_ms for inner in scope.stages)])
    return longest / 1000 + 2 * CANCEL_GRACE_S


def worker_options(options: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's options that workers need."""
    return {key: options[key] for key in ("provider", "trace_id", "kept_answers_s") if key in options}
