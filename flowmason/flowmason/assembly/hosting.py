"""`RunHost`: one run, walked in this process until it ends, is paused, or is left to be resumed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from flowmason.assembly.engine import Stores, host_name, pid_alive, unavailable
from flowmason.assembly.picture import RunPicture, is_subpipeline
from flowmason.conductor import Conductor, Feed, Resolve, new_run, no_pipelines
from flowmason.conductor.loading import load_plan
from flowmason.errors import Code, EngineUnavailableError, FlowMasonError, JournalError, UsageError
from flowmason.event import DebugChanged, Recorded, RunCancelling, RunSubmitted, StageExpanded, StageFinished
from flowmason.executor import Capacity, Executor
from flowmason.ids import ConductorId, Ids, RunId, child_run_id
from flowmason.journal import TERMINAL, Command, Journal, RunRow
from flowmason.plan import Plan
from flowmason.report import Region, Report
from flowmason.telemetry import Tracing, exports
from flowmason.value import Inline

SETTLED = frozenset({*TERMINAL, "paused"})
PARTING_S = 2.0
"""For so long a conductor without an executor may put its things in order: Ray ends the process soon after."""
SILENCE_S = 10.0
"""A conductor that has not beaten for that long is dead."""


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


class RunHost:
    """Hosts a conductor for one run (and the runs that it submits itself)."""

    def __init__(
        self, stores: Stores, executor: Executor, *, resolve: Resolve = no_pipelines, feeds: Sequence[Feed] = ()
    ) -> None:
        self.stores = stores
        self.executor = executor
        self._resolve = resolve
        self._feeds = tuple(feeds)
        self._ids = Ids(time.time)
        self._conductor: Conductor | None = None
        self.left = self._withdraw = False
        """Whether `leave` was called."""

    async def submit(
        self,
        plan: Plan,
        given: Any,
        options: dict[str, Any],
        *,
        idempotency_key: str | None = None,
        debug: DebugChanged | None = None,
    ) -> RunId:
        """Record a new run; `debug` is what stops it from its start on.

        Raises `RefusedError` for a wrong input; nothing is recorded then.
        """
        run = new_run(
            plan,
            given,
            run_id=self._ids.run(),
            now=now_ms(),
            by=f"{os.getpid()}@{host_name()}",
            values=self.stores.values,
            options=options,
            idempotency_key=idempotency_key,
            debug=debug,
        )
        return (await self.stores.journal.submit(run)).run_id

    async def walk(self, run_id: RunId) -> RunRow:
        """Walk the run until it has ended or is paused, or until `leave`. Returns its row as it is then.

        Raises `JournalError` where the run had to be given up, `EngineUnavailableError` where the executor is gone for
        good (the run can be resumed), `UsageError` where another conductor holds it.
        """
        conductor = Conductor(
            journal=self.stores.journal,
            values=self.stores.values,
            executor=self.executor,
            now=now_ms,
            ids=self._ids,
            rng=random.Random(),
            host=host_name(),
            pid=os.getpid(),
            resolve=self._resolve,
            only=[run_id],
            pid_alive=pid_alive,
        )
        self._conductor = conductor
        children = _Children(conductor)
        tracing = Tracing(self.stores.journal) if exports() else None
        for feed in (*self._feeds, children, *([tracing] if tracing is not None else [])):
            conductor.follow(feed)
        if self.left:
            conductor.stop()
        try:
            await self._while_there(conductor, run_id)
        finally:
            self._conductor = None
            if tracing is not None:
                await tracing.close()
        row = await self.stores.journal.row(run_id)
        assert row is not None
        if self._withdraw and row.status not in TERMINAL:
            await self.command(run_id, "resume", withdraw=True)
        if row.status not in SETTLED and not self.left:
            failure = conductor.failures.get(run_id)
            if failure is not None:
                raise failure
            other = await self._owner(row)
            hint = f"`fm runs watch {run_id}` shows it."
            if run_id in children.walked:
                raise JournalError(f"run {run_id} was taken over by {other}", code=Code.FENCED, help=hint)
            raise UsageError(f"run {run_id} is held by {other}", code=Code.FENCED, help=hint)
        return row

    async def _owner(self, row: RunRow) -> str:
        """Who walks a run, in words."""
        found = (await self.stores.journal.beats()).get(ConductorId(row.owner)) if row.owner is not None else None
        return f"conductor {row.owner} (process {found[2]}@{found[1]})" if found is not None else "another conductor"

    async def _while_there(self, conductor: Conductor, run_id: RunId) -> None:
        """Run the conductor until it is idle. An executor that may vanish tells of it by a method `gone`."""
        gone = getattr(self.executor, "gone", None)
        if gone is None:
            await conductor.run(until_idle=True)
            return
        running, watching = asyncio.create_task(conductor.run(until_idle=True)), asyncio.create_task(gone())
        try:
            await asyncio.wait([running, watching], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                # What it waits for does not come any more, so it is not waited for long.
                conductor.stop()
                await asyncio.wait([running], timeout=PARTING_S)
                error: EngineUnavailableError = watching.result()
                error.failure = msgspec.structs.replace(
                    error.failure, help=f"The run is kept as it is: fm resume {run_id} goes on with it."
                )
                raise error
        finally:
            watching.cancel()
            if not running.done():
                running.cancel()
                await asyncio.wait([running], timeout=PARTING_S if watching.done() else None)
        await running

    async def command(self, run_id: RunId, name: str, **arguments: Any) -> None:
        """Put a command into the run's inbox and have it looked at now."""
        await post(self.stores.journal, run_id, name, **arguments)
        if self._conductor is not None:
            self._conductor.nudge()

    def leave(self, *, withdraw: bool = False) -> None:
        """Stop walking; what is under way is ended and the run stays resumable.

        `withdraw` takes back a cancel that was asked for before: whoever takes the run up goes on with it, unless its
        end is recorded by then, a trycatch cleans up, or an unsafe effect was interrupted.
        """
        self.left, self._withdraw = True, withdraw
        if self._conductor is not None:
            self._conductor.stop()

    def wake(self) -> None:
        """Have every run here look for what it may start."""
        if self._conductor is not None:
            for walker in list(self._conductor.walkers.values()):
                walker.nudge()


