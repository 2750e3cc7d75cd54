"""What a run's journal says of its debugging: what stops it, where it stands, and what was let through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flowmason.event import Breakpoint, BreakpointHit, DebugChanged, DebugStepped
from flowmason.ids import StagePath
from flowmason.state.tree import StageState

BEFORE = frozenset({"breakpoint", "step", "entry"})
"""Reasons by which a run stops before a stage rather than after one."""


@dataclass(slots=True)
class Debugging:
    """The part of `RunState` that debug events change."""

    breakpoints: tuple[Breakpoint, ...] = ()
    exceptions: frozenset[str] = frozenset()
    hits: dict[str, int] = field(default_factory=dict)
    """By `Breakpoint.stage`: how often it was reached with its condition true."""
    counted: dict[tuple[StagePath, int, str], int] = field(default_factory=dict)
    """Those times: (path, round, `Breakpoint.stage`) → its number."""
    released: set[tuple[StagePath, int]] = field(default_factory=set)
    """(path, round) of stages that the run stopped before and that may start now."""
    stop: BreakpointHit | None = None
    """Why the run stands (or is about to); None: it goes on, or stands because somebody paused it."""
    step: DebugStepped | None = None
    """The step by which it goes on."""
    stale: dict[StagePath, None] = field(default_factory=dict)
    """Stages whose results were edited or made anew since the run last went on: others may have used the old ones."""

    @property
    def active(self) -> bool:
        """Whether anything may stop the run."""
        return bool(self.breakpoints or self.exceptions or self.step is not None)

    def change(self, event: DebugChanged, *, entering: bool) -> None:
        """Other breakpoints. One that stays as it was keeps its count."""
        kept = {point.stage for point in event.breakpoints if point in self.breakpoints}
        self.hits = {stage: hits for stage, hits in self.hits.items() if stage in kept}
        self.counted = {each: number for each, number in self.counted.items() if each[2] in kept}
        self.breakpoints, self.exceptions = event.breakpoints, frozenset(event.exceptions)
        if entering and event.stop_on_entry:
            self.step = DebugStepped(step="entry")

    def count(self, event: BreakpointHit, round_: int) -> None:
        """A breakpoint was reached."""
        if event.reason == "breakpoint" and event.hit:
            self.hits[event.breakpoint] = max(event.hit, self.hits.get(event.breakpoint, 0))
            self.counted[event.path, round_, event.breakpoint] = event.hit

    def go_on(self, stages: Mapping[StagePath, StageState]) -> None:
        """The run goes on: what it stopped before may start, unless something else runs again first."""
        if self.stop is not None and self.stop.reason in BEFORE and (self.step is None or self.step.step != "rerun"):
            stage = stages.get(self.stop.path)
            if stage is not None and stage.ready:
                self.released.add((stage.path, stage.round))
        self.stop = None
        if self.step is None:
            self.stale.clear()
