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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class _Call:
    region: Region
    thread: _Thread
    reports: asyncio.Queue[Report]
    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[None] | None = None
    ended: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, report: Report) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._deliver, report)

    def _deliver(self, report: Report) -> None:
        if not self.ended:
            self.ended = report.ended is not None
            self.reports.put_nowait(report)
            if self.ended:
                self.over.set()


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

    def submit(self, region: Region) -> AsyncIterator[Report]:
        """Run a region in one of the threads."""
        thread = self._thread(region.placement)
        call = _Call(region, thread, asyncio.Queue(), asyncio.get_running_loop())
        self._calls[region.id] = call
        thread.load += 1
        if region.attach:
            call.emit(Report(region=region.id, ended=Ended.REFUSED, failure=_unknown()))
        else:
            thread.loop.call_soon_threadsafe(self._begin, call)
        return self._stream(call)

    def _thread(self, placement: Placement) -> _Thread:
        if placement is Placement.HOST:
            if self._host is None:
                self._host = _Thread("host", self._make_runner)
            return self._host
        if len(self._tasks) < self._count and all(thread.load for thread in self._tasks):
            self._tasks.append(_Thread("task", self._make_runner))
        return min(self._tasks, key=lambda thread: thread.load)

    def _begin(self, call: _Call) -> None:
        call.task = call.thread.loop.create_task(call.thread.run(call.region, call.emit))
        call.task.add_done_callback(lambda task: self._done(call, task))

    def _done(self, call: _Call, task: asyncio.Task[None]) -> None:
        failure = None
        if not task.cancelled() and (error := task.exception()) is not None:
            failure = Failure(code=Code.INTERNAL, message=f"{type(error).__name__}: {error}")
        ended = Ended.CANCELLED if task.cancelled() else Ended.LOST if failure else Ended.DONE
        # The runner's own last report came first; this one counts only where there was none.
        call.emit(Report(region=call.region.id, ended=ended, failure=failure))

    async def _stream(self, call: _Call) -> AsyncIterator[Report]:
        try:
            while True:
                report = await call.reports.get()
                yield report
                if report.ended is not None:
                    return
        finally:
            call.thread.load -= 1
            self._calls.pop(call.region.id, None)

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        """Cancel the region's task; after the grace leave its thread behind."""
        call = self._calls.get(region_id)
        if call is None or call.ended:
            return
        call.thread.loop.call_soon_threadsafe(_cancel, call)
        try:
            await asyncio.wait_for(call.over.wait(), grace_s)
        except TimeoutError:
            name = call.thread.thread.name
            self.left_behind.append(name)
            if call.thread in self._tasks:
                self._tasks.remove(call.thread)
            elif call.thread is self._host:
                self._host = None
            message = f"did not stop within {grace_s:g} s; thread {name} is left behind"
            call.emit(Report(region=region_id, ended=Ended.LOST, failure=Failure(code=Code.LOST, message=message)))

    async def close(self) -> None:
        """Stop the threads. Those left behind end with the process."""
        for call in list(self._calls.values()):
            call.thread.loop.call_soon_threadsafe(_cancel, call)
        for thread in [*self._tasks, *([self._host] if self._host else [])]:
            thread.stop()
        self._tasks, self._host = [], None


def _cancel(call: _Call) -> None:
    if call.task is not None:
        call.task.cancel()


def _unknown() -> Failure:
    return Failure(code=Code.LOST, message="the process that ran the call is gone")
