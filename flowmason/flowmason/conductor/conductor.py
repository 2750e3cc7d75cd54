"""The conductor: one row with a beat, many runs being walked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from flowmason.conductor.beside import Beside
from flowmason.conductor.loading import History, JustRecorded, Plans
from flowmason.conductor.recording import let_go
from flowmason.conductor.surroundings import Resolve, no_pipelines
from flowmason.conductor.traffic import Traffic
from flowmason.conductor.treasury import Treasury
from flowmason.conductor.walker import Walker
from flowmason.errors import Code, FencedError, JournalError
from flowmason.event import Recorded
from flowmason.executor import Executor
from flowmason.ids import ConductorId, Ids, OrgId, RunId
from flowmason.journal import Command, Journal, NewRun, RunRow
from flowmason.report import Report
from flowmason.values import ValueStore

log = logging.getLogger("flowmason.conductor")

BEAT_S = 2.0
SILENCE_S = 10.0
"""Without a beat for that long, by its observer's own clock, a conductor is dead."""
DRAIN_TICK_S = 0.02
AWAY_S, BROKEN_S = 5.0, 60.0
"""When a run that had to be given up is to be taken up again: where the store was away, and where it was not that."""
LANDED_LOOK_S = 0.02
"""How soon after a run's end its place is offered: its org may have had no other."""


class Feed(Protocol):
    """Somebody in this process who follows runs live."""

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """Events were committed."""
        ...

    def beside(self, run_id: RunId, report: Report) -> None:
        """Logs, deltas and progress, before they are stored."""
        ...


