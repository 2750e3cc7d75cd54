"""The Ray task that runs a region: the region on a loop in a thread, its reports yielded as they come.

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
from collections.abc import Iterator

import msgspec

from flowmason.errors import Code, Failure
from flowmason.executor import Emit
from flowmason.report import Ended, Region, Report, region_decoder
from flowmason_actors.launch import open_worker

SIGN_OF_LIFE_S = 1.0
"""A region that has said nothing for that long says that it has begun: until then it may be waiting for a CPU."""
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

    def begin(self, region: Region, emit: Emit) -> _Running:
        """Start a region on the loop. The last report that it emits has `ended`."""
        running = _Running(self._loop)
        self._loop.call_soon_threadsafe(self._start, running, region, emit)
        return running

    def _start(self, running: _Running, region: Region, emit: Emit) -> None:
        running.task = self._loop.create_task(self._run(region, emit))
        running.task.add_done_callback(lambda _: running.over.set())

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
    """A region on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.task: asyncio.Task[None] | None = None
        self.over = threading.Event()

    def cancel(self) -> None:
        """Ask it to end."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


def process(launch: bytes) -> _Process:
    """The process's state for this launch, made once."""
    with _lock:
        found = _processes.get(launch)
        if found is None:
            found = _processes[launch] = _Process(launch)
        return found


def run_region(launch: bytes, encoded: bytes, submitted_at: float) -> Iterator[bytes]:
    """Run a region to its end; yields encoded reports. The body of the Ray task.

    `submitted_at` (seconds since the epoch) tells whether the task had to wait; nothing else rests on it.
    """
    region = region_decoder.decode(encoded)
    if abs(time.time() - submitted_at) > SIGN_OF_LIFE_S:
        yield _encoder.encode(_begun(region.id))
    here = process(launch)
    reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
    running = here.begin(region, reports.put)
    silent_until: float | None = time.monotonic() + SIGN_OF_LIFE_S
    ended = False
    try:
        while not ended:
            try:
                while not ended:
                    report = _next(reports)
                    if report is None and silent_until is not None and time.monotonic() >= silent_until:
                        report = _begun(region.id)
                    if report is not None:
                        silent_until = None
                        ended = report.ended is not None
                        yield _encoder.encode(report)
            except KeyboardInterrupt:
                # What has finished is still brought home, in the region's last report.
                running.cancel()
    finally:
        if not ended:
            # The interrupt hit Ray itself, and the task is over for it. This process serves others next:
            # it must not have a loop that is still busy with this region.
            running.cancel()
            if not running.over.wait(LEAVE_S):
                os._exit(JAMMED_EXIT)


def _next(reports: queue.SimpleQueue[Report]) -> Report | None:
    """The next report, if it comes soon: Ray interrupts this thread to cancel it, and a long wait would not notice."""
    try:
        return reports.get(timeout=0.1)
    except queue.Empty:
        return None


def _begun(region_id: str) -> Report:
    return Report(region=region_id, worker=f"{os.getpid()}@{socket.gethostname()}")
