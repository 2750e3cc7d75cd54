"""`RayExecutor`: regions as Ray tasks, calls of effects on a long-lived node host.

Ray's own retries are off: what became of a lost region is for the engine to decide. No call here blocks the
event loop, and no user's exception crosses Ray: a worker's death is a report.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
from flowmason.errors import Code, EngineUnavailableError, Failure
from flowmason.executor import Capacity, WorkerSettings
from flowmason.policy import Placement, Resources
from flowmason.report import Ended, Region, Report, region_encoder, report_decoder

from flowmason_cluster import ray_start

if TYPE_CHECKING:
    from flowmason_cluster.hosts import HostClient

HOST_SLOTS = 512


class RayExecutor:
    """Runs regions on Ray.

    `address` joins a cluster; None: `RAY_ADDRESS`, the warm cluster, or a local Ray that ends with this
    process (`"local"` asks for that one). `allow_open` accepts a Ray without a token.
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
        self._settings = msgspec.msgpack.encode(settings)
        self._address = address
        self._allow_open = allow_open
        self._num_cpus = num_cpus
        self._joined = ""
        self._task_function: Any = None
        self._slots = 1
        self._totals: dict[str, float] = {}
        self._tasks: dict[str, Any] = {}
        self._forced: set[str] = set()
        self._hosts: HostClient | None = None

    async def start(self) -> None:
        """Connect to Ray. Raises `EngineUnavailableError`."""
        try:
            import ray
        except ImportError as error:
            raise EngineUnavailableError(
                "Ray is not installed", help="pip install 'flowmason[ray]', or run with --on local."
            ) from error
        self._joined = await asyncio.to_thread(
            ray_start.connect, self._address, allow_open=self._allow_open, num_cpus=self._num_cpus
        )
        from flowmason_cluster.hosts import HostClient
        from flowmason_cluster.task import run_region

        self._totals = await asyncio.to_thread(ray.cluster_resources)
        self._slots = max(1, int(self._totals.get("CPU", 1)))
        self._task_function = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(run_region)
        self._hosts = HostClient(self._settings, detached=self._joined not in ("local", "joined"))

    def capacity(self) -> Capacity:
        """One task per CPU of the cluster; a host overlaps `HOST_SLOTS` calls."""
        return Capacity(self._slots, HOST_SLOTS)

    def infeasible(self, placement: Placement, resources: Resources) -> str | None:
        """What the cluster lacks; Ray itself would wait for it for ever."""
        wanted: dict[str, float] = {
            "CPU": resources.num_cpus or 0,
            "GPU": resources.num_gpus or 0,
            "memory": float(resources.memory or 0),
            **resources.custom,
        }
        if resources.accelerator_type:
            wanted[f"accelerator_type:{resources.accelerator_type}"] = 0.001
        lacking = [
            f"{name}={amount:g} (the cluster has {self._totals.get(name, 0):g})"
            for name, amount in wanted.items()
            if amount > self._totals.get(name, 0)
        ]
        return ", ".join(lacking) or None

    def submit(self, region: Region) -> AsyncIterator[Report]:
        """Run a region as a task or on the host."""
        if region.placement is Placement.HOST:
            assert self._hosts is not None
            return self._hosts.submit(region)
        if region.attach:
            # A task dies with the conductor that submitted it.
            return _refuse(region)
        return self._run_task(region)

    async def _run_task(self, region: Region) -> AsyncIterator[Report]:
        import ray

        stream = self._task_function.options(name=region.name, **_options(region.resources)).remote(
            self._settings, region_encoder.encode(region)
        )
        self._tasks[region.id] = stream
        try:
            async for ref in stream:
                report = report_decoder.decode(await ref)
                yield report
                if report.ended is not None:
                    return
            yield Report(region=region.id, ended=Ended.LOST, failure=_lost("the worker ended without a word"))
        except (ray.exceptions.TaskCancelledError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not isinstance(error, ray.exceptions.RayError):
                ray.cancel(stream, force=True)
                raise
            yield Report(region=region.id, ended=Ended.CANCELLED)
        except ray.exceptions.OutOfMemoryError as error:
            failure = Failure(code=Code.RESOURCE_EXHAUSTED, message=f"the worker ran out of memory: {_line(error)}")
            yield Report(region=region.id, ended=Ended.LOST, failure=failure)
        except Exception as error:
            cancelled = region.id in self._forced
            ended = Ended.CANCELLED if cancelled else Ended.LOST
            yield Report(region=region.id, ended=ended, failure=_lost(_line(error)))
        finally:
            self._tasks.pop(region.id, None)
            self._forced.discard(region.id)

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        """Interrupt a task, and end its worker after the grace; on a host see `NodeHost.cancel`."""
        import ray

        stream = self._tasks.get(region_id)
        if stream is None:
            if self._hosts is not None:
                await self._hosts.cancel(region_id, grace_s)
            return
        if grace_s > 0:
            ray.cancel(stream, force=False)
            deadline = asyncio.get_running_loop().time() + grace_s
            while region_id in self._tasks and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)
        if region_id in self._tasks:
            with contextlib.suppress(Exception):
                ray.cancel(stream, force=True)

    async def close(self) -> None:
        """End what is under way; a local Ray of our own ends too."""
        import ray

        for stream in list(self._tasks.values()):
            with contextlib.suppress(Exception):
                ray.cancel(stream, force=True)
        if self._hosts is not None:
            await self._hosts.close()
        if self._joined in ("local",) or (self._joined and self._joined != "joined"):
            await asyncio.to_thread(ray.shutdown)


def _options(resources: Resources) -> dict[str, Any]:
    if not resources:
        return {}
    found: dict[str, Any] = {"num_cpus": 1 if resources.num_cpus is None else resources.num_cpus}
    if resources.num_gpus:
        found["num_gpus"] = resources.num_gpus
    if resources.memory:
        found["memory"] = resources.memory
    if resources.accelerator_type:
        found["accelerator_type"] = resources.accelerator_type
    if resources.custom:
        found["resources"] = resources.custom
    return found


async def _refuse(region: Region) -> AsyncIterator[Report]:
    yield Report(region=region.id, ended=Ended.REFUSED, failure=_lost("the task died with its conductor"))


def _lost(message: str) -> Failure:
    return Failure(code=Code.LOST, message=message)


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__
