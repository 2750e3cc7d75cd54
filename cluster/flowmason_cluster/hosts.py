"""The conductor's side of node hosts: calls go out in batches, reports come by long poll, deaths are noticed.

All calls share one host. A call that has blocked its host twice gets a host of its own from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from importlib.metadata import version
from typing import Any

import msgspec

from flowmason.errors import Code, Failure
from flowmason.ids import PlanId, StageId
from flowmason.report import Ended, Region, Report, read_report, region_encoder
from flowmason_actors.watch import Blame, blame_key
from flowmason_cluster.vigil import Vigil

BLOCKS_UNTIL_ALONE = 2
ACKNOWLEDGE_AFTER_S = 30.0
"""The end of a call is recorded well within this time after it has arrived; until then its host remembers it."""
UNAVAILABLE_S = 20.0
"""A host that Ray calls temporarily unavailable is asked again for so long before it is taken for dead."""
_START_S = 60.0
_ANSWER_S = 5.0
_GENERATIONS = 8

Key = tuple[PlanId, tuple[StageId, ...]]


class _Host:
    """One node host as seen from here."""

    def __init__(self, actor: Any, pid: int) -> None:
        self.actor = actor
        self.pid = pid
        self.retired = False
        self.acknowledged: deque[tuple[float, str]] = deque()
        self.draining: asyncio.Task[None] | None = None

    def due(self) -> list[str]:
        """Calls whose end may be acknowledged now."""
        now, found = time.monotonic(), []
        while self.acknowledged and self.acknowledged[0][0] <= now:
            found.append(self.acknowledged.popleft()[1])
        return found


class _Call:
    """A call as seen from here."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.key: Key = (region.plan, region.pieces[0].stages if region.pieces else ())
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.host: _Host | None = None
        self.withdrawn = False

    def end(self, ended: Ended, message: str | None = None) -> None:
        """Deliver a last report of our own."""
        failure = None if message is None else Failure(code=Code.LOST, message=message)
        self.reports.put_nowait(Report(region=self.region.id, ended=ended, failure=failure))


