"""Watching whether the cluster is still there: Ray itself ends a driver, without a word, some time after it is not.

Losses that come with the loss of the whole cluster are not told: the run is left as its journal has it, to be
resumed, instead of failing for want of workers.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from flowmason.errors import EngineUnavailableError
from flowmason_cluster.ray_start import Cluster

PROBE_S = 1.0
OWN_PATIENCE_S = 2.0
"""A cluster on this machine does not come back; what listens answers even where the machine is busy."""
JOINED_PATIENCE_S = 40.0
"""A head elsewhere may be restarted; Ray gives up after 60 s."""


class Vigil:
    """Watches the GCS, and the raylet that this process is connected to, by connecting to their ports."""

    def __init__(self, cluster: Cluster, raylet: str | None) -> None:
        self._addresses = {"its head (GCS)": cluster.address, **({"the raylet": raylet} if raylet else {})}
        self._cluster = cluster
        self._patience = OWN_PATIENCE_S if cluster.own else JOINED_PATIENCE_S
        self._gone = asyncio.Event()
        self._silent: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        """Whether the cluster is gone. From then on no call of Ray may be made: it would wait, or end the process."""
        return self._gone.is_set()

    def start(self) -> None:
        """Begin to watch, until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def stop(self) -> None:
        """Watch no longer."""
        if self._task is not None:
            self._task.cancel()

    async def gone(self) -> EngineUnavailableError:
        """Return once the cluster is gone, saying what."""
        await self._gone.wait()
        what = " and ".join(self._silent)
        return EngineUnavailableError(
            f"the Ray cluster at {self._cluster.address} is gone: {what} cannot be reached any more"
        )

    async def still_there(self) -> None:
        """Before a loss is told: return if the cluster answers, or does again; never if it is gone."""
        while True:
            if not self.over and await self._look():
                return
            await asyncio.sleep(PROBE_S / 2)

    async def _watch(self) -> None:
        while not self.over:
            await self._look()
            await asyncio.sleep(PROBE_S)

    async def _look(self) -> bool:
        clock = asyncio.get_running_loop().time()
        for name, address in self._addresses.items():
            if await _answers(address):
                self._silent.pop(name, None)
            else:
                since = self._silent.setdefault(name, clock)
                if clock - since >= self._patience:
                    self._gone.set()
        return not self._silent


async def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def raylet_address() -> str | None:
    """`host:port` of the raylet that this process is connected to. Blocks."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if node["NodeID"] == here:
            return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    return None
