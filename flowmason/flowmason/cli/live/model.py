"""`LiveModel`: what the live view shows, as data. Pure: it is fed events and reports, and asked with a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowmason.assembly.picture import RunPicture, StagePicture
from flowmason.cli.console import visible
from flowmason.event import Recorded
from flowmason.ids import RunId, StagePath
from flowmason.plan import Plan
from flowmason.report import LogLine, Report
from flowmason.state import Status
from flowmason.usage import Usage

TAIL = 400
"""Characters of a stage's streamed text that are kept."""


@dataclass(frozen=True, slots=True)
class Row:
    """One stage in the view."""

    path: str
    """Empty for a line that stands for stages that are left out."""
    depth: int
    status: Status
    elapsed_ms: float | None
    attempts: int
    total: int | None
    """Of a foreach: how many items; of a stage that told its progress: of how much."""
    done: float
    detail: str
    """Why it was skipped or failed, how far it says it is."""
    tail: str
    """The end of the text that it streams, on one line."""


@dataclass(frozen=True, slots=True)
class View:
    """All that is drawn at one moment."""

    title: str
    status: Status
    rows: tuple[Row, ...]
    hidden: Counter[str]
    """Stages that are left out, by status."""
    ended: int
    stages: int
    elapsed_ms: float
    usage: Usage
    note: str


@dataclass(slots=True)
class _Beside:
    """What a running stage told beside the journal."""

    attempt: int = 0
    tail: str = ""
    seen: int = 0
    done: float = 0.0
    total: float | None = None
    message: str = ""


@dataclass(slots=True)
class LiveModel:
    """Follows one run."""

    plan: Plan | None = None
    run_id: RunId | None = None
    picture: RunPicture = field(init=False)
    since: dict[StagePath, int] = field(default_factory=dict)
    """When a stage was first seen running."""
    note: str = ""
    logs: list[LogLine] = field(default_factory=list)
    """Lines not taken yet."""
    _beside: dict[StagePath, _Beside] = field(default_factory=dict)
    _ended_at: dict[StagePath, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.picture = RunPicture(self.plan)

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        """Take in committed events; those of other runs are none of ours."""
        if self.run_id is not None and run_id != self.run_id:
            return
        for recorded in events:
            self.picture.apply(recorded)
            path = getattr(recorded.event, "path", None)
            stage = self.picture.stages.get(path) if path is not None else None
            if path is not None and (stage is None or stage.ended):
                self._beside.pop(path, None)
                self._ended_at[path] = recorded.seq

    def beside(self, run_id: RunId, report: Report) -> None:
        """Take in log lines, streamed text and progress."""
        if self.run_id is not None and run_id != self.run_id:
            return
        self.logs.extend(report.logs)
        for delta in report.deltas:
            told = self._told(delta.path, delta.attempt)
            if delta.n > told.seen:
                told.seen = delta.n
                told.tail = (told.tail + delta.text)[-TAIL:]
        for progress in report.progress:
            told = self._told(progress.path, progress.attempt)
            told.done, told.total, told.message = progress.done, progress.total, progress.message

    def take_logs(self) -> list[LogLine]:
        """Log lines since the last call."""
        taken, self.logs = self.logs, []
        return taken

    def view(self, now: int, most: int = 40) -> View:
        """What to draw at `now` (ms since the epoch), in at most `most` rows."""
        picture = self.picture
        stages = picture.ordered()
        shown = {stage.path: picture.shown_status(stage) for stage in stages}
        for stage in stages:
            if shown[stage.path] is Status.RUNNING:
                self.since.setdefault(stage.path, stage.started_at or now)
            elif not stage.ended:
                self.since.pop(stage.path, None)
        chosen = self._choose(stages, shown, most)
        hidden = Counter(str(shown[stage.path]) for stage in stages if stage.path not in chosen)
        begun = picture.started_at or picture.submitted_at or now
        return View(
            title=f"{picture.pipeline}@{picture.version}" if picture.version else picture.pipeline,
            status=picture.status,
            rows=tuple(self._row(stage, shown[stage.path], now) for stage in stages if stage.path in chosen),
            hidden=hidden,
            ended=sum(stage.ended for stage in stages),
            stages=len(stages),
            elapsed_ms=max(0, (picture.ended_at or now) - begun),
            usage=picture.usage or Usage(),
            note=self.note,
        )

    def _choose(
        self, stages: Sequence[StagePicture], shown: dict[StagePath, Status], most: int
    ) -> frozenset[StagePath]:
        """Where there is no room for all: what runs and what failed, then what ended last, then what comes next."""
        if len(stages) <= most:
            return frozenset(shown)

        def urgency(stage: StagePicture) -> tuple[int, int]:
            status = shown[stage.path]
            if status is Status.FAILED:
                return (0, 0)
            if status is Status.RUNNING:
                return (1, 0)
            if stage.ended and status is not Status.SKIPPED:
                return (2, -self._ended_at.get(stage.path, 0))
            return (3, 0)

        return frozenset(stage.path for stage in sorted(stages, key=urgency)[:most])

    def _row(self, stage: StagePicture, status: Status, now: int) -> Row:
        told = self._beside.get(stage.path)
        elapsed = stage.duration_ms
        if status is Status.RUNNING:
            elapsed = max(0, now - self.since.get(stage.path, now))
        total: float | None = stage.total
        done: float = stage.done
        detail = ""
        if told is not None and total is None and told.total:
            total, done, detail = told.total, told.done, told.message
        elif told is not None:
            detail = told.message
        if stage.failure is not None and status is Status.FAILED:
            detail = stage.failure.message
        elif stage.failure is not None and status in (Status.PENDING, Status.RUNNING) and stage.attempts:
            detail = f"again after: {stage.failure.message}"
        elif status is Status.SKIPPED:
            detail = stage.reason
        elif stage.choice is not None and stage.choice:
            detail = f"→ {', '.join(stage.choice)}"
        elif stage.failed_items:
            detail = f"{stage.failed_items} failed"
        return Row(
            path=stage.name,
            depth=self._depth(stage),
            status=status,
            elapsed_ms=elapsed,
            attempts=stage.attempts,
            total=int(total) if total is not None else None,
            done=done,
            detail=visible(" ".join(detail.split())),
            tail=visible(" ".join(told.tail.split())) if told is not None else "",
        )

    def _depth(self, stage: StagePicture) -> int:
        strings = sum(isinstance(part, str) for part in stage.path)
        around = 0
        if stage.stage is not None and self.plan is not None and len(stage.path) == 1:
            around = len(self.plan.ancestors.get(stage.stage.id, ()))
        return max(strings - 1, around)

    def _told(self, path: StagePath, attempt: int) -> _Beside:
        told = self._beside.get(path)
        if told is None or attempt > told.attempt:
            told = self._beside[path] = _Beside(attempt)
        return told