class _Children:
    """Asynchronous sub-pipelines are runs of their own; those of a run hosted here are walked here as well."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self.walked: set[RunId] = set()
        """Runs of which something was recorded here."""

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        self.walked.add(run_id)
        walker = self._conductor.walkers.get(run_id)
        for recorded in events:
            event = recorded.event
            if isinstance(event, StageFinished) and walker is not None and isinstance(event.output, Inline):
                name = event.path[-1]
                if any(is_subpipeline(plan.stages.get(name)) for plan in walker.state.plans.values()):  # type: ignore[call-overload]
                    child = child_run_id(run_id, event.path)
                    if child.encode() in event.output.data:  # one that ran in this run has no run id
                        self._conductor.include(child)

    def beside(self, run_id: RunId, report: Report) -> None:
        pass


class Gate:
    """An executor that takes nothing until a cancel is recorded.

    Somebody who only cancels or pauses a run that nobody walks must not start more of it meanwhile.
    """

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self.name = inner.name
        self.open = False
        self.host: RunHost | None = None

    async def start(self) -> None:
        await self._inner.start()

    def capacity(self) -> Capacity:
        return self._inner.capacity() if self.open else Capacity(0, 0)

    def infeasible(self, placement: Any, resources: Any) -> str | None:
        return self._inner.infeasible(placement, resources)

    def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        return self._inner.submit(regions)

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        await self._inner.cancel(region_id, grace_s=grace_s)

    async def close(self) -> None:
        await self._inner.close()

    async def gone(self) -> EngineUnavailableError:
        """When the inner executor is, if it ever is."""
        gone = getattr(self._inner, "gone", None)
        if gone is None:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")
        return await gone()  # type: ignore[no-any-return]

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """What a cleanup needs may run once the cancel stands in the journal."""
        if any(isinstance(recorded.event, RunCancelling) for recorded in events):
            self.open = True
            if self.host is not None:
                asyncio.get_running_loop().call_soon(self.host.wake)

    def beside(self, run_id: RunId, report: Report) -> None:
        pass


@asynccontextmanager
async def started(executor: Executor) -> AsyncIterator[Executor]:
    """The executor, started, and closed at the end. Raises `EngineUnavailableError`."""
    try:
        await executor.start()
    except ImportError as error:
        raise unavailable(executor.name, error) from error
    except BaseException:
        with contextlib.suppress(Exception):
            await executor.close()  # what it had begun
        raise
    try:
        yield executor
    finally:
        await executor.close()


async def post(journal: Journal, run_id: RunId, name: str, **arguments: Any) -> None:
    """Put a command into a run's inbox. Raises `UsageError` where there is no such run."""
    command = Command(
        id=Ids(time.time).command(),
        run_id=run_id,
        name=name,
        arguments=arguments,
        by=f"{os.getpid()}@{host_name()}",
        at=now_ms(),
    )
    if not await journal.post(command):
        raise UsageError(f"there is no run {run_id}", code=Code.NOT_FOUND)


async def living_owner(journal: Journal, row: RunRow, *, trust_pid: bool = False) -> str | None:
    """`pid@host` of the process that walks a run; None: nobody does.

    A dead process of this machine is buried at once, any other if it stays silent for 10 s: it may hang, be a zombie,
    or be a stranger to which the number of a dead one was given. `trust_pid` takes a process of this machine that
    lives for the owner and waits for nothing.
    """
    if row.owner is None:
        return None
    found = (await journal.beats()).get(ConductorId(row.owner))
    if found is None:
        return None
    beat, host, pid = found
    alive = host != host_name() or pid_alive(pid)
    if alive and host == host_name() and trust_pid:
        return f"{pid}@{host}"
    deadline = time.monotonic() + SILENCE_S
    while alive and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        again = (await journal.beats()).get(ConductorId(row.owner))
        if again is None:
            return None
        if again[0] != beat:
            return f"{pid}@{host}"
        alive = host != host_name() or pid_alive(pid)
    await journal.bury(ConductorId(row.owner), beat)
    return None


async def picture_of(journal: Journal, run_id: RunId, *, items: bool = False) -> RunPicture:
    """The picture of a run, from its journal. Raises `UsageError` (`NOT_FOUND`)."""
    recorded = await journal.read(run_id)
    if not recorded or not isinstance(recorded[0].event, RunSubmitted):
        raise UsageError(f"there is no run {run_id}", code=Code.NOT_FOUND, help="`fm runs list` shows those there are.")
    picture = RunPicture(await load_plan(journal, recorded[0].event.plan), items=items)
    for each in recorded:
        if isinstance(each.event, StageExpanded) and each.event.plan is not None:
            await learn(journal, picture, each.event)
        picture.apply(each)
    return picture


async def learn(journal: Journal, picture: RunPicture, event: StageExpanded) -> None:
    """Make the Plan of a sub-pipeline that was resolved at run time known to a picture."""
    if event.plan is not None and not picture.knows(event.plan):
        try:
            picture.learn(await load_plan(journal, event.plan))
        except FlowMasonError:
            return  # it is drawn without its order
