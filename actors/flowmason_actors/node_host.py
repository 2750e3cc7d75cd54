"""The node host: a long-lived asynchronous actor in which many effect calls overlap.

The reports of a call are kept after it has ended (until acknowledged, and within bounds), so a new conductor
that names the same call (`attach`) gets all of them from the start instead of paying twice. A loop that is
silent for 2 s is blocked: the process ends itself, and its calls are lost rather than late.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec

from flowmason.errors import Code, Failure
from flowmason.ids import RunId
from flowmason.report import Ended, Region, Report, region_decoder
from flowmason_actors.launch import open_worker
from flowmason_actors.watch import Watch

IDLE_S = 300.0
KEPT_CALLS = 4096
KEPT_BYTES = 32 * 1024 * 1024
KEPT_RUNS = 10_000
CLIENT_SILENCE_S = 60.0
"""A client that has not drained for that long is gone; what waits for it is dropped (calls keep their own)."""
SHORTEST_GRACE_S = 0.2
_RETIRED_IDLE_S = 2.0
_TICK_S = 0.25

_encoder = msgspec.msgpack.Encoder()


@dataclass(slots=True, eq=False)
class _Call:
    region: Region
    client: str
    task: asyncio.Task[None] | None = None
    reports: list[bytes] = field(default_factory=list)
    size: int = 0
    ended: bool = False
    fenced: bool = False


@dataclass(slots=True, eq=False)
class _Client:
    waiting: asyncio.Event
    outbox: list[bytes] = field(default_factory=list)
    seen: float = field(default_factory=time.monotonic)


class NodeHost:
    """Runs the calls of regions that are placed on a host. The class of a Ray actor; it works without Ray, too.

    `launch` is an encoded `Launch`. Times in seconds: `silence_s` after which a silent loop is blocked (0: nobody
    watches), `idle_s` without calls after which the process ends (0: never).
    """

    def __init__(self, launch: bytes, *, silence_s: float = 2.0, idle_s: float = IDLE_S) -> None:
        self._worker = open_worker(launch)
        self._idle_s = idle_s
        self._watch = Watch(silence_s) if silence_s else None
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._kept = 0
        self._epochs: OrderedDict[RunId, int] = OrderedDict()
        self._clients: dict[str, _Client] = {}
        self._retired = False
        self._used = time.monotonic()
        self._lock = threading.Lock()
        self._ready_components: set[tuple[str, str]] = set()
        self._importing = ThreadPoolExecutor(1, thread_name_prefix="flowmason-import")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def ready(self) -> int:
        """Begin to beat; returns the pid."""
        if self._ticker is None:
            self._loop = asyncio.get_running_loop()
            self._ticker = self._loop.create_task(self._tick())
            if self._watch is not None:
                self._watch.start()
        return os.getpid()

    # -- calls -----------------------------------------------------------------------------------

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
            with self._lock:
                known.client = client
                replay = list(known.reports)
                self._send(client, replay)
            return
        if region.attach:
            self._refuse(client, region, "this host does not know the call")
            return
        call = _Call(region, client)
        self._calls[region.id] = call
        call.task = asyncio.get_running_loop().create_task(self._run(call))

    async def _run(self, call: _Call) -> None:
        ended, failure = Ended.DONE, None
        try:
            await self._import(call.region)
            await self._worker.run(call.region, lambda report: self._take(call, report))
        except asyncio.CancelledError:
            ended = Ended.CANCELLED
        except Exception as error:
            ended = Ended.LOST
            failure = Failure(code=Code.INTERNAL, message=f"{type(error).__name__}: {error}")
        # The region's own last report came first; this one counts only where there was none.
        call.region = msgspec.structs.replace(call.region, handed=None)
        self._take(call, Report(region=call.region.id, ended=ended, failure=failure))

    async def _import(self, region: Region) -> None:
        """Import what a call needs in a thread: a slow import is no blocked loop."""
        wanted = {(piece.plan, name) for piece in region.pieces for name in piece.stages} - self._ready_components
        if wanted:
            await asyncio.get_running_loop().run_in_executor(self._importing, self._import_now, region)
            self._ready_components |= wanted

    def _import_now(self, region: Region) -> None:
        worker = self._worker
        try:
            for piece in region.pieces:
                plan = worker.plan_of(region, piece.plan)
                for name in piece.stages:
                    ref = plan.components.get(plan.stages[name].component)
                    if ref is None:
                        continue
                    worker.component(ref)
                    provider = region.options.get("provider") or worker.services.default_provider
                    if ref.models and provider:
                        for each in worker.services.candidates(provider):
                            worker.services.provider(each.provider, region)
        except Exception:
            return  # the stage meets the same error, and reports it in its own name

    def _take(self, call: _Call, report: Report) -> None:
        """Keep a report and send it; called from the loop and from the worker's pulse, in order."""
        with self._lock:
            if call.fenced or call.ended:
                return
            call.ended = report.ended is not None
            encoded = _encoder.encode(report)
            call.reports.append(encoded)
            call.size += len(encoded)
            if call.ended:
                self._kept += call.size
            self._used = time.monotonic()
            self._send(call.client, [encoded])

    def _refuse(self, client: str, region: Region, reason: str) -> None:
        failure = Failure(code=Code.FENCED, message=reason)
        with self._lock:
            self._send(client, [_encoder.encode(Report(region=region.id, ended=Ended.REFUSED, failure=failure))])

    # -- reports ---------------------------------------------------------------------------------

    def _send(self, name: str, reports: Sequence[bytes]) -> None:
        client = self._client(name)
        if not client.outbox and reports:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(client.waiting.set)
        client.outbox.extend(reports)

    def _client(self, name: str) -> _Client:
        found = self._clients.get(name)
        if found is None:
            found = self._clients[name] = _Client(asyncio.Event())
        return found

    async def drain(self, client: str, acknowledged: Sequence[str] = (), wait_s: float = 10.0) -> list[bytes]:
        """The reports that came for `client` since its last call; waits for the first for at most `wait_s`.

        `acknowledged` names calls whose end has been recorded: they are forgotten.
        """
        for region_id in acknowledged:
            call = self._calls.get(region_id)
            if call is not None and call.ended:
                self._forget(region_id)
        here = self._client(client)
        here.seen = time.monotonic()
        if not here.outbox:
            here.waiting.clear()
            try:
                await asyncio.wait_for(here.waiting.wait(), wait_s)
            except TimeoutError:
                return []
            # One turn of the loop: calls that end together travel together.
            await asyncio.sleep(0)
        with self._lock:
            found, here.outbox = here.outbox, []
        return found

    # -- ends ------------------------------------------------------------------------------------

    async def cancel(self, region_id: str, grace_s: float) -> bool:
        """Cancel a call. One that does not end within the grace is fenced, reported lost, and retires the host.

        A grace below 0.2 s is taken for 0.2 s. Returns whether the host still takes calls.
        """
        call = self._calls.get(region_id)
        if call is None or call.ended or call.task is None:
            return not self._retired
        call.task.cancel()
        await asyncio.wait([call.task], timeout=max(grace_s, SHORTEST_GRACE_S))
        if call.ended:
            return not self._retired
        message = f"the call did not stop within {grace_s:g} s of being cancelled"
        self._take(call, Report(region=region_id, ended=Ended.LOST, failure=Failure(code=Code.LOST, message=message)))
        call.fenced = True
        self._retired = True
        return False

    async def retire(self) -> None:
        """Take no new calls; end once the running ones have."""
        self._retired = True

    def _forget(self, region_id: str) -> None:
        self._kept -= self._calls.pop(region_id).size

    def _tidy(self, now: float) -> None:
        if len(self._calls) > KEPT_CALLS or self._kept > KEPT_BYTES:
            for region_id in [key for key, call in self._calls.items() if call.ended]:
                if len(self._calls) <= KEPT_CALLS and self._kept <= KEPT_BYTES:
                    break
                self._forget(region_id)
        for name in [name for name, client in self._clients.items() if now - client.seen > CLIENT_SILENCE_S]:
            del self._clients[name]

    async def _tick(self) -> None:
        while True:
            if self._watch is not None:
                self._watch.beat()
            now = time.monotonic()
            self._tidy(now)
            # A fenced call counts as ended here, and its leftovers end with the process.
            under_way = any(call.task is not None and not call.task.done() for call in self._calls.values())
            idle = now - self._used
            gone = (self._idle_s and idle > self._idle_s) or (self._retired and idle > _RETIRED_IDLE_S)
            if gone and (not under_way or self._only_fenced()):
                os._exit(0)
            await asyncio.sleep(_TICK_S)

    def _only_fenced(self) -> bool:
        return all(call.ended for call in self._calls.values())