class Hosts:
    """Keeps the node hosts for one launch, and routes their reports to the calls that wait for them.

    `detached` hosts outlive this process, so that another conductor can attach to their calls. `placing` gives the
    options of a new one that say where it may be.
    """

    def __init__(
        self,
        launch: bytes,
        vigil: Vigil,
        *,
        detached: bool,
        placing: Callable[[], dict[str, Any]] = dict,
        **host_options: float,
    ) -> None:
        self._launch = launch
        self._vigil = vigil
        self._placing = placing
        self._detached = detached
        self._host_options = host_options
        self._client = f"{os.getpid()}-{secrets.token_hex(4)}"
        digest = hashlib.sha256(launch + version("flowmason").encode()).hexdigest()[:16]
        self._name = f"flowmason-host-{digest}"
        self._hosts: dict[Key | None, _Host] = {}
        self._retired: list[_Host] = []
        self._starting = asyncio.Lock()
        self._calls: dict[str, _Call] = {}
        self._outbox: list[_Call] = []
        self._flushing: set[asyncio.Task[None]] = set()
        self._blocks: Counter[Key] = Counter()

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, region: Region) -> AsyncIterator[Report]:
        """Run a call; those submitted in the same turn of the loop travel in one batch."""
        call = self._calls[region.id] = _Call(region)
        self._outbox.append(call)
        if len(self._outbox) == 1:
            task = asyncio.get_running_loop().create_task(self._flush())
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)
        return self._stream(call)

    async def _stream(self, call: _Call) -> AsyncIterator[Report]:
        try:
            while True:
                report = await call.reports.get()
                yield report
                if report.ended is not None:
                    return
        finally:
            if self._calls.get(call.region.id) is call:
                del self._calls[call.region.id]
            if call.host is not None:
                call.host.acknowledged.append((time.monotonic() + ACKNOWLEDGE_AFTER_S, call.region.id))

    async def _flush(self) -> None:
        await asyncio.sleep(0)
        outbox, self._outbox = self._outbox, []
        batches: dict[Key | None, list[_Call]] = {}
        for call in outbox:
            alone = self._blocks[call.key] >= BLOCKS_UNTIL_ALONE
            batches.setdefault(call.key if alone else None, []).append(call)
        for key, batch in batches.items():
            try:
                await self._send(key, batch)
            except Exception as error:
                await self._vigil.still_there()
                for call in batch:
                    call.end(Ended.LOST, f"the node host could not be reached: {_line(error)}")

    async def _send(self, key: Key | None, batch: list[_Call]) -> None:
        for _ in range(_GENERATIONS):
            if key not in self._hosts and not self._detached:
                # Only a host that outlives its conductor knows calls of an earlier one.
                batch = self._without(batch, [call for call in batch if call.region.attach], Ended.REFUSED)
            host = await self._ready(key) if batch else None
            batch = self._without(batch, [call for call in batch if call.withdrawn], Ended.CANCELLED)
            if not batch or host is None:
                return
            for call in batch:
                call.host = host
            encoded = [region_encoder.encode(call.region) for call in batch]
            # A call that the host has begun already it does not begin again.
            if await _patiently(host.actor.submit, self._client, encoded):
                return
            self._retire(host)
        raise RuntimeError("node hosts keep refusing calls")

    def _without(self, batch: list[_Call], some: list[_Call], ended: Ended) -> list[_Call]:
        for call in some:
            call.end(ended, "the host that ran the call is gone" if ended is Ended.REFUSED else None)
        return [call for call in batch if call not in some]

    async def cancel(self, region_id: str, grace_s: float) -> None:
        """Cancel a call on its host. One that does not stop is lost and retires the host.

        A host that does not even answer is ended.
        """
        call = self._calls.get(region_id)
        if call is None:
            return
        host = call.host
        if host is None:
            call.withdrawn = True
            return
        try:
            async with asyncio.timeout(grace_s + _ANSWER_S):
                if not await _patiently(host.actor.cancel, region_id, grace_s):
                    self._retire(host)
        except TimeoutError:
            self._kill(host)
            self._lose(host, f"the node host (pid {host.pid}) did not answer and was ended")
        except Exception:
            return  # it died; whoever drains it says so

    # -- hosts -----------------------------------------------------------------------------------

    async def _ready(self, key: Key | None) -> _Host:
        found = self._hosts.get(key)
        if found is not None:
            return found
        async with self._starting:
            found = self._hosts.get(key)
            if found is None:
                found = self._hosts[key] = await self._start(shared=key is None)
            return found

    async def _start(self, *, shared: bool) -> _Host:
        import ray
        from flowmason_actors.node_host import NodeHost

        remote: Any = ray.remote(NodeHost)
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 10_000}
        options.update(self._placing())
        options["name"] = f"{self._name}-{self._client}-{secrets.token_hex(2)}"
        for generation in range(_GENERATIONS):
            if self._detached and shared:
                # A retired host keeps its name until it ends, and may be dying while it still has it.
                options.update(name=f"{self._name}-{generation}", lifetime="detached", get_if_exists=True)
            actor = remote.options(**options).remote(self._launch, **self._host_options)
            if any(actor._actor_id == retired.actor._actor_id for retired in self._retired):
                continue
            try:
                async with asyncio.timeout(_START_S):
                    pid = await _patiently(actor.ready)
            except ray.exceptions.RayActorError:
                if generation == _GENERATIONS - 1:
                    raise
                continue
            host = _Host(actor, pid)
            host.draining = asyncio.get_running_loop().create_task(self._drain(host))
            return host
        raise RuntimeError("every node host is retired")

    async def _drain(self, host: _Host) -> None:
        try:
            while True:
                for encoded in await self._next(host):
                    report = read_report(encoded)
                    call = self._calls.get(report.region)
                    if call is not None:
                        call.reports.put_nowait(report)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._vigil.still_there()
            reason = f"the node host (pid {host.pid}) died: {_line(error)}"
            blame = await self._blame(host)
            self._kill(host)
            if blame is None:
                self._lose(host, reason)
                return
            blamed = self._calls.get(blame.region)
            if blamed is not None:
                self._blocks[blamed.key] += 1
            self._lose(
                host,
                f"the node host (pid {host.pid}) was ended because {blame.region or 'something'} blocked its event "
                f"loop at {blame.where}",
            )

    async def _next(self, host: _Host) -> list[bytes]:
        """The next reports of a host. After it was unavailable for a while, its calls are attached to again.

        Reports that were on their way then come once more; nothing is recorded twice.
        """
        from ray.exceptions import ActorUnavailableError

        try:
            return await host.actor.drain.remote(self._client, host.due())  # type: ignore[no-any-return]
        except ActorUnavailableError:
            calls = [call for call in self._calls.values() if call.host is host]
            again = [region_encoder.encode(msgspec.structs.replace(call.region, attach=True)) for call in calls]
            if not await _patiently(host.actor.submit, self._client, again):
                self._retire(host)
            return []

    async def _blame(self, host: _Host) -> Blame | None:
        """The last words of a host whose loop was blocked."""
        from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get

        key = blame_key(host.actor._actor_id.hex())

        def take() -> Blame | None:
            found = _internal_kv_get(key)
            if not found:
                return None
            _internal_kv_del(key)
            return msgspec.json.decode(found, type=Blame)

        with contextlib.suppress(Exception):
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.to_thread(take)
        return None

    def _lose(self, host: _Host, reason: str) -> None:
        for call in list(self._calls.values()):
            if call.host is host:
                call.end(Ended.LOST, reason)

    def _retire(self, host: _Host) -> None:
        """Send it no more calls; those it has go on."""
        for key, other in list(self._hosts.items()):
            if other is host:
                del self._hosts[key]
        if not host.retired:
            host.retired = True
            self._retired.append(host)

    def _kill(self, host: _Host) -> None:
        import ray

        self._retire(host)
        with contextlib.suppress(Exception):
            ray.kill(host.actor)

    def pids(self) -> list[int]:
        """The processes of the hosts that take calls."""
        return [host.pid for host in self._hosts.values()]

    async def close(self) -> None:
        """Stop listening; hosts that are not detached end."""
        for task in list(self._flushing):
            task.cancel()
        everyone: Iterable[tuple[bool, _Host]] = [
            *((self._detached and key is None, host) for key, host in self._hosts.items()),
            *((self._detached, host) for host in self._retired),
        ]
        for stays, host in everyone:
            if host.draining is not None:
                host.draining.cancel()
            if not stays:
                self._kill(host)
        for call in list(self._calls.values()):
            call.end(Ended.LOST, "the executor was closed")


async def _patiently(ask: Any, *arguments: Any) -> Any:
    """Ask a host; while Ray calls it unavailable, ask again, within reason. Only for what may be asked twice."""
    from ray.exceptions import ActorUnavailableError

    deadline, delay = time.monotonic() + UNAVAILABLE_S, 0.1
    while True:
        try:
            return await ask.remote(*arguments)
        except ActorUnavailableError:
            if time.monotonic() + delay >= deadline:
                raise
        await asyncio.sleep(delay)
        delay = min(2 * delay, 2.0)


def _line(error: BaseException) -> str:
    """What went wrong, in one line: the cause where Ray only says that something failed, and how a worker ended."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {_line(cause)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines[1:] if "exit detail:" in line or line.startswith("The actor is dead because")]
    return " ".join([*lines[:1], *told])[:400] if lines else type(error).__name__
