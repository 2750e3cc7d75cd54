"""The Ray task that runs a region: the region on a loop in a thread, its reports yielded as they come.

Module-level state belongs to the worker process: Ray keeps workers warm, so that the second region finds
components imported and providers open.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator

import msgspec
from flowmason.executor import WorkerSettings
from flowmason.report import Ended, Report, region_decoder

_encoder = msgspec.msgpack.Encoder()
_lock = threading.Lock()
_processes: dict[bytes, _Process] = {}


class _Process:
    """What one worker process keeps between regions: a loop in a thread, and a `Worker`."""

    def __init__(self, settings: bytes) -> None:
        from flowmason.region import Worker

        self.loop = asyncio.new_event_loop()
        self.worker = Worker(msgspec.msgpack.decode(settings, type=WorkerSettings))
        threading.Thread(target=self.loop.run_forever, daemon=True, name="flowmason-region").start()


def process(settings: bytes) -> _Process:
    """The process's state for these settings, made once."""
    with _lock:
        found = _processes.get(settings)
        if found is None:
            found = _processes[settings] = _Process(settings)
        return found


def run_region(settings: bytes, encoded: bytes) -> Iterator[bytes]:
    """Run a region to its end; yields encoded reports. The body of the Ray task."""
    here = process(settings)
    region = region_decoder.decode(encoded)
    reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
    call = asyncio.run_coroutine_threadsafe(here.worker.run(region, reports.put), here.loop)
    try:
        while True:
            try:
                # Ray interrupts the main thread to cancel it; a wait without end would not notice.
                report = reports.get(timeout=0.1)
            except queue.Empty:
                if not call.done():
                    continue
                report = Report(region=region.id, ended=Ended.CANCELLED if call.cancelled() else Ended.LOST)
            yield _encoder.encode(report)
            if report.ended is not None:
                return
    finally:
        call.cancel()
