"""The Studio and its conductors: whoever keeps their pool, and how an API process tells them of work."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from flowmason.executor import WorkerSettings
from flowmason.values_fs import default_values_url
from flowmason_actors import conductor_pool
from flowmason_actors.conductor_host import HostSettings
from flowmason_actors.conductor_pool import ConductorPool
from flowmason_serve_apps.studio.supervised import PRIVATE_FILE

RESOLVE = "flowmason.studio.resolving:org_pipelines"
SECRETS = "flowmason.studio.secrets:org_secrets"
_LOOK_S = 2.0
_DRAIN_S = 2.0
_HANDLES_S = 5.0
_PATIENCE_S = 120.0
_GAP_S = 0.005
"""Between two nudges: runs that come together are taken up together."""
log = logging.getLogger("flowmason.studio.conductors")


def settings(environ: Mapping[str, str]) -> HostSettings:
    """What the conductors of a Studio are started from; the database comes by the file of private variables."""
    return HostSettings(
        worker=WorkerSettings(values_url=default_values_url(None, environ)),
        environment=environ.get(PRIVATE_FILE, ""),
        pipelines=RESOLVE,
        secrets=SECRETS,
    )


class PoolKeeper:
    """Keeps the pool of conductors in a thread of its own, in a process that is connected to Ray.

    Raises `UsageError` for more than one on SQLite.
    """

    def __init__(self, size: int, environ: Mapping[str, str]) -> None:
        self._pool = ConductorPool(settings(environ), size)
        self._ended = threading.Event()
        self._well = time.monotonic()
        self._trouble = ""

    def start(self) -> None:
        """Begin; what goes wrong is logged, and tried again."""
        threading.Thread(target=self._work, name="conductors", daemon=True).start()

    def check(self) -> None:
        """Raise `RuntimeError` where it has not worked for minutes."""
        if time.monotonic() - self._well > _PATIENCE_S:
            raise RuntimeError(self._trouble)

    def stop(self) -> None:
        """Have what is walked handed over. Blocks for seconds."""
        self._ended.set()
        self._pool.drain(_DRAIN_S)

    def _work(self) -> None:
        known: set[int] = set()
        while not self._ended.is_set():
            try:
                found = {status.pid for status in self._pool.ensure()}
                if found != known:
                    log.info("conductors: %s", sorted(found))
                known, self._well = found, time.monotonic()
            except Exception as error:
                self._trouble = f"{type(error).__name__}: {error}"
                log.warning("the conductors: %s", self._trouble)
            self._ended.wait(_LOOK_S)


class Nudger:
    """Tells conductors, from a replica, that there is something to do. Nobody waits for it."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._looked: float | None = None
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    async def nudge(self) -> None:
        """Have them told soon; what is asked meanwhile is told once."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._wanted:
            self._wanted = False
            try:
                # The list comes from the GCS, which may be away.
                await asyncio.to_thread(self._tell)
                await asyncio.sleep(_GAP_S)
            except Exception as error:
                self._looked = None
                log.debug("no nudge: %s", error)

    def _tell(self) -> None:
        now = time.monotonic()
        if self._looked is None or now - self._looked > _HANDLES_S:
            self._handles, self._looked = conductor_pool.handles(), now
        for actor in self._handles:
            actor.nudge.remote()
