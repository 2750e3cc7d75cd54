"""When the bodies of a run's stages must be over: by their own limits, and cleanups by theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flowmason import event as ev
from flowmason.ids import StagePath, format_path
from flowmason.policy import FINALLY_BOUND_S
from flowmason.state import Role, RunState, StageState, TryState
from flowmason.state.retry import timed_out

_TAKEN_UP = (ev.RunStarted, ev.RunAdopted, ev.RunResumed, ev.RunReopened)
_OVER = (ev.StageFinished, ev.StageFailed, ev.StageCancelled, ev.StageReopened)


class Deadlines:
    """The deadlines of one run, in loop seconds."""

    def __init__(self) -> None:
        self._walked = self._at = 0
        self._paused = False
        self._begun: dict[StagePath, int] = {}
        """How long the run had been walked (ms) when a body began that is found under way."""
        self._due: dict[StagePath, float] = {}
        self._closing: set[StagePath] = set()
        """Whose cleanup has a deadline already."""
        self._tries: dict[StagePath, StageState] = {}

    def recorded(self, event: ev.Event, at: int) -> None:
        """Take in what was recorded (`at`, in ms) before the run was taken up.

        Its clock stands while it is paused, and while nobody has it. Times of one conductor alone are compared.
        """
        if not self._paused and not isinstance(event, _TAKEN_UP):
            self._walked += max(0, at - self._at)
        self._at = at
        if isinstance(event, ev.RunPaused):
            self._paused = True
        elif isinstance(event, _TAKEN_UP):
            self._paused = False
        if isinstance(event, ev.StageExpanded):
            self._begun[event.path] = self._walked
        elif isinstance(event, _OVER):
            self._begun.pop(event.path, None)
        elif isinstance(event, ev.RunReopened):
            self._begun.clear()

    def note(self, event: ev.Event) -> None:
        """An event is being recorded: what begins now, or is taken up after a failure, has all its time."""
        if isinstance(event, ev.StageExpanded | ev.StageReopened):
            self._begun.pop(event.path, None)
        elif isinstance(event, ev.RunReopened):
            self._begun.clear()

    def watch(self, stage: StageState, clock: float) -> None:
        """The body of a stage has begun, or is found under way."""
        if isinstance(stage.body, TryState):
            self._tries[stage.path] = stage
        limit = _limit_ms(stage)
        if limit is not None and stage.path not in self._due:
            spent = self._walked - self._begun.get(stage.path, self._walked)
            self._due[stage.path] = clock + max(0, limit - spent) / 1000

    def times(self) -> Iterable[float]:
        """When something is due."""
        return self._due.values()

    def overdue(self, state: RunState, clock: float) -> Iterator[ev.StageFailing]:
        """The bodies whose time is over. Apply each event before asking for the next: it may end other bodies too."""
        for path, stage in list(self._tries.items()):
            if stage.ended:
                del self._tries[path]
            elif isinstance(stage.body, TryState) and stage.body.phase is Role.CLEANUP and path not in self._closing:
                self._closing.add(path)
                self._due[path] = clock + FINALLY_BOUND_S
        for path, deadline in list(self._due.items()):
            found = state.stages.get(path)
            if found is None or found.ended or found.body is None:
                del self._due[path]
                self._closing.discard(path)
            elif clock >= deadline:
                del self._due[path]
                limit = _limit_ms(found) or int(FINALLY_BOUND_S * 1000)
                yield ev.StageFailing(path=path, failure=timed_out(format_path(path), limit))


def _limit_ms(stage: StageState) -> int | None:
    """Milliseconds that the body may take: the stage's own timeout, or a sub-pipeline's `timeout_ms`."""
    settings = stage.body.settings if stage.body is not None else {}
    return stage.stage.body_timeout_ms or settings.get("timeout_ms")
