"""`RayExecutor`: regions as Ray tasks, calls of effects on long-lived node hosts.

Ray's own retries are off: what became of a lost region is for the engine to decide. No call here blocks the
event loop, and no user's exception crosses Ray: a worker's death is a report.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from flowmason.errors import Code, EngineUnavailableError, Failure
from flowmason.executor import Capacity, WorkerSettings
from flowmason.policy import Placement, Resources
from flowmason.report import Ended, Region, Report, read_reports, region_encoder
from flowmason_actors.launch import launch_of
from flowmason_cluster import joining, mail, nodes, ray_start, resources
from flowmason_cluster.vigil import Vigil, raylet_address

if TYPE_CHECKING:
    from flowmason_cluster.hosts import Hosts

HOST_SLOTS = 512
REFRESH_S = 5.0
WAITING_S = 5.0
LACKING_S = 10.0
"""How long a task waits for what no node has any more: a node that was lost may come back."""
LONGEST_WAIT_S = 3600.0
FETCH_S = 5.0
NAMES_KEPT = 512


class _Task:
    """Regions that run as one Ray task."""

    def __init__(self, regions: Sequence[Region], stream: Any) -> None:
        self.key = regions[0].id
        self.stream = stream
        self.open = {region.id: region for region in regions}
        self.over = {region.id: asyncio.Event() for region in regions}
        self.asked: set[str] = set()
        """Regions that were asked to end."""
        self.mailed = False
        self.forced = False

    def landed(self, region_id: str) -> None:
        """The region has ended."""
        self.open.pop(region_id, None)
        self.over[region_id].set()


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
        self._kept: dict[tuple[str, str], Any] = {}
        """The task under its names of late, the latest last."""
        self._nodes: list[dict[str, float]] = []
        self._tasks: dict[str, _Task] = {}
        self._hosts: Hosts | None = None
        self._newcomers: nodes.Newcomers | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to Ray. Raises `EngineUnavailableError`."""
        cluster = await asyncio.to_thread(
            ray_start.connect, self._address, allow_open=self._allow_open, num_cpus=self._num_cpus
        )
        self.cluster = cluster
        import ray
        from flowmason_cluster.hosts import Hosts
        from flowmason_cluster.task import run_regions

        known = await asyncio.to_thread(ray.nodes)
        self._nodes = resources.alive(known)
        joining.refuse_many_nodes(len(self._nodes), self._settings.values_url, os.environ)
        if cluster.kind == "joined" or len(self._nodes) > 1:
            await nodes.check(cluster.address, nodes.living(known), self._settings)
            self._nodes = resources.alive(await asyncio.to_thread(ray.nodes))
        if cluster.kind != "local":
            self._settings = await asyncio.to_thread(nodes.with_code, self._settings)
            self._newcomers = nodes.Newcomers(cluster.address, nodes.living(known), self._settings)
        self._launch = launch_of(self._settings, os.environ, share=cluster.own)
        self._task_function = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(run_regions)
        self._vigil = Vigil(cluster, await asyncio.to_thread(raylet_address))
        self._vigil.start()
        self._hosts = Hosts(self._launch, self._vigil, detached=cluster.kind != "local", placing=self._placing)
        if cluster.kind != "local":
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        """Nodes of a cluster that is not ours alone come and go."""
        import ray

        while True:
            await asyncio.sleep(REFRESH_S)
            with contextlib.suppress(Exception):
                known = await asyncio.to_thread(ray.nodes)
                if self._newcomers is not None:
                    await self._newcomers.look(nodes.living(known))
                    known = [node for node in known if node["NodeID"] not in self._newcomers.avoided]
                self._nodes = resources.alive(known) or self._nodes

    def _placing(self) -> dict[str, Any]:
        """Options that keep tasks and hosts away from nodes that lack something."""
        return {} if self._newcomers is None else self._newcomers.options()

    def capacity(self) -> Capacity:
        """One task per CPU of the cluster; the hosts overlap `HOST_SLOTS` calls."""
        return Capacity(max(1, int(sum(node.get("CPU", 0) for node in self._nodes))), HOST_SLOTS)

    def infeasible(self, placement: Placement, resources_: Resources) -> str | None:
        """What no node has; Ray itself would wait for it for ever."""
        if placement is Placement.HOST and not resources_:
            return None
        return resources.lacking(resources_, self._nodes)

    def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        """Run regions as one task, or one on a host."""
        if regions[0].placement is Placement.HOST:
            assert self._hosts is not None and len(regions) == 1
            return self._hosts.submit(regions[0])
        if regions[0].attach:
            return _gone(regions[0])
        return self._run_task(regions)

    async def _run_task(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        import ray

        remote = self._named(_name(regions), {**resources.task_options(regions[0].resources), **self._placing()})
        stream = remote(self._launch, region_encoder.encode(regions), time.time())
        task = _Task(regions, stream)
        self._tasks.update(dict.fromkeys(task.open, task))
        try:
            async for report in self._reports(task):
                if report.region not in task.open:
                    continue
                if report.ended is not None:
                    self._tasks.pop(report.region, None)
                    task.landed(report.region)
                yield report
            if task.open:
                await self._vigil.still_there()
            for region in list(task.open.values()):
                task.landed(region.id)
                if region.id in task.asked and not region.effect:
                    # Ray now and then drops the last frame of a task that it was asked to cancel.
                    yield Report(region=region.id, ended=Ended.CANCELLED)
                else:
                    yield Report(region=region.id, ended=Ended.LOST, failure=_lost("the worker ended without a word"))
        except ray.exceptions.RayError as error:
            await self._vigil.still_there()
            for region in list(task.open.values()):
                task.landed(region.id)
                yield _post_mortem(task, region, error)
        finally:
            if task.open:
                # Whoever listened has gone; nobody else would end it.
                with contextlib.suppress(Exception):
                    ray.cancel(stream, force=True)
            for region in regions:
                self._tasks.pop(region.id, None)
                task.landed(region.id)
            if task.mailed:
                await asyncio.to_thread(mail.remove, task.key)

    def _named(self, name: str, options: dict[str, Any]) -> Any:
        """The task under a name, with options. Ray checks them and makes a class of them each time, a quarter of what a
        submission costs: those of late are kept."""
        key = (name, repr(options))
        found = self._kept.pop(key, None)
        if found is None:
            found = self._task_function.options(name=name, **options).remote
            if len(self._kept) >= NAMES_KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[key] = found
        return found

    async def _reports(self, task: _Task) -> AsyncIterator[Report]:
        """Decoded reports. While the task waits for a CPU of a busy cluster, empty ones: it is not stuck.

        Where it waits for what only a lost node had, it is taken back: whoever dispatches it again refuses it by name.
        """
        import ray

        stream, since = task.stream, time.monotonic()
        lacking = 0.0
        first = asyncio.ensure_future(anext(stream, None))
        try:
            while not (await asyncio.wait([first], timeout=WAITING_S))[0]:
                wanted = next(iter(task.open.values())).resources if task.open else None
                short = None if wanted is None else resources.lacking(wanted, self._nodes)
                lacking = lacking + WAITING_S if short else 0.0
                if short and lacking >= LACKING_S:
                    ray.cancel(stream, force=True)
                    failure = Failure(code=Code.INFEASIBLE_RESOURCES, message=f"no node has it any more: {short}")
                    for region_id in list(task.open):
                        yield Report(region=region_id, ended=Ended.REFUSED, failure=failure)
                    return
                if time.monotonic() - since < LONGEST_WAIT_S:
                    for region_id in list(task.open):
                        yield Report(region=region_id)
        finally:
            first.cancel()
        frame = first.result()
        while frame is not None:
            for report in read_reports(await self._fetch(frame)):
                yield report
            if not task.open:
                return
            frame = await anext(stream, None)

    async def _fetch(self, frame: Any) -> bytes:
        """A frame that has arrived. On this machine it is at hand, and awaiting it costs a tenth of the round trip."""
        import ray

        assert self.cluster is not None
        found: bytes = ray.get(frame, timeout=FETCH_S) if self.cluster.own else await frame
        return found

    async def gone(self) -> EngineUnavailableError:
        """Return once the cluster is gone, saying what."""
        return await self._vigil.gone()

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        """Interrupt a task, and end its worker after the grace; for a call on a host see `NodeHost.cancel`."""
        import ray

        if self._vigil.over:
            return
        task = self._tasks.get(region_id)
        if task is None:
            if self._hosts is not None:
                await self._hosts.cancel(region_id, grace_s)
            return
        over = task.over[region_id]
        if grace_s > 0:
            task.asked.add(region_id)
            if task.asked.issuperset(task.open):
                ray.cancel(task.stream, force=False)
            else:
                # Ray can interrupt a task as a whole only; its other regions go on.
                task.mailed = True
                await asyncio.to_thread(mail.send, task.key, sorted(task.asked))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), grace_s)
        if not over.is_set():
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
        self._vigil.stop()
        if self._vigil.over:
            ray_start.abandon()
            self.cluster = None
            return
        for task in set(self._tasks.values()):
            with contextlib.suppress(Exception):
                ray.cancel(task.stream, force=True)
        if self._hosts is not None:
            await self._hosts.close()
        await asyncio.to_thread(ray_start.disconnect)
        self.cluster = None


def _name(regions: Sequence[Region]) -> str:
    """What dashboards show: the region's name, or the first one's and how many travel with it."""
    first, count = regions[0].name, len(regions)
    if count == 1:
        return first
    same = all(region.name == first for region in regions)
    return f"{first} × {count}" if same else f"{first} and {count - 1} more"


def _post_mortem(task: _Task, region: Region, error: Exception) -> Report:
    """What Ray's error means for a region."""
    import ray

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
