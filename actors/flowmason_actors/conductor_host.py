"""The conductor host: a long-lived actor that walks runs, and whatever dies is started again by Ray.

An actor holds nothing that is true: the journal does. One that is killed loses its regions, not its runs: whoever
beats next buries it and adopts them. It is told of settings, not of objects, so that a restart begins as the first
start did.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.errors import FlowMasonError, UsageError
from flowmason.executor import Executor, WorkerSettings

if TYPE_CHECKING:
    from flowmason.conductor import Conductor, Resolve
    from flowmason.ids import RunId
    from flowmason.journal import Journal

NAMESPACE = "flowmason"
DRAIN_S = 10.0
_AGAIN_S = 1.0
log = logging.getLogger("flowmason.conductor")


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a conductor host is started from. It holds no secret: those come by the file `environment`."""

    worker: WorkerSettings
    """What workers are told; `values_url` is the conductor's own, too."""
    database_url: str = ""
    """Empty: what `DATABASE_URL` (or `DATABASE_URL_FILE`) says in the actor, `environment` included."""
    environment: str = ""
    """A file (JSON, of variables) that only this user can read: what conductors need and no worker should see."""
    executor: str = "flowmason_cluster.executor:RayExecutor"
    """`module:attr`: called with the `WorkerSettings`, gives the `Executor`."""
    pipelines: str = ""
    """`module:attr`: called with the database URL, gives the `Resolve`. Empty: no pipeline is known by name."""
    secrets: str = ""
    """`module:attr`: called with the database URL, gives the `OrgSecrets`. Empty: workers have secrets themselves."""
    capacity: int = 256
    """Runs that are walked at once; the rest waits in the database."""
    spare: int = 64
    """How many of these places go only to orgs that have few runs under way."""


class HostStatus(msgspec.Struct, frozen=True):
    """What a conductor host says of itself."""

    pid: int
    conductor: str = ""
    """Its id in the journal; empty before it is listed there."""
    walking: int = 0
    """Runs that it walks."""
    draining: bool = False
    trouble: str = ""
    """Why it does not walk at the moment, where that is so."""


class ConductorHost:
    """Hosts conductors, one after another, until it is drained. The class of a Ray actor; it works without Ray, too.

    `settings` are encoded `HostSettings`.
    """

    def __init__(self, settings: bytes) -> None:
        self._settings = msgspec.msgpack.decode(settings, type=HostSettings)
        # This process alone: workers inherit the environment of their node, not this one.
        os.environ.update(private_variables(self._settings.environment))
        self._conductor: Conductor | None = None
        self._task: asyncio.Task[None] | None = None
        self._draining = False
        self._trouble = ""
        self._ended = asyncio.Event()
        _wake_up()

    async def ready(self) -> int:
        """Begin to walk runs, if that has not been done; returns the pid."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        return os.getpid()

    async def nudge(self) -> None:
        """Look for work now rather than at the next poll."""
        if self._conductor is not None:
            self._conductor.nudge()

    async def status(self) -> bytes:
        """An encoded `HostStatus`."""
        conductor = self._conductor
        return msgspec.msgpack.encode(
            HostStatus(
                pid=os.getpid(),
                conductor=conductor.id if conductor is not None else "",
                walking=len(conductor.walkers) if conductor is not None else 0,
                draining=self._draining,
                trouble=self._trouble,
            )
        )

    async def drain(self, within_s: float = DRAIN_S) -> None:
        """Claim nothing more, record what is on its way for up to `within_s`, hand the runs over.

        The host does nothing more afterwards; whoever drained it ends the process.
        """
        self._draining = True
        if self._conductor is not None:
            await self._conductor.drain(within_s)
        if self._task is not None:
            await self._ended.wait()

    async def _work(self) -> None:
        settings = self._settings
        try:
            while not self._draining:
                try:
                    await self._walk(settings)
                    self._trouble = ""
                except Exception as error:
                    # A database or a cluster that is away for a while: the next try opens everything anew.
                    self._trouble = f"{type(error).__name__}: {error}"
                    level = logging.WARNING if isinstance(error, FlowMasonError) else logging.ERROR
                    log.log(level, "the conductor stopped: %s", self._trouble, exc_info=level == logging.ERROR)
                if not self._draining:
                    await asyncio.sleep(_AGAIN_S)
        finally:
            self._ended.set()

    async def _walk(self, settings: HostSettings) -> None:
        from flowmason.assembly.engine import host_name, pid_alive
        from flowmason.assembly.hosting import now_ms, started
        from flowmason.conductor import Conductor, no_pipelines
        from flowmason.conductor.handing import Handing
        from flowmason.database.urls import default_journal_url
        from flowmason.ids import Ids
        from flowmason.journal_sql import open_journal
        from flowmason.providers import key_variables
        from flowmason.studio.logs import RunLog
        from flowmason.telemetry import Tracing, exports
        from flowmason.values_fs import open_values

        url = settings.database_url or default_journal_url(None, os.environ)
        journal: Journal = await asyncio.to_thread(open_journal, url)
        try:
            executor: Executor = load(settings.executor)(settings.worker)
            if settings.secrets:
                keys = key_variables(settings.worker.options.get("providers", {}))
                executor = Handing(executor, load(settings.secrets)(url), keys)
            resolve: Resolve = load(settings.pipelines)(url) if settings.pipelines else no_pipelines
            async with started(executor):
                conductor = Conductor(
                    journal=journal,
                    values=open_values(settings.worker.values_url),
                    executor=executor,
                    now=now_ms,
                    ids=Ids(time.time),
                    rng=random.Random(),
                    host=host_name(),
                    pid=os.getpid(),
                    resolve=resolve,
                    pid_alive=pid_alive,
                    capacity=settings.capacity,
                    spare=settings.spare,
                )
                self._conductor, self._trouble = conductor, ""
                conductor.follow(RunLog(lambda run_id: _org_of(conductor, run_id)))
                tracing = Tracing(journal) if exports() else None
                if tracing is not None:
                    conductor.follow(tracing)
                try:
                    if not self._draining:
                        await conductor.run()
                finally:
                    if tracing is not None:
                        await tracing.close()
        finally:
            self._conductor = None
            await journal.close()


def _org_of(conductor: Conductor, run_id: RunId) -> str | None:
    walker = conductor.walkers.get(run_id)
    return None if walker is None else walker.row.org_id


def private_variables(file: str) -> dict[str, str]:
    """What the file of private variables says; empty where none is named. Raises `UsageError`."""
    if not file:
        return {}
    try:
        return msgspec.json.decode(Path(file).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"the file of private variables {file} cannot be read: {error}") from error


def load(place: str) -> Callable[..., Any]:
    """What `module:attr` names. Raises `UsageError` where there is no such thing."""
    module, _, attribute = place.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"there is no {place!r}: {error}") from error
    return found


def _wake_up() -> None:
    """In an actor: call `ready` of our own, since after a restart nobody else does.

    While `__init__` runs, a restarted actor stands as `RESTARTING`: Ray drops a call that may not be retried.
    """
    with contextlib.suppress(ImportError):
        import ray

        if ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None:
            from flowmason.studio import logs

            logs.install()
            ray.get_runtime_context().current_actor.ready.options(max_task_retries=-1).remote()
