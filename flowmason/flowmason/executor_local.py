"""The local executor: regions run in threads of this process, each with an event loop of its own.

One thread per CPU runs tasks, one more is the node host that overlaps many calls. A component that
blocks its loop blocks that thread alone; one that does not stop when cancelled is left behind after the
grace, by name, and its place is taken by a fresh thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from flowmason.errors import Code, Failure
from flowmason.executor import Capacity, RegionRunner
from flowmason.policy import Placement, Resources
from flowmason.report import Ended, Region, Report

HOST_SLOTS = 256
_numbers = itertools.count(1)


class _Thread:
    """A daemon thread with an event loop and a region runner of its own."""

    def __init__(self, kind: str, make_runner: Callable[[], RegionRunner]) -> None:
        self.loop = asyncio.new_event_loop()
        self.load = 0
        self._make_runner = make_runner
        self._runner: RegionRunner | None = None
        self.thread = threading.Thread(target=self._serve, daemon=True, name=f"flowmason-{kind}-{next(_numbers)}")
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        with contextlib.suppress(RuntimeError):
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def run(self, region: Region, emit: Callable[[Report], None]) -> None:
        if self._runner is None:
            self._runner = self._make_runner()
        await self._runner(region, emit)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)


class _Batch:
    """Regions that were submitted together, and what they report on its way to the loop that listens."""

    def __init__(self, thread: _Thread, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = thread
        self.calls: list[_Call] = []
        self.arrived = asyncio.Event()
        self._loop = loop
        self._lock = threading.Lock()
        self._reports: list[Report] = []

    def put(self, report: Report) -> None:
        """Deliver a report, from whatever thread. What comes close together wakes the listener once."""
        with self._lock:
            self._reports.append(report)
            if len(self._reports) > 1:
                return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.arrived.set)

    async def take(self) -> list[Report]:
        """What has come, at least one report."""
        await self.arrived.wait()
        self.arrived.clear()
        with self._lock:
            found, self._reports = self._reports, []
        return found


@dataclass(slots=True)
class _Call:
    region: Region
    batch: _Batch
    task: asyncio.Task[None] | None = None
    ended: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, report: Report) -> None:
        self.batch.put(report)


class LocalExecutor:
    """Runs regions in this process. `make_runner` is called once in each thread."""

    name = "local"

    def __init__(self, make_runner: Callable[[], RegionRunner], *, workers: int | None = None) -> None:
        self._make_runner = make_runner
        self._count = workers or max(1, len(os.sched_getaffinity(0)))
        self._tasks: list[_Thread] = []
        self._host: _Thread | None = None
        self._calls: dict[str, _Call] = {}
        self.left_behind: list[str] = []
        """Names of threads that did not stop when they were asked to."""

    async def start(self) -> None:
        """Threads start on first use."""

    def capacity(self) -> Capacity:
        """One task per CPU; the host overlaps `HOST_SLOTS` calls."""
        return Capacity(self._count, HOST_SLOTS)

    def infeasible(self, placement: Placement, resources: Resources) -> str | None:
        """This process has CPUs and memory and nothing else."""
        if resources.num_gpus:
            return f"num_gpus={resources.num_gpus:g}: the local executor has no GPUs; run on Ray"
        if resources.accelerator_type:
            return f"accelerator_type={resources.accelerator_type}: the local executor has none; run on Ray"
        cpus = os.cpu_count() or 1
        if resources.num_cpus and resources.num_cpus > cpus:
            return f"num_cpus={resources.num_cpus:g}: this machine has {cpus}"
        if resources.custom:
            return f"custom resources ({', '.join(sorted(resources.custom))}) exist on Ray only"
        return None

    def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        """Run regions in one of the threads."""
        batch = _Batch(self._thread(regions[0].placement), asyncio.get_running_loop())
        batch.calls = [_Call(region, batch) for region in regions]
        self._calls.update((call.region.id, call) for call in batch.calls)
        batch.thread.load += 1
        if regions[0].attach:
            batch.put(Report(region=regions[0].id, ended=Ended.REFUSED, failure=_unknown()))
        else:
            batch.thread.loop.call_soon_threadsafe(self._begin, batch)
        return self._stream(batch)

    def _thread(self, placement: Placement) -> _Thread:
        if placement is Placement.HOST:
            if self._host is None:
                self._host = _Thread("host", self._make_runner)
            return self._host
        if len(self._tasks) < self._count and all(thread.load for thread in self._tasks):
            self._tasks.append(_Thread("task", self._make_runner))
        return min(self._tasks, key=lambda thread: thread.load)

    def _begin(self, batch: _Batch) -> None:
        for call in batch.calls:
            call.task = batch.thread.loop.create_task(batch.thread.run(call.region, call.emit))
            call.task.add_done_callback(partial(self._done, call))

    def _done(self, call: _Call, task: asyncio.Task[None]) -> None:
        failure = None
        if not task.cancelled() and (error := task.exception()) is not None:
            failure = Failure(code=Code.INTERNAL, message=f"{type(error).__name__}: {error}")
        ended = Ended.CANCELLED if task.cancelled() else Ended.LOST if failure else Ended.DONE
        # The runner's own last report came first; this one counts only where there was none.
        call.emit(Report(region=call.region.id, ended=ended, failure=failure))

    async def _stream(self, batch: _Batch) -> AsyncIterator[Report]:
        under_way = {call.region.id: call for call in batch.calls}
        try:
            while under_way:
                for report in await batch.take():
                    call = under_way.get(report.region)
                    if call is None:
                        continue
                    if report.ended is not None:
                        call.ended = True
                        call.over.set()
                        del under_way[report.region]
                    yield report
        finally:
            batch.thread.load -= 1
            for call in batch.calls:
                if self._calls.get(call.region.id) is call:
                    del self._calls[call.region.id]

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        """Cancel the region's task; after the grace leave its thread behind."""
        call = self._calls.get(region_id)
        if call is None or call.ended:
            return
        call.batch.thread.loop.call_soon_threadsafe(_cancel, call)
        try:
            await asyncio.wait_for(call.over.wait(), grace_s)
        except TimeoutError:
            name = call.batch.thread.thread.name
            self.left_behind.append(name)
            if call.batch.thread in self._tasks:
                self._tasks.remove(call.batch.thread)
            elif call.batch.thread is self._host:
                self._host = None
            message = f"did not stop within {grace_s:g} s; thread {name} is left behind"
            call.emit(Report(region=region_id, ended=Ended.LOST, failure=Failure(code=Code.LOST, message=message)))

    async def close(self) -> None:
        """Stop the threads. Those left behind end with the process."""
        for call in list(self._calls.values()):
            call.batch.thread.loop.call_soon_threadsafe(_cancel, call)
        for thread in [*self._tasks, *([self._host] if self._host else [])]:
            thread.stop()
        self._tasks, self._host = [], None


def _cancel(call: _Call) -> None:
    if call.task is not None:
        call.task.cancel()


def _unknown() -> Failure:
    return Failure(code=Code.LOST, message="the process that ran the call is gone")
