"""What a walker needs of the conductor around it, and nothing more."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from flowmason.conductor.loading import Plans
from flowmason.conductor.traffic import Traffic
from flowmason.conductor.treasury import Treasury
from flowmason.errors import Code, FlowMasonError, JournalError
from flowmason.event import Recorded
from flowmason.executor import Executor
from flowmason.ids import ConductorId, RunId
from flowmason.journal import Journal, RunRow
from flowmason.plan import Plan
from flowmason.report import Report
from flowmason.values import ValueStore

Resolve = Callable[[str, dict[str, Any]], Awaitable[Plan]]
"""Finds and compiles the pipeline `name` or `name@version` for a run with these options.

The option `org_id` is the org of the run's row, whatever its submitter wrote there: a name means a pipeline of it.
"""


async def no_pipelines(name: str, options: dict[str, Any]) -> Plan:
    """The `Resolve` of a conductor that knows no project."""
    raise FlowMasonError(f"pipeline {name!r} is not known here", code=Code.PIPELINE_NOT_FOUND)


class Surroundings(Protocol):
    """The conductor as its walkers see it."""

    id: ConductorId
    journal: Journal
    values: ValueStore
    executor: Executor
    plans: Plans
    traffic: Traffic
    treasury: Treasury
    rng: random.Random
    resolve: Resolve
    now: Callable[[], int]
    """Milliseconds since the epoch."""
    storage_patience_s: float
    """How long a walker waits for a store that refuses before it gives its run up."""

    handing_over: bool
    """Whether runs are left for others to take up: calls that go on without this process are let go on."""

    def fresh(self) -> bool:
        """Whether the conductor has beaten lately: nobody can have taken it for dead."""
        ...

    def publish(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """Events were committed."""
        ...

    def side(self, row: RunRow, report: Report) -> None:
        """Logs, deltas and progress came in."""
        ...

    def broken(self, run_id: RunId, error: JournalError) -> None:
        """A walker had to give up its run; it stays resumable."""
        ...
