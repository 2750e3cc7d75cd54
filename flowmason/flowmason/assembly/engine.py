"""What a run needs to run on: the journal, the values, an executor."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowmason.errors import Code, EngineUnavailableError, UsageError, did_you_mean
from flowmason.executor import Executor, WorkerSettings

if TYPE_CHECKING:
    from flowmason.journal import Journal
    from flowmason.values import ValueStore

GROUP = "flowmason.executors"


def journal_url(root: Path | None, environ: Mapping[str, str]) -> str:
    """Where the journal of a project (or of none) lies."""
    from flowmason.database.urls import default_journal_url

    return default_journal_url(root, environ)


def values_url(root: Path | None, environ: Mapping[str, str]) -> str:
    """Where the values of a project (or of none) lie."""
    from flowmason.values_fs import default_values_url

    return default_values_url(root, environ)


class Stores:
    """The journal and the values of one place."""

    def __init__(self, journal: Journal, values: ValueStore, journal_url: str, values_url: str) -> None:
        self.journal = journal
        self.values = values
        self.journal_url = journal_url
        self.values_url = values_url

    async def close(self) -> None:
        """Let go of both."""
        await self.journal.close()


def open_stores(
    root: Path | None,
    environ: Mapping[str, str] | None = None,
    *,
    journal: str | None = None,
    values: str | None = None,
) -> Stores:
    """Open the journal and the values, by URL or where they lie by default; both are made where they are missing.

    Raises `JournalError` or `UsageError` where that cannot be done.
    """
    from flowmason.journal_sql import open_journal
    from flowmason.values_fs import open_values

    given = os.environ if environ is None else environ
    values = values or values_url(root, given)
    journal = journal or journal_url(root, given)
    return Stores(open_journal(journal), open_values(values), journal, values)


def refuse_unshared(executor: Executor, stores: Stores) -> None:
    """Raise `EngineUnavailableError` where an executor of several machines would need stores that only one can reach.

    An executor tells of its machines by an attribute `nodes`; one without it is one machine.
    """
    nodes = int(getattr(executor, "nodes", 1))
    if nodes < 2:
        return
    lacking = []
    if stores.journal_url.startswith("sqlite"):
        lacking.append("DATABASE_URL (PostgreSQL; the journal is in SQLite)")
    if stores.values_url.startswith("file://") or "://" not in stores.values_url:
        lacking.append("FLOWMASON_VALUES_URL (a store that every machine reaches; the values are in a folder)")
    if lacking:
        raise EngineUnavailableError(
            f"{executor.name} has {nodes} machines, but the journal or the values lie on one of them",
            help=f"Set {' and '.join(lacking)}.",
        )


def executor_names() -> list[str]:
    """The executors that are registered, `local` first."""
    from importlib.metadata import entry_points

    return sorted({"local", *entry_points(group=GROUP).names}, key=lambda name: (name != "local", name))


def make_executor(
    name: str,
    settings: WorkerSettings,
    *,
    address: str | None = None,
    allow_open: bool = False,
    workers: int | None = None,
) -> Executor:
    """An executor by its name; it is started by the caller.

    `address` and `allow_open` are for those that join a cluster; `workers` bounds how many tasks run at once. Raises
    `EngineUnavailableError` where its extra is not installed, `UsageError` for an unknown name.
    """
    if name == "local":
        return _local(settings, workers)
    from importlib.metadata import entry_points

    points = entry_points(group=GROUP, name=name)
    if not points:
        known = executor_names()
        near = did_you_mean(name, known)
        hint = f"did you mean {near!r}?" if near else f"there is {', '.join(known)}"
        raise UsageError(f"there is no executor {name!r}; {hint}")
    try:
        factory: Any = next(iter(points)).load()
    except ImportError as error:
        raise unavailable(name, error) from error
    executor: Executor = factory(settings, address=address, allow_open=allow_open, num_cpus=workers)
    return executor


def unavailable(name: str, error: ImportError) -> EngineUnavailableError:
    """That an executor's package is not there, and what to do about it."""
    missing = error.name or str(error)
    return EngineUnavailableError(
        f"the executor {name!r} is not available: {missing} is not installed",
        code=Code.ENGINE_UNAVAILABLE,
        help=f"Install flowmason[{name}] (pip install 'flowmason[{name}]'), or run in this process with --on local.",
    )


def _local(settings: WorkerSettings, workers: int | None) -> Executor:
    from flowmason.executor_local import LocalExecutor
    from flowmason.region import Worker

    return LocalExecutor(lambda: Worker(settings).run, workers=workers)


def host_name() -> str:
    """This machine, as conductors name it."""
    return socket.gethostname()


def pid_alive(pid: int) -> bool:
    """Whether a process of this machine lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
