"""`RayExecutor`: regions as Ray tasks, calls of effects on long-lived node hosts.

Ray's own retries are off: what became of a lost region is for the engine to decide. No call here blocks the
event loop, and no user's exception crosses Ray: a worker's death is a report.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from flowmason.errors import Code, Failure
from flowmason.executor import Capacity, WorkerSettings
from flowmason.policy import Placement, Resources
from flowmason.report import Ended, Region, Report, region_encoder, report_decoder
from flowmason_actors.launch import launch_of
from flowmason_cluster import joining, ray_start, resources

if TYPE_CHECKING:
    from flowmason_cluster.hosts import Hosts

HOST_SLOTS = 512
REFRESH_S = 10.0
WAITING_S = 5.0
LONGEST_WAIT_S = 3600.0
FETCH_S = 5.0


class _Task:
    """A region that runs as a Ray task."""

    def __init__(self, region: Region, stream: Any) -> None:
        self.region = region
        self.stream = stream
        self.asked = False
        self.forced = False
        self.over = asyncio.Event()


class RayExecutor:
    """Runs regions on Ray.

    `address` joins a cluster; None: `RAY_ADDRESS`, the warm cluster of `fm cluster up`, or a local Ray that ends with
    this process (`"local"` asks for that one). `allow_open` accepts a Ray without a token. `num_cpus` is for a local
    Ray (None: as many as there are).
    """

    name = "ray"

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        address: str | None = None,
        allow_open: bool = False,
        num_cpus: int | None = None,
    ) -> None:
        self._settings = settings
        self._address = address
        self._allow_open = allow_open
        self._num_cpus = num_cpus
        self.cluster: ray_start.Cluster | None = None
        """What this process is connected to, once started."""
        self._launch = b""
        self._task_function: Any = None
        self._nodes: list[dict[str, float]] = []
        self._tasks: dict[str, _Task] = {}
        self._hosts: Hosts | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to Ray. Raises `EngineUnavailableError`."""
        cluster = await asyncio.to_thread(
            ray_start.connect, self._address, allow_open=self._allow_open, num_cpus=self._num_cpus
        )
        self.cluster = cluster
        import ray
        from flowmason_cluster.hosts import Hosts
        from flowmason_cluster.task import run_region

        self._launch = launch_of(self._settings, os.environ, share=cluster.own)
        self._nodes = resources.alive(await asyncio.to_thread(ray.nodes))
        joining.refuse_many_nodes(len(self._nodes), self._settings.values_url, os.environ)
        if cluster.kind == "joined":
            await joining.check_versions(cluster.address)
        self._task_function = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(run_region)
        self._hosts = Hosts(self._launch, detached=cluster.kind != "local")
        if cluster.kind != "local":
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        """Nodes of a cluster that is not ours alone come and go."""
        import ray

        while True:
            await asyncio.sleep(REFRESH_S)
            with contextlib.suppress(Exception):
                self._nodes = resources.alive(await asyncio.to_thread(ray.nodes)) or self._nodes

    def capacity(self) -> Capacity:
        """One task per CPU of the cluster; the hosts overlap `HOST_SLOTS` calls."""
        return Capacity(max(1, int(sum(node.get("CPU", 0) for node in self._nodes))), HOST_SLOTS)

    def infeasible(self, placement: Placement, resources_: Resources) -> str | None:
        """What no node has; Ray itself would wait for it for ever."""
        if placement is Placement.HOST and not resources_:
            return None
        return resources.lacking(resources_, self._nodes)

    def submit(self, region: Region) -> AsyncIterator[Report]:
        """Run a region as a task or on a host."""
        if region.placement is Placement.HOST:
            assert self._hosts is not None
            return self._hosts.submit(region)
        if region.attach:
            return _gone(region)
        return self._run_task(region)

    async def _run_task(self, region: Region) -> AsyncIterator[Report]:
        import ray

        stream = self._task_function.options(name=region.name, **resources.task_options(region.resources)).remote(
            self._launch, region_encoder.encode(region), time.time()
        )
        task = self._tasks[region.id] = _Task(region, stream)
        ended = False
        try:
            async for report in self._reports(region, stream):
                ended = report.ended is not None
                yield report
                if ended:
                    return
            ended = True
            if task.asked and not region.effect:
                # Ray now and then drops the last frame of a task that it was asked to cancel.
                yield Report(region=region.id, ended=Ended.CANCELLED)
            else:
                yield Report(region=region.id, ended=Ended.LOST, failure=_lost("the worker ended without a word"))
        except ray.exceptions.RayError as error:
            ended = True
            yield _post_mortem(task, error)
        finally:
            self._tasks.pop(region.id, None)
            task.over.set()
            if not ended:
                # Whoever listened has gone; nobody else would end it.
                with contextlib.suppress(Exception):
                    ray.cancel(stream, force=True)

    async def _reports(self, region: Region, stream: Any) -> AsyncIterator[Report]:
        """Decoded reports. While the task waits for a CPU of a busy cluster, empty ones: it is not stuck."""
        since = time.monotonic()
        first = asyncio.ensure_future(anext(stream, None))
        try:
            while not (await asyncio.wait([first], timeout=WAITING_S))[0]:
                if time.monotonic() - since < LONGEST_WAIT_S:
                    yield Report(region=region.id)
        finally:
            first.cancel()
        frame = first.result()
        if frame is not None:
            yield report_decoder.decode(await self._fetch(frame))
            async for frame in stream:
                yield report_decoder.decode(await self._fetch(frame))

    async def _fetch(self, frame: Any) -> bytes:
        """A frame that has arrived. On this machine it is at hand, and awaiting it costs a tenth of the round trip."""
        import ray

        assert self.cluster is not None
        found: bytes = ray.get(frame, timeout=FETCH_S) if self.cluster.own else await frame
        return found

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        """Interrupt a task, and end its worker after the grace; for a call on a host see `NodeHost.cancel`."""
        import ray

        task = self._tasks.get(region_id)
        if task is None:
            if self._hosts is not None:
                await self._hosts.cancel(region_id, grace_s)
            return
        if grace_s > 0:
            task.asked = True
            ray.cancel(task.stream, force=False)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(task.over.wait(), grace_s)
        if not task.over.is_set():
            task.forced = True
            with contextlib.suppress(Exception):
                ray.cancel(task.stream, force=True)

    async def close(self) -> None:
        """End what is under way; a local Ray of our own ends too. Detached hosts outlive this."""
        if self.cluster is None:
            return
        import ray

        if self._refreshing is not None:
            self._refreshing.cancel()
        for task in list(self._tasks.values()):
            with contextlib.suppress(Exception):
                ray.cancel(task.stream, force=True)
        if self._hosts is not None:
            await self._hosts.close()
        await asyncio.to_thread(ray_start.disconnect)
        self.cluster = None


def _post_mortem(task: _Task, error: Exception) -> Report:
    """What Ray's error means for the region."""
    import ray

    region = task.region
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        failure = Failure(code=Code.RESOURCE_EXHAUSTED, message=f"the worker ran out of memory: {_line(error)}")
        return Report(region=region.id, ended=Ended.LOST, failure=failure)
    if isinstance(error, ray.exceptions.TaskCancelledError) and not task.forced and not region.effect:
        return Report(region=region.id, ended=Ended.CANCELLED)
    if task.forced:
        return Report(region=region.id, ended=Ended.LOST, failure=_lost("its worker was ended by force"))
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return Report(region=region.id, ended=Ended.LOST, failure=_lost("its worker process died"))
    return Report(region=region.id, ended=Ended.LOST, failure=_lost(f"its worker died: {_line(error)}"))


async def _gone(region: Region) -> AsyncIterator[Report]:
    # A Ray task dies with the driver that submitted it.
    yield Report(region=region.id, ended=Ended.REFUSED, failure=_lost("the task died with its conductor"))


def _lost(message: str) -> Failure:
    return Failure(code=Code.LOST, message=message)


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__
