"""The run as plain lines, for logs and pipes: one when a stage starts to matter, one when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowmason import event as ev
from flowmason.cli.console import say
from flowmason.cli.live.model import LiveModel
from flowmason.cli.live.words import duration
from flowmason.event import Recorded
from flowmason.ids import RunId, format_path
from flowmason.report import Report
from flowmason.usage import limit_words

_EVERY = 0.1
"""A foreach tells of each tenth of its items."""


class PlainView:
    """Writes lines as events are committed."""

    def __init__(self, model: LiveModel, *, logs: bool = False, write: Callable[[str], None] = say) -> None:
        self._model = model
        self._logs = logs
        self._write = write
        self._told: dict[tuple[str | int, ...], int] = {}

    async def __aenter__(self) -> PlainView:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """Write what happened. The model has taken the events in already."""
        if self._model.run_id is not None and run_id != self._model.run_id:
            return
        for recorded in events:
            line = self._line(recorded.event)
            if line:
                self._write(line)

    def beside(self, run_id: RunId, report: Report) -> None:
        """Write log lines, where they are wanted."""
        for line in self._model.take_logs():
            if self._logs:
                self._write(f"    {line.level:<7} {format_path(line.path)}: {line.message}")

    def _line(self, event: ev.Event) -> str:
        path = getattr(event, "path", ())
        if any(isinstance(part, int) for part in path) or path == ("$output",):
            return ""
        name = format_path(path)
        if isinstance(event, ev.StageFinished):
            return f"  ✓ {name}  {duration(event.duration_ms)}" + (
                f"  → {', '.join(event.choice)}" if event.choice else ""
            )
        if isinstance(event, ev.StageFailed):
            return f"  ✗ {name}  {event.failure.message}"
        if isinstance(event, ev.StageSkipped):
            return f"  ○ {name}  skipped: {event.reason}"
        if isinstance(event, ev.StageCancelled):
            return f"  ⊘ {name}  cancelled"
        if isinstance(event, ev.StageRetried):
            return f"  ↻ {name}  attempt {event.attempt} failed: {event.failure.message}"
        if isinstance(event, ev.StageLost):
            return f"  ↻ {name}  attempt {event.attempt} was lost: {event.failure.message}"
        if isinstance(event, ev.StageDeferred):
            return f"  ↻ {name}  attempt {event.attempt} needs a larger allowance: {limit_words(event.need)}"
        if isinstance(event, ev.ItemsFinished):
            return self._items(path)
        if isinstance(event, ev.RunCancelling):
            return f"  cancelling: {event.reason}"
        if isinstance(event, ev.RunPausing):
            return "  pausing"
        return ""

    def _items(self, path: tuple[str | int, ...]) -> str:
        stage = self._model.picture.stages.get(path)
        if stage is None or not stage.total or stage.done >= stage.total:
            return ""
        tenth = int(stage.done / stage.total / _EVERY)
        if tenth <= self._told.get(path, 0):
            return ""
        self._told[path] = tenth
        return f"  ● {format_path(path)}  {stage.done}/{stage.total}"
