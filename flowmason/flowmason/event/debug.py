"""What happens to a run that somebody debugs."""

from __future__ import annotations

import msgspec

from flowmason.errors import Failure
from flowmason.event.base import EventStruct
from flowmason.ids import StagePath


class Breakpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cut before a stage: the run stops there."""

    stage: str
    """A stage's id; with the stages around it, `child.inner`; or one place of the run, `each[3].inner`."""
    condition: str = ""
    """An expression over what the stage can see; empty: always."""
    hit_condition: str = ""
    """`3` (the third time alone), or an expression over `hits`: `hits >= 3`; empty: every time."""


class DebugChanged(EventStruct, frozen=True, tag="debug.changed"):
    """Somebody said anew what stops the run. What is not named does not stop it any more."""

    breakpoints: tuple[Breakpoint, ...] = ()
    exceptions: tuple[str, ...] = ()
    """Failures after which it stops: `debug.FILTERS`."""
    stop_on_entry: bool = False
    """Whether it stops before its first stage; only with the submission of the run."""


class DebugStepped(EventStruct, frozen=True, tag="debug.stepped"):
    """The run goes on by a step: only what the step covers may start, then the run stops again."""

    step: str
    """over, into or out; entry: covers nothing; rerun: covers the stage at `path` and stops after it."""
    path: StagePath = ()
    """The stage that the step takes (`out`: the owner of the body that it leaves); `()`: none."""


class BreakpointHit(EventStruct, frozen=True, tag="breakpoint.hit"):
    """The run stopped before a stage, or, by an exception or a rerun, after it."""

    path: StagePath
    breakpoint: str = ""
    """`Breakpoint.stage`, or the exception filter."""
    reason: str = "breakpoint"
    """breakpoint, entry, step, exception or rerun."""
    hit: int = 0
    """How often the breakpoint was reached with its condition true, this time included."""
    stops: bool = True
    """False: the hit is only counted, the breakpoint's `hit_condition` lets it pass."""
    failure: Failure | None = None
    """Why the stage failed."""
    note: str = ""
    """Why a condition could not be told; the run stops then."""
