"""One run being walked: fold, ask, dispatch, append, again until it ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

from flowmason import debug
from flowmason import event as ev
from flowmason.conductor.admission import Admission
from flowmason.conductor.commands import answer
from flowmason.conductor.deadlines import Deadlines
from flowmason.conductor.dispatcher import Dispatcher
from flowmason.conductor.endings import ended
from flowmason.conductor.flights import Flight, Flights
from flowmason.conductor.loading import History, take_up
from flowmason.conductor.recording import record
from flowmason.conductor.submit import keep
from flowmason.conductor.summary import summary
from flowmason.conductor.surroundings import Surroundings
from flowmason.conductor.treasury import RunMoney
from flowmason.errors import FencedError, JournalError
from flowmason.event import Recorded
from flowmason.journal import Append, Command, NewRun, RunRow
from flowmason.policy import CANCEL_GRACE_S, Effect, Placement
from flowmason.report import Ended, Report
from flowmason.state import RunState, StageState, Status, decide

log = logging.getLogger("flowmason.conductor")

_EFFECT_EVENTS = (ev.StageStarted, ev.EffectRecorded)


class Walker:
    """Walks one claimed run until it ends, is paused, or is taken away."""

    def __init__(self, conductor: Surroundings, row: RunRow, known: History | None = None) -> None:
        self.row = row
        self.commands: deque[Command] = deque()
        self.state: RunState
        self.flights = Flights()
        self._conductor = conductor
        self._known_history = known
        self._traffic = conductor.traffic
        self._inbox: deque[tuple[Flight, Report]] = deque()
        self._wake = asyncio.Event()
        self.released = False
        """Whether the run was let go in the journal."""
        self._resting = False
        self._answered: list[str] = []
        self._known: set[str] = set()
        """Commands that came in. The inbox may have been read before an answer was committed, and come in after."""
        self._children: list[NewRun] = []
        self._deadlines = Deadlines()
        self._helpers: set[asyncio.Task[None]] = set()
        self._refusals = 0
        self._money: RunMoney | None = None

    def take(self, command: Command) -> bool:
        """Queue a command, unless it came in before."""
        if command.id in self._known:
            return False
        self._known.add(command.id)
        self.commands.append(command)
        return True

    @property
    def at_rest(self) -> bool:
        """Whether all that came in is recorded."""
        return self._resting and not self._inbox

    def nudge(self) -> None:
        """Something happened that the walker should look at."""
        self._wake.set()

    async def walk(self) -> None:
        """Walk. Returns once the run is no longer ours; raises nothing but cancellation."""
        try:
            around, told = self._conductor, self._deadlines.recorded
            self.state, commands = await take_up(around.journal, self.row, around.plans, told, self._known_history)
            for command in commands:
                self.take(command)
            self.state.epoch = self.row.epoch
            values, org_id = self._conductor.values, self.row.org_id
            gate = debug.Gate(self.state, debug.loader(lambda digest: values.get(org_id, digest)))
            self._money = await self._conductor.treasury.enter(org_id, self.state)
            self._dispatcher = Dispatcher(self.state, self.flights, self._conductor.executor, org_id, gate, self._money)
            self._admission = Admission(self._conductor, self.state, self.row.org_id)
            await self._walk()
        except FencedError:
            log.info("run %s belongs to another conductor now", self.row.run_id)
        except JournalError as error:
            log.error("run %s: the journal refused: %s", self.row.run_id, error)
            self._conductor.broken(self.row.run_id, error)
        finally:
            if self._money is not None:
                self._money.leave()
            await self._land()

    # -- the loop --------------------------------------------------------------------------------

    async def _walk(self) -> None:
        batch: list[ev.Event] = []
        if not self.state.ended and self.state.status is not Status.PAUSED:
            first: ev.Event = ev.RunStarted() if self.state.status is Status.QUEUED else ev.RunAdopted(self.row.epoch)
            self._apply(first, batch)
            self._adopt()
        while True:
            await self._step(batch)
            if self.state.ended or self.state.status is Status.PAUSED:
                return
            batch = []
            await self._sleep()

    def _adopt(self) -> None:
        """Take up what an earlier conductor left: effects in doubt and open bodies."""
        clock = self._clock()
        for stage in self.state.in_doubt():
            self._submit(self._dispatcher.attach(stage, clock))
        self._watch_bodies()

    async def _step(self, batch: list[ev.Event]) -> None:
        """Take in what has come, let the state move, send out what may go, and commit it all."""
        values = self._conductor.values
        while self.commands:
            command = self.commands.popleft()
            self._answered.append(command.id)
            if command.arguments.get("withdraw") and any(each.cancelling for each in self.flights.by_id.values()):
                continue  # the cancel is being carried out
            for event in answer(self.state, command, lambda data: keep(values, self.row.org_id, data)):
                self._apply(event, batch)
            if not self.state.ended:
                self._watch_bodies()  # a paused run goes on, if only to clean up
        while self._inbox:
            flight, report = self._inbox.popleft()
            await self._report(flight, report, batch)
        self._overdue(batch)
        effects: list[Flight] = []
        sent = False
        while True:
            short: set[Placement] = set()
            self._advance(batch)
            if self.state.ended or self.state.pausing or self.state.status is not Status.RUNNING:
                break
            room = self._traffic.room(self.row.run_id, self.row.org_id)
            dispatched = self._dispatcher.dispatch(room, self._conductor.now(), self._clock())
            waiting = dispatched.effects
            if self._conductor.fresh():
                # Pure work need not wait for the commit of what led to it: should that fail, it is thrown away.
                for flight in dispatched.pure:
                    self._submit(flight)
                sent = sent or bool(dispatched.pure)
            else:
                waiting = [*dispatched.pure, *waiting]
            effects += waiting
            self._traffic.reserve(waiting)
            if dispatched.grow is not None:
                self._conductor.treasury.grow_later(self.row.org_id, dispatched.grow)
            short = dispatched.short
            for event in (*dispatched.events, *dispatched.stops):
                self._apply(event, batch)
            if not any(isinstance(event, ev.StageFailed) for event in dispatched.events):
                break
        self._traffic.await_room(self.row.run_id, self.row.org_id, short)
        self._traffic.offer_room(self.row.run_id)
        if self.state.pausing and self.state.status is Status.RUNNING and not self.flights:
            self._apply(ev.RunPaused(), batch)
        if sent and batch:
            await self._traffic.departed()
        await self._commit(batch)
        for flight in effects:
            self._submit(flight)
        self._cancel_unwanted()

    def _watch_bodies(self) -> None:
        for stage in list(self.state.stages.values()):
            if stage.status is Status.RUNNING and stage.body is not None:
                self._watch(stage)

    def _advance(self, batch: list[ev.Event]) -> None:
        """Apply what follows from the state until nothing does."""
        while True:
            if not self.state.ended and not self.state.pausing:
                self._dispatcher.open_items()
            runnable: list[StageState] = []
            events = decide(self.state, self._conductor.now(), runnable)
            self._dispatcher.offer(runnable)
            for event in events:
                self._apply(event, batch)
            if not events:
                return

    def _apply(self, event: ev.Event, batch: list[ev.Event]) -> None:
        batch.append(event)
        if self._money is not None:
            self._money.note(event)
        self._deadlines.note(event)
        self.state.apply(event, at=self._conductor.now())
        if isinstance(event, ev.StageExpanded):
            self._watch(self.state.stages[event.path])
        for stop in debug.after(self.state, event):
            self._apply(stop, batch)

    def _watch(self, stage: StageState) -> None:
        """Keep an eye on a body: its time, its items, its cleanup."""
        if stage.stage.kind == "foreach":
            self._dispatcher.loops[stage.path] = stage
        self._deadlines.watch(stage, self._clock())

    async def _report(self, flight: Flight, report: Report, batch: list[ev.Event]) -> None:
        flight.heard = self._clock()
        before = len(batch)
        for made in report.spent:
            flight.spent.setdefault((made.path, made.attempt), {})[made.n] = made.call
        for proposed in report.events:
            for event in await self._admission.admit(proposed):
                self._apply(event, batch)
        self._children += self._admission.take_children()
        self._conductor.side(self.row, report)
        if report.released:
            self.flights.release(flight, report)
            self._dispatcher.learn(flight, in_time=False)
        if report.ended is None:
            return
        flight.ended = report.ended
        flight.running = report.running or flight.running
        self.flights.remove(flight)
        if report.ended is Ended.REFUSED and not flight.region.attach:
            await self._refused(flight, report, batch)
            return
        if len(batch) > before:
            self._refusals = 0
        if report.ended is Ended.DONE and not flight.released:
            self._dispatcher.learn(flight, in_time=True)
        jitter = self._conductor.rng.random()
        for event in ended(self.state, self.flights, flight, report, now=self._conductor.now(), jitter=jitter):
            self._apply(event, batch)

    async def _refused(self, flight: Flight, report: Report, batch: list[ev.Event]) -> None:
        """Nothing has run: send it again, unless workers keep refusing."""
        self._refusals += 1
        if self._refusals <= 5 and not flight.cancelling:
            await asyncio.sleep(0.02 * self._refusals)
            if flight.effect is not None and flight.effect.status is Status.RUNNING:
                again = Flight(flight.region, flight.load, self._clock(), flight.patience)
                self.flights.add(again)
                self._submit(again)
            return
        lost = Report(region=report.region, ended=Ended.LOST, failure=report.failure)
        flight.running = flight.running or tuple(stage.path for stage in flight.load.stages[:1])
        for event in ended(self.state, self.flights, flight, lost, now=self._conductor.now(), jitter=0.5):
            self._apply(event, batch)

    # -- time ------------------------------------------------------------------------------------

    def _overdue(self, batch: list[ev.Event]) -> None:
        clock = self._clock()
        for event in self._deadlines.overdue(self.state, clock):
            self._apply(event, batch)
        for flight in list(self.flights.by_id.values()):
            silent = not flight.timed_out and not flight.cancelling and clock >= flight.heard + flight.patience
            if silent and not flight.idle():
                flight.timed_out = flight.cancelling = True
                self._help(self._conductor.executor.cancel(flight.region.id, grace_s=0.0))

    async def _sleep(self) -> None:
        """Wait for a report, a command or the next moment at which something is due."""
        if self._inbox or self.commands or self._wake.is_set():
            # Others have their turn first, however often this one is woken.
            self._wake.clear()
            await asyncio.sleep(0)
            return
        clock, waits = self._clock(), []
        at = None if self.state.pausing else self._dispatcher.next_at()
        if at is not None:
            waits.append(max(0.001, (at - self._conductor.now()) / 1000))
        waits += [max(0.001, deadline - clock) for deadline in self._deadlines.times()]
        waits += [
            max(0.001, flight.heard + flight.patience - clock)
            for flight in self.flights.by_id.values()
            if not flight.timed_out and not flight.cancelling and not flight.idle()
        ]
        timer = asyncio.get_running_loop().call_later(min(waits), self._wake.set) if waits else None
        self._resting = True
        await self._wake.wait()
        self._resting = False
        if timer is not None:
            timer.cancel()
        self._wake.clear()

    # -- flights ---------------------------------------------------------------------------------

    def _submit(self, flight: Flight) -> None:
        flight.hear = self._hear
        self._traffic.send(flight)

    def _hear(self, flight: Flight, report: Report) -> None:
        self._inbox.append((flight, report))
        self._wake.set()

    def _cancel_unwanted(self) -> None:
        """End flights that nobody waits for; an effect that fell to a failure may finish, unless somebody cancels."""
        for flight in list(self.flights.by_id.values()):
            if flight.cancelling or flight.wanted():
                continue
            stage = flight.effect
            if stage is not None and stage.status is Status.RUNNING and not self.state.ended:
                doom = stage.scope.doomed
                if doom is not None and doom.gentle and self.state.cancelling is None:
                    continue
            flight.cancelling = True
            self._help(self._conductor.executor.cancel(flight.region.id, grace_s=CANCEL_GRACE_S))

    def _help(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    async def _land(self) -> None:
        """The run is no longer walked here: end what is still in the air. Others need not wait for that with theirs."""
        flights = [flight for flight in self.flights.by_id.values() if not flight.landed]
        waiters: list[asyncio.Future[None]] = []
        for flight in flights:
            if flight.hear is None:
                self._traffic.abandon(flight)  # never sent
                continue
            if self._conductor.handing_over and flight.region.placement is Placement.HOST:
                continue
            flight.waiter = asyncio.get_running_loop().create_future()
            waiters.append(flight.waiter)
            if not flight.cancelling:
                self._help(self._conductor.executor.cancel(flight.region.id, grace_s=CANCEL_GRACE_S))
        self._traffic.leave(self.row.run_id, self.row.org_id)
        if waiters:
            await asyncio.wait([*waiters, *self._helpers], timeout=2 * CANCEL_GRACE_S)
        for flight in flights:
            self._traffic.abandon(flight)

    # -- the journal -----------------------------------------------------------------------------

    async def _commit(self, batch: list[ev.Event]) -> None:
        state, now = self.state, self._conductor.now()
        over = state.ended or state.status is Status.PAUSED
        if not (batch or self._answered or over):
            return
        append = Append(
            run_id=self.row.run_id,
            org_id=self.row.org_id,
            epoch=self.row.epoch,
            seq=state.seq - len(batch),
            events=tuple(batch),
            at=now,
            by=self._conductor.id,
            status=str(state.status),
            taken=tuple(self._answered),
            release=over,
            summary=summary(state) if over else None,
            durable=over or any(isinstance(event, _EFFECT_EVENTS) or self._of_effect(event) for event in batch),
            children=tuple(self._children),
            moves=self._money.moves() if self._money is not None else None,
        )
        await record(self._conductor.journal, append, self._conductor.storage_patience_s)
        self.released = over
        self._answered, self._children = [], []
        first = append.seq + 1
        self._conductor.publish(
            self.row.run_id,
            [Recorded(self.row.run_id, first + n, now, append.by, event) for n, event in enumerate(batch)],
        )

    def _of_effect(self, event: ev.Event) -> bool:
        if not isinstance(event, ev.StageFinished | ev.StageFailed | ev.StageRetried):
            return False
        stage = self.state.stages.get(event.path)
        return stage is not None and stage.stage.effect is not Effect.PURE

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()
