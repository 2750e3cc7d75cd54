"""What happens to a run as a whole."""

from __future__ import annotations

from typing import Any

from flowmason.errors import Failure
from flowmason.event.base import EventStruct
from flowmason.ids import PlanId, RunId
from flowmason.value import Value


class RunSubmitted(EventStruct, frozen=True, tag="run.submitted"):
    """The run exists. Always the first event of a journal."""

    plan: PlanId
    input: Value
    pipeline: str = ""
    version: str = ""
    format: int = 1
    """The lowest `FORMAT` whose drivers read the run rightly; the default is that of the first journals, which say
    none, and never changes."""
    parent: RunId | None = None
    variables: Value | None = None
    """Of an asynchronous sub-pipeline: the variables of its caller that it inherits."""
    options: dict[str, Any] = {}
    """What the submitter asked for: `max_concurrency`, `project_root`, `provider`, `labels` …"""


class RunStarted(EventStruct, frozen=True, tag="run.started"):
    """The first conductor took the run."""


class RunAdopted(EventStruct, frozen=True, tag="run.adopted"):
    """Another conductor took the run over under a higher epoch."""

    epoch: int


class RunPausing(EventStruct, frozen=True, tag="run.pausing"):
    """Nothing new starts; what is under way ends first."""

    reason: str = ""


class RunPaused(EventStruct, frozen=True, tag="run.paused"):
    """Nothing of the run is under way any more."""


class RunResumed(EventStruct, frozen=True, tag="run.resumed"):
    """A paused run goes on."""

    budget: dict[str, Any] = {}
    """The run's own budget from here on (`max_cost`, `max_tokens`); what it has spent stays spent. Empty: as it was."""


class RunReopened(EventStruct, frozen=True, tag="run.reopened"):
    """A failed run goes on, or one whose cancel was taken back: finished results are kept, failed stages reopened."""

    accept_changes: dict[str, str] = {}
    """Components whose changed digest was accepted: name → new digest."""
    plan: PlanId | None = None
    """The Plan from here on, where components changed."""
    budget: dict[str, Any] = {}
    """See `RunResumed.budget`."""


class RunCancelling(EventStruct, frozen=True, tag="run.cancelling"):
    """Somebody asked for the end of the run."""

    reason: str = ""


class RunFailing(EventStruct, frozen=True, tag="run.failing"):
    """A failure reached the root; effects under way are still being recorded."""

    failure: Failure


class RunCompleted(EventStruct, frozen=True, tag="run.completed"):
    """Terminal: the run ended well."""

    output: Value


class RunFailed(EventStruct, frozen=True, tag="run.failed"):
    """Terminal until reopened."""

    failure: Failure


class RunCancelled(EventStruct, frozen=True, tag="run.cancelled"):
    """Terminal: the run was cancelled, by command or by a `return` with that status."""

    reason: str = ""
