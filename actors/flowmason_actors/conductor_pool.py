"""The pool of conductor hosts: started where they are missing, ended where nobody needs them. All calls block."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import msgspec

from flowmason.database.urls import default_journal_url, normalise_url
from flowmason.errors import EngineUnavailableError, UsageError
from flowmason_actors.conductor_host import (
    DRAIN_S,
    NAMESPACE,
    ConductorHost,
    HostSettings,
    HostStatus,
    private_variables,
)

PREFIX = "flowmason-conductor-"
_START_S = 60.0
_ANSWER_S = 5.0
_TRIES = 5


class ConductorPool:
    """`size` detached conductor hosts in the Ray that this process is connected to.

    Raises `UsageError` for more than one on SQLite, which has one writer on one machine.
    """

    def __init__(self, settings: HostSettings, size: int) -> None:
        if size < 1:
            raise UsageError(f"a pool has at least one conductor, not {size}")
        url = settings.database_url or default_journal_url(
            None, {**os.environ, **private_variables(settings.environment)}
        )
        if size > 1 and normalise_url(url).startswith("sqlite"):
            raise UsageError(
                f"a SQLite journal has exactly one pool conductor, not {size}",
                help="Set DATABASE_URL to a PostgreSQL database for more.",
            )
        self.size = size
        self._settings = msgspec.msgpack.encode(settings)

    def ensure(self) -> list[HostStatus]:
        """Have all hosts of the pool alive, and no others; returns what they say.

        One that does not answer is replaced. Raises `EngineUnavailableError` where one cannot be started.
        """
        for name in running():
            if name not in self._names():
                _drain(name, DRAIN_S)
        return [self._ensure(name) for name in self._names()]

    def drain(self, within_s: float = DRAIN_S) -> None:
        """End every host in good order: what they walk is handed over within that time."""
        for name in running():
            _drain(name, within_s)

    def _names(self) -> list[str]:
        return [f"{PREFIX}{number}" for number in range(self.size)]

    def _ensure(self, name: str) -> HostStatus:
        import ray

        trouble: Exception | None = None
        for _ in range(_TRIES):
            remote: Any = ray.remote(ConductorHost)
            actor = remote.options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=1000,
            ).remote(self._settings)
            try:
                ray.get(actor.ready.remote(), timeout=_START_S)
                return _status(actor)
            except ray.exceptions.GetTimeoutError as error:
                trouble = error
                ray.kill(actor)
            except ray.exceptions.RayActorError as error:
                # Dying under its name, or being started again after it was killed.
                trouble = error
            time.sleep(0.5)
        raise EngineUnavailableError(f"the conductor {name} cannot be started: {trouble}") from trouble


def running() -> list[str]:
    """The names of the conductor hosts of this Ray."""
    import ray

    listed: Any = ray.util.list_named_actors(all_namespaces=True)
    return sorted(each["name"] for each in listed if each["namespace"] == NAMESPACE and each["name"].startswith(PREFIX))


def statuses() -> dict[str, HostStatus]:
    """What the hosts say that answer."""
    import ray

    found = {}
    for name in running():
        with contextlib.suppress(ValueError, ray.exceptions.RayError):
            found[name] = _status(ray.get_actor(name, namespace=NAMESPACE))
    return found


def handles() -> list[Any]:
    """The actors of the hosts of this Ray."""
    import ray

    found = []
    for name in running():
        with contextlib.suppress(ValueError):
            found.append(ray.get_actor(name, namespace=NAMESPACE))
    return found


def nudge() -> None:
    """Have all hosts look for work now. Best effort: they look by themselves, too."""
    for actor in handles():
        actor.nudge.remote()


def _status(actor: Any) -> HostStatus:
    import ray

    return msgspec.msgpack.decode(ray.get(actor.status.remote(), timeout=_ANSWER_S), type=HostStatus)


def _drain(name: str, within_s: float) -> None:
    import ray

    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(actor.drain.remote(within_s), timeout=within_s + 30.0)
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(actor)