class Conductor:
    """Walks runs until it is stopped.

    With `only`, it claims those runs and no others (as `fm run` does); else it also adopts the runs of
    conductors that died. It walks at most `capacity` runs at once, the last `spare` of them only of orgs that have
    few. `now` gives milliseconds since the epoch; all waiting goes by the event loop's clock.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        values: ValueStore,
        executor: Executor,
        now: Callable[[], int],
        ids: Ids,
        rng: random.Random,
        host: str = "",
        pid: int = 0,
        resolve: Resolve = no_pipelines,
        only: Sequence[RunId] | None = None,
        poll_s: float = 0.25,
        storage_patience_s: float = 30.0,
        pid_alive: Callable[[int], bool] | None = None,
        capacity: int = 200,
        spare: int = 0,
    ) -> None:
        self.journal = journal
        self.values = values
        self.executor = executor
        self.now = now
        self.rng = rng
        self.resolve = resolve
        self.id: ConductorId = ids.conductor()
        self.plans = Plans(journal)
        self.traffic = Traffic(executor, self.nudge_walker)
        self.treasury = Treasury(journal, self.id, now, self._nudge_org)
        self.storage_patience_s = storage_patience_s
        self.walkers: dict[RunId, Walker] = {}
        self.failures: dict[RunId, JournalError] = {}
        self._only = list(only) if only is not None else None
        self._host, self._pid, self._pid_alive = host, pid, pid_alive
        self._poll_s = poll_s
        self._capacity, self._spare = capacity, spare
        self.handing_over = False
        self._feeds: list[Feed] = []
        self._tasks: dict[RunId, asyncio.Task[None]] = {}
        self._given_up: dict[RunId, float] = {}
        """Runs that may still be ours and that nobody walks, and after how many seconds they may be taken up."""
        self._submitting: set[asyncio.Task[RunRow]] = set()
        self._coming = 0
        """Places that are kept for runs which are being recorded as ours, or claimed."""
        self._listed = False
        self._look = asyncio.Event()
        self._stopping = False
        self._offering: asyncio.TimerHandle | None = None
        self._seen: dict[ConductorId, tuple[int, float]] = {}
        self._looked = 0.0
        self._trouble: dict[str, str] = {}
        """What cannot be done at the moment, and why."""
        self._beside = Beside(journal)
        self._beaten = 0.0

    # -- life ------------------------------------------------------------------------------------

    async def run(self, *, until_idle: bool = False) -> None:
        """Beat, claim and walk until `stop`; with `until_idle`, until no run is left to walk."""
        self._beaten = asyncio.get_running_loop().time()
        await self.journal.enlist(self.id, self._host, self._pid)
        self._listed = True
        beating = asyncio.get_running_loop().create_task(self._keep_beating())
        try:
            while not self._stopping:
                await self._let_go()
                await self._claim()
                await self._fetch_commands()
                if until_idle and not self._tasks:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), self._poll_s)
                self._look.clear()
        finally:
            self._listed = False
            beating.cancel()
            await self._leave()

    def stop(self) -> None:
        """Ask `run` to return; runs under way become ownerless and can be taken up elsewhere."""
        self._stopping = True
        self._look.set()

    async def drain(self, within_s: float) -> None:
        """Stop in good order: claim and send out nothing more, wait for what is on its way, then leave the runs.

        What is not back within that time is left behind: calls on hosts that outlive this process go on, and the next
        conductor attaches to them.
        """
        self.handing_over = True
        self.traffic.close()
        deadline = asyncio.get_running_loop().time() + within_s
        while asyncio.get_running_loop().time() < deadline:
            if not self.traffic.busy and all(walker.at_rest for walker in self.walkers.values()):
                break
            await asyncio.sleep(DRAIN_TICK_S)
        self.stop()

    def include(self, run_id: RunId) -> None:
        """Of a conductor with `only`: walk this run as well."""
        if self._only is not None and run_id not in self._only and run_id not in self._tasks:
            self._only.append(run_id)
            self._look.set()

    async def submit(self, run: NewRun) -> RunRow:
        """Record a run that is to be walked here, as `Journal.submit` does; it is, whatever becomes of the caller.

        Where there is a place for it, it is ours in the transaction that records it and is not read back. Else it is
        claimed when there is one.
        """
        task = asyncio.get_running_loop().create_task(self._submit(run))
        self._submitting.add(task)
        task.add_done_callback(self._submitting.discard)
        return await asyncio.shield(task)

    async def _submit(self, run: NewRun) -> RunRow:
        place = int(self._room > self._spare)
        self._coming += place
        try:
            row, ours = await self.journal.begin(run, self.id) if place else (await self.journal.submit(run), False)
        except JournalError:
            self._given_up[run.run_id] = 0.0  # it may have been recorded all the same
            raise
        finally:
            self._coming -= place
        if ours and self._listed:
            self._walk(row, JustRecorded(run))
        else:
            self.include(row.run_id)
            self.nudge()
        return row

    def nudge(self) -> None:
        """Look at the inbox and for claimable runs now rather than at the next poll."""
        self._look.set()

    async def _leave(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=15.0)
        await self._beside.close()
        with contextlib.suppress(JournalError):
            await self.journal.retire(self.id)

    async def _keep_beating(self) -> None:
        """Beat in a task of its own, so that a slow store delays nothing else."""
        while True:
            try:
                begun = asyncio.get_running_loop().time()
                if not await self.journal.beat(self.id):
                    self._declared_dead()
                    return
                self._beaten = begun
                await self.treasury.refresh()
                if self._only is None:
                    await self._observe()
            except JournalError as error:
                log.warning("no beat: %s", error)
            await asyncio.sleep(BEAT_S)

    def _declared_dead(self) -> None:
        if not self._stopping:
            log.error("conductor %s was declared dead; it stops", self.id)
            self.stop()

    async def _observe(self) -> None:
        """Bury conductors that have been silent for too long by our own clock.

        Silence counts while we look: after a store was away, others have beaten as little as we have.
        """
        clock = asyncio.get_running_loop().time
        asked = clock()
        beats = await self.journal.beats()
        if asked - self._looked > SILENCE_S / 2:
            self._seen.clear()
        self._looked = clock()
        for other, (beat, host, pid) in beats.items():
            if other == self.id:
                continue
            seen = self._seen.get(other)
            dead_pid = host == self._host and self._pid_alive is not None and not self._pid_alive(pid)
            if seen is None or seen[0] != beat:
                self._seen[other] = (beat, self._looked)
                if not dead_pid:
                    continue
            if dead_pid or asked - self._seen[other][1] >= SILENCE_S:
                if await self.journal.bury(other, beat):
                    log.info("conductor %s is dead; its runs are free", other)
                self._seen.pop(other, None)

    @property
    def _room(self) -> int:
        """How many more runs may be walked."""
        return 0 if self.handing_over or not self._listed else self._capacity - len(self._tasks) - self._coming

    async def _claim(self) -> None:
        room = self._room
        if room <= 0:
            return
        self._coming += room
        try:
            if self._only is None:
                claimed = await self.journal.claim(self.id, self.now(), room, spare=self._spare)
            else:
                claimed = []
                for run_id in self._only:
                    if run_id not in self._tasks:
                        claimed += await self.journal.claim(self.id, self.now(), 1, run_id)
        except FencedError:
            self._declared_dead()
            return
        except JournalError as error:
            self._cannot("claim runs", error)
            return
        finally:
            self._coming -= room
        self._trouble.pop("claim runs", None)
        for each in claimed:
            self._walk(each.row)

    def _cannot(self, what: str, error: JournalError) -> None:
        """Say it once: it is tried again at each poll."""
        if self._trouble.get(what) != str(error):
            self._trouble[what] = str(error)
            log.warning("cannot %s: %s", what, error)

    async def _let_go(self) -> None:
        """Give back runs that had to be given up: of a conductor that lives, nobody else takes them."""
        for run_id, pause_s in list(self._given_up.items()):
            try:
                if run_id not in self._tasks:
                    await let_go(self.journal, self.id, run_id, self.now(), pause_s)
            except JournalError as error:
                self._cannot("let runs go", error)
                if error.failure.code == Code.STORAGE:
                    return  # it is away for all of them
                continue
            del self._given_up[run_id]
            self._trouble.pop("let runs go", None)

    def _walk(self, row: RunRow, known: History | None = None) -> None:
        walker = Walker(self, row, known)
        self.failures.pop(row.run_id, None)
        self.walkers[row.run_id] = walker
        task = asyncio.get_running_loop().create_task(walker.walk(), name=f"walk {row.run_id}")
        self._tasks[row.run_id] = task
        if self._only is not None and row.run_id in self._only:
            self._only.remove(row.run_id)

        def landed(task: asyncio.Task[None]) -> None:
            full = len(self._tasks) >= self._capacity
            if self.walkers.get(row.run_id) is walker:  # else it was let go, and taken up here before all had landed
                del self._tasks[row.run_id], self.walkers[row.run_id]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("walking run %s failed", row.run_id, exc_info=error)
                self.failures[row.run_id] = JournalError(f"the conductor failed: {error!r}", code=Code.INTERNAL)
            if self._only is None and not walker.released:
                failure = self.failures.get(row.run_id)
                away = failure is None or failure.failure.code == Code.STORAGE
                self._given_up[row.run_id] = AWAY_S if away else BROKEN_S
            if full or not self._tasks:
                self._look.set()
            elif self._only is None and self._offering is None:
                self._offering = asyncio.get_running_loop().call_later(LANDED_LOOK_S, self._offer_place)

        task.add_done_callback(landed)

    def _offer_place(self) -> None:
        self._offering = None
        self._look.set()

    async def _fetch_commands(self) -> None:
        if not self.walkers:
            return
        try:
            commands = await self.journal.commands(list(self.walkers))
        except JournalError as error:
            self._cannot("read the inbox", error)
            return
        self._trouble.pop("read the inbox", None)
        for command in commands:
            self._hand_over(command)

    def _hand_over(self, command: Command) -> None:
        walker = self.walkers.get(command.run_id)
        if walker is not None and walker.take(command):
            walker.nudge()

    def broken(self, run_id: RunId, error: JournalError) -> None:
        """A walker had to give up its run; it stays resumable."""
        self.failures[run_id] = error

    # -- what walkers ask ------------------------------------------------------------------------

    def fresh(self) -> bool:
        """Whether the last beat is so recent that no observer can have taken this conductor for dead."""
        return asyncio.get_running_loop().time() - self._beaten < SILENCE_S / 2

    def nudge_walker(self, run_id: RunId) -> bool:
        """Wake the walker of a run. False where the run is not walked here."""
        walker = self.walkers.get(run_id)
        if walker is None:
            return False
        walker.nudge()
        return True

    def _nudge_org(self, org_id: OrgId) -> None:
        for walker in self.walkers.values():
            if walker.row.org_id == org_id:
                walker.nudge()

    # -- side streams ----------------------------------------------------------------------------

    def follow(self, feed: Feed) -> None:
        """Tell `feed` about every run walked here."""
        self._feeds.append(feed)

    def publish(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """Events were committed."""
        for feed in self._feeds:
            feed.committed(run_id, events)

    def side(self, row: RunRow, report: Report) -> None:
        """Show logs and deltas at once, store them in batches."""
        if not (report.logs or report.deltas or report.progress):
            return
        for feed in self._feeds:
            feed.beside(row.run_id, report)
        self._beside.add(row, report)
