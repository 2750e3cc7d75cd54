"""The conductor's side of node hosts: submits in batches, drains in one long poll, notices deaths."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

from flowmason.errors import Code, Failure
from flowmason.report import Ended, Region, Report, region_encoder, report_decoder

_START_S = 60.0


class HostClient:
    """Keeps one node host for these settings, and routes its reports to the calls that wait for them.

    A `detached` host outlives this process, so that another conductor can attach to its calls.
    """

    def __init__(self, settings: bytes, *, detached: bool) -> None:
        self._settings = settings
        self._detached = detached
        self._client = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._name = f"flowmason-host-{hashlib.sha256(settings).hexdigest()[:12]}"
        self._host: _Host | None = None
        self._starting: asyncio.Lock = asyncio.Lock()
        self._queues: dict[str, asyncio.Queue[Report]] = {}
        self._placed: dict[str, _Host] = {}
        self._outbox: list[Region] = []
        self._flushing: asyncio.Task[None] | None = None

    def submit(self, region: Region) -> AsyncIterator[Report]:
        """Run a call; regions submitted in the same turn of the loop travel in one batch."""
        self._queues[region.id] = asyncio.Queue()
        self._outbox.append(region)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush())
        return self._stream(region.id)

    async def _stream(self, region_id: str) -> AsyncIterator[Report]:
        reports = self._queues[region_id]
        try:
            while True:
                report = await reports.get()
                yield report
                if report.ended is not None:
                    return
        finally:
            self._queues.pop(region_id, None)
            host = self._placed.pop(region_id, None)
            if host is not None:
                host.acknowledged.append(region_id)

    async def _flush(self) -> None:
        await asyncio.sleep(0)
        while self._outbox:
            batch, self._outbox = self._outbox, []
            try:
                await self._send(batch)
            except Exception as error:
                self._lose([region.id for region in batch], str(error) or type(error).__name__)
        self._flushing = None

    async def _send(self, batch: list[Region]) -> None:
        encoded = [region_encoder.encode(region) for region in batch]
        for _ in range(3):
            host = await self._ready()
            for region in batch:
                self._placed[region.id] = host
            if await host.actor.submit.remote(self._client, encoded):
                return
            host.retired = True
        raise RuntimeError("node hosts keep refusing calls")

    async def _ready(self) -> _Host:
        async with self._starting:
            if self._host is None or self._host.retired:
                self._host = await self._start()
            return self._host

    async def _start(self) -> _Host:
        import ray
        from flowmason_actors.node_host import NodeHost

        remote = ray.remote(NodeHost)
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 10_000}
        if self._detached:
            options.update(name=self._name, lifetime="detached", get_if_exists=True)
        for attempt in range(5):
            actor = remote.options(**options).remote(self._settings)
            try:
                async with asyncio.timeout(_START_S):
                    pid = await actor.ready.remote()
                break
            except ray.exceptions.RayActorError:
                # A host that was dying when it was found by name; its name is free in a moment.
                if attempt == 4:
                    raise
                await asyncio.sleep(0.2)
        host = _Host(actor, pid)
        host.drain = asyncio.get_running_loop().create_task(self._drain(host))
        return host

    async def _drain(self, host: _Host) -> None:
        try:
            while True:
                acknowledged, host.acknowledged = host.acknowledged, []
                for encoded in await host.actor.drain.remote(self._client, acknowledged):
                    report = report_decoder.decode(encoded)
                    reports = self._queues.get(report.region)
                    if reports is not None:
                        reports.put_nowait(report)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            host.retired = True
            lost = [region_id for region_id, placed in self._placed.items() if placed is host]
            self._lose(lost, f"the node host (pid {host.pid}) died: {_line(error)}")

    def _lose(self, region_ids: list[str], reason: str) -> None:
        failure = Failure(code=Code.LOST, message=reason)
        for region_id in region_ids:
            reports = self._queues.get(region_id)
            if reports is not None:
                reports.put_nowait(Report(region=region_id, ended=Ended.LOST, failure=failure))

    async def cancel(self, region_id: str, grace_s: float) -> None:
        """Cancel a call on its host; one that does not stop retires the host."""
        host = self._placed.get(region_id)
        if host is None:
            return
        with contextlib.suppress(Exception):
            if not await host.actor.cancel.remote(region_id, grace_s):
                host.retired = True

    @property
    def pid(self) -> int | None:
        """The host's process, once there is one."""
        return self._host.pid if self._host is not None else None

    async def close(self) -> None:
        """Stop listening; a host that is not detached ends."""
        import ray

        if self._host is None:
            return
        if self._host.drain is not None:
            self._host.drain.cancel()
        if not self._detached:
            with contextlib.suppress(Exception):
                ray.kill(self._host.actor)


class _Host:
    """One node host as seen from here."""

    def __init__(self, actor: Any, pid: int) -> None:
        self.actor = actor
        self.pid = pid
        self.retired = False
        self.acknowledged: list[str] = []
        self.drain: asyncio.Task[None] | None = None


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
