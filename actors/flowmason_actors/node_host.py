"""The node host: a long-lived asynchronous actor in which many effect calls overlap.

Reports are kept per call until whoever submitted it has drained them, so a new conductor that names the
same call (`attach`) gets all of them from the start instead of paying twice. A loop that is silent for 2 s
is taken for blocked: the process ends itself, and its calls are lost rather than late.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from flowmason.errors import Code, Failure
from flowmason.executor import WorkerSettings
from flowmason.ids import RunId
from flowmason.report import Ended, Region, Report, region_decoder

SILENCE_S = 2.0
IDLE_S = 300.0
KEPT_CALLS = 4096
KEPT_RUNS = 10_000
_TICK_S = 0.25
_BLOCKED_EXIT = 70

_encoder = msgspec.msgpack.Encoder()


@dataclass(slots=True, eq=False)
class _Call:
    region: Region
    client: str
    task: asyncio.Task[None] | None = None
    reports: list[bytes] = field(default_factory=list)
    ended: bool = False
    fenced: bool = False


class NodeHost:
    """Runs the calls of regions that are placed on a host. The class of a Ray actor; usable without Ray in tests."""

    def __init__(self, settings: bytes, *, exit_when_idle: bool = True) -> None:
        from flowmason.region import Worker

        self._worker = Worker(msgspec.msgpack.decode(settings, type=WorkerSettings))
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._epochs: OrderedDict[RunId, int] = OrderedDict()
        self._outboxes: dict[str, list[bytes]] = {}
        self._waiting: dict[str, asyncio.Event] = {}
        self._retired = False
        self._exit_when_idle = exit_when_idle
        self._beat = self._used = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def ready(self) -> int:
        """Begin to beat; returns the pid."""
        if self._ticker is None:
            self._loop = asyncio.get_running_loop()
            self._ticker = self._loop.create_task(self._tick())
            threading.Thread(target=self._watch, daemon=True, name="flowmason-host-watch").start()
        return os.getpid()

    async def submit(self, client: str, regions: Sequence[bytes]) -> bool:
        """Begin calls for `client`. False: the host is retired and has begun none of them."""
        self._used = time.monotonic()
        if self._retired:
            return False
        for encoded in regions:
            self._begin(client, region_decoder.decode(encoded))
        return True

    def _begin(self, client: str, region: Region) -> None:
        highest = self._epochs.get(region.run_id, 0)
        if region.epoch < highest:
            self._refuse(client, region, f"epoch {region.epoch} was superseded by {highest}")
            return
        self._epochs[region.run_id] = region.epoch
        self._epochs.move_to_end(region.run_id)
        while len(self._epochs) > KEPT_RUNS:
            self._epochs.popitem(last=False)
        known = self._calls.get(region.id)
        if known is not None and not known.fenced:
            known.client = client
            for report in known.reports:
                self._send(client, report)
            return
        if region.attach:
            self._refuse(client, region, "this host does not know the call")
            return
        call = _Call(region, client)
        self._calls[region.id] = call
        call.task = asyncio.get_running_loop().create_task(self._run(call))
        self._forget()

    async def _run(self, call: _Call) -> None:
        loop = asyncio.get_running_loop()
        ended: Ended | None = None

        def emit(report: Report) -> None:
            if threading.get_ident() == self._thread:
                self._take(call, report)
            else:
                loop.call_soon_threadsafe(self._take, call, report)

        self._thread = threading.get_ident()
        try:
            await self._worker.run(call.region, emit)
        except asyncio.CancelledError:
            ended = Ended.CANCELLED
        except Exception as error:
            ended = Ended.LOST
            failure = Failure(code=Code.INTERNAL, message=f"{type(error).__name__}: {error}")
            self._take(call, Report(region=call.region.id, ended=ended, failure=failure))
        if not call.ended:
            self._take(call, Report(region=call.region.id, ended=ended or Ended.DONE))

    def _take(self, call: _Call, report: Report) -> None:
        if call.fenced or call.ended:
            return
        call.ended = report.ended is not None
        encoded = _encoder.encode(report)
        call.reports.append(encoded)
        self._used = time.monotonic()
        self._send(call.client, encoded)

    def _refuse(self, client: str, region: Region, reason: str) -> None:
        failure = Failure(code=Code.FENCED, message=reason)
        self._send(client, _encoder.encode(Report(region=region.id, ended=Ended.REFUSED, failure=failure)))

    def _send(self, client: str, report: bytes) -> None:
        self._outboxes.setdefault(client, []).append(report)
        waiting = self._waiting.get(client)
        if waiting is not None:
            waiting.set()

    async def drain(self, client: str, acknowledged: Sequence[str] = (), wait_s: float = 10.0) -> list[bytes]:
        """The reports that came for `client` since its last call; waits for the first for at most `wait_s`.

        `acknowledged` names calls whose last report the client has recorded: they are forgotten.
        """
        for region_id in acknowledged:
            call = self._calls.get(region_id)
            if call is not None and call.ended:
                del self._calls[region_id]
        if not self._outboxes.get(client):
            event = self._waiting.setdefault(client, asyncio.Event())
            event.clear()
            try:
                await asyncio.wait_for(event.wait(), wait_s)
            except TimeoutError:
                return []
            # One turn of the loop: calls that end together travel together.
            await asyncio.sleep(0)
        return self._outboxes.pop(client, [])

    async def cancel(self, region_id: str, grace_s: float) -> bool:
        """Cancel a call. One that does not end within the grace is fenced, reported lost, and retires the host."""
        call = self._calls.get(region_id)
        if call is None or call.ended or call.task is None:
            return True
        call.task.cancel()
        await asyncio.wait([call.task], timeout=grace_s)
        if call.ended:
            return True
        message = f"the call did not stop within {grace_s:g} s of being cancelled"
        self._take(call, Report(region=region_id, ended=Ended.LOST, failure=Failure(code=Code.LOST, message=message)))
        call.fenced = True
        self._retired = True
        return False

    async def retire(self) -> None:
        """Take no new calls; end once the running ones have."""
        self._retired = True

    def _forget(self) -> None:
        surplus = len(self._calls) - KEPT_CALLS
        if surplus > 0:
            for region_id in [key for key, call in self._calls.items() if call.ended][:surplus]:
                del self._calls[region_id]

    async def _tick(self) -> None:
        while True:
            self._beat = time.monotonic()
            under_way = any(not call.ended for call in self._calls.values())
            idle = self._beat - self._used
            if self._exit_when_idle and not under_way and (idle > IDLE_S or (self._retired and idle > SILENCE_S)):
                os._exit(0)
            await asyncio.sleep(_TICK_S)

    def _watch(self) -> None:
        while True:
            time.sleep(_TICK_S)
            if time.monotonic() - self._beat > SILENCE_S:
                os._exit(_BLOCKED_EXIT)
