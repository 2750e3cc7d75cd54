"""The Ray task that runs regions: on a loop in a thread, their reports yielded as they come.

Module-level state belongs to the worker process: Ray keeps workers warm, so that the second region finds
components imported and providers open.
"""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from flowmason.errors import Code, Failure
from flowmason.executor import Emit
from flowmason.report import Ended, Region, Report, regions_decoder
from flowmason_actors.launch import open_worker
from flowmason_cluster import mail

SIGN_OF_LIFE_S = 1.0
"""A region that has said nothing for that long says that it has begun: until then it may be waiting for a CPU."""
GATHER_S = 0.004
"""How long what one of several regions reports waits for what the others report."""
LOOK_S = 0.25
"""How often a quiet task looks whether some of its regions were asked to end."""
LEAVE_S = 1.0
JAMMED_EXIT = 71

_encoder = msgspec.msgpack.Encoder()
_lock = threading.Lock()
_processes: dict[bytes, _Process] = {}


class _Process:
    """What one worker process keeps between regions: a loop in a thread, and a `Worker`."""

    def __init__(self, launch: bytes) -> None:
        self.worker = open_worker(launch)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="flowmason-region").start()

    def begin(self, regions: Sequence[Region], emit: Emit) -> _Running:
        """Start regions on the loop. The last report that it emits of each has `ended`."""
        running = _Running(self._loop)
        self._loop.call_soon_threadsafe(self._start, running, regions, emit)
        return running

    def _start(self, running: _Running, regions: Sequence[Region], emit: Emit) -> None:
        for region in regions:
            task = running.tasks[region.id] = self._loop.create_task(self._run(region, emit))
            task.add_done_callback(running.done)

    async def _run(self, region: Region, emit: Emit) -> None:
        ended, failure = Ended.DONE, None
        try:
            await self.worker.run(region, emit)
        except asyncio.CancelledError:
            ended = Ended.CANCELLED
        except Exception as error:
            ended = Ended.LOST
            failure = Failure(code=Code.INTERNAL, message=f"{type(error).__name__}: {error}")
        # The region's own last report came first; this one is read only where there was none.
        emit(Report(region=region.id, ended=ended, failure=failure))


class _Running:
    """Regions on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.over = threading.Event()

    def done(self, _: asyncio.Task[None]) -> None:
        """One has ended."""
        if all(task.done() for task in self.tasks.values()):
            self.over.set()

    def cancel(self, region_ids: Iterable[str] | None = None) -> None:
        """Ask all or some to end."""
        self._loop.call_soon_threadsafe(self._cancel, region_ids)

    def _cancel(self, region_ids: Iterable[str] | None) -> None:
        for region_id in self.tasks if region_ids is None else region_ids:
            task = self.tasks.get(region_id)
            if task is not None:
                task.cancel()


class _Outbox:
    """Reports on their way to the generator. What several regions report close together leaves in one frame."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.left = {region.id for region in regions}
        """Regions whose last report the generator has not taken."""
        self._open = set(self.left)
        self._gathers = len(regions) > 1
        self._held: list[Report] = []
        self._queue: queue.SimpleQueue[list[Report]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._sent = self._begun = time.monotonic()

    def put(self, report: Report) -> None:
        """Called from the loop and from the worker's pulse."""
        with self._lock:
            if report.region not in self._open:
                return
            if report.ended is not None:
                self._open.discard(report.region)
            self._held.append(report)
            now = time.monotonic()
            if self._gathers and self._open and now - self._sent < GATHER_S:
                return
            self._sent = now
            held, self._held = self._held, []
        self._queue.put(held)

    def take(self) -> list[Report]:
        """What has come; nothing where nothing comes soon: Ray interrupts this thread to cancel it, and a long wait
        would not notice."""
        soon = self._gathers and time.monotonic() - self._begun < SIGN_OF_LIFE_S
        try:
            found = self._queue.get(timeout=0.02 if soon else 0.1)
        except queue.Empty:
            with self._lock:
                found, self._held = self._held, []
        self.left.difference_update(report.region for report in found if report.ended is not None)
        return found


def process(launch: bytes) -> _Process:
    """The process's state for this launch, made once."""
    with _lock:
        found = _processes.get(launch)
        if found is None:
            found = _processes[launch] = _Process(launch)
        return found


def run_regions(launch: bytes, encoded: bytes, submitted_at: float) -> Iterator[bytes]:
    """Run regions to their ends; yields frames of encoded reports. The body of the Ray task.

    `submitted_at` (seconds since the epoch) tells whether the task had to wait; nothing else rests on it.
    """
    regions = regions_decoder.decode(encoded)
    if abs(time.time() - submitted_at) > SIGN_OF_LIFE_S:
        yield _encoder.encode([_begun(region.id) for region in regions])
    here = process(launch)
    outbox = _Outbox(regions)
    running = here.begin(regions, outbox.put)
    begun = looked = time.monotonic()
    silent = True
    try:
        while outbox.left:
            try:
                while outbox.left:
                    found = outbox.take()
                    now = time.monotonic()
                    if silent and not found and now - begun >= SIGN_OF_LIFE_S:
                        found = [_begun(region_id) for region_id in sorted(outbox.left)]
                    if found:
                        silent = False
                        yield _encoder.encode(found)
                    elif len(regions) > 1 and now - looked >= LOOK_S:
                        looked = now
                        running.cancel(mail.read(regions[0].id))
            except KeyboardInterrupt:
                # What has finished is still brought home, in the regions' last reports.
                running.cancel()
    finally:
        if outbox.left:
            # The interrupt hit Ray itself, and the task is over for it. This process serves others next:
            # it must not have a loop that is still busy with these regions.
            running.cancel()
            if not running.over.wait(LEAVE_S):
                os._exit(JAMMED_EXIT)


def _begun(region_id: str) -> Report:
    return Report(region=region_id, worker=f"{os.getpid()}@{socket.gethostname()}")
