"""The Executor port: runs regions somewhere and streams their reports. Adapters: `executor_local`, Ray.

An executor is *handed* the function that runs a region (`RegionRunner`); it never imports it, and
nothing below calls back up: all it has to say comes out of `submit`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from flowmason.ids import Digest
from flowmason.policy import Placement, Resources
from flowmason.report import Region, Report


class WorkerSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """All a worker process needs to run regions; small, and sent once per process."""

    values_url: str
    """Where the value store lies (`file://` or any fsspec URL). Plans lie there too, under their id."""
    project_root: str | None = None
    """Root of the project whose `components/` may be imported; None: built-ins and packages only."""
    project_archive: Digest | None = None
    """The project's code in the value store (`registry.shipping`), for workers that do not see it at `project_root`."""
    packages_dir: str | None = None
    options: dict[str, Any] = {}


Emit = Callable[[Report], None]
"""Hands a report to the executor from inside the worker; thread-safe, never blocks."""

RegionRunner = Callable[[Region, Emit], Awaitable[None]]
"""Runs one region to its end; the last report it emits carries `ended`. Cancelling it cancels the region."""


class Capacity(msgspec.Struct, frozen=True):
    """How much fits."""

    task_slots: int
    """Regions that tasks can run at once (CPUs)."""
    host_slots: int
    """Calls that the node hosts take at once."""


class Executor(Protocol):
    """Where regions run."""

    name: str
    """`local` or `ray`: what `fm run --json` prints."""

    async def start(self) -> None:
        """Get ready; raises `EngineUnavailableError`."""
        ...

    def capacity(self) -> Capacity:
        """What fits at the moment."""
        ...

    def infeasible(self, placement: Placement, resources: Resources) -> str | None:
        """Why no worker could ever run this, or None."""
        ...

    def submit(self, regions: Sequence[Region]) -> AsyncIterator[Report]:
        """Run regions. The last report of each has `ended`; a worker's death is a report, never an exception.

        Several are pure, of one org, for tasks, and without resources: they share a worker and a loop in it.
        """
        ...

    async def cancel(self, region_id: str, *, grace_s: float) -> None:
        """End a region: ask first, and after the grace by force where that can be done."""
        ...

    async def close(self) -> None:
        """End everything that is under way."""
        ...
