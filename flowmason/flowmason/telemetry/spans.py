"""From the events of a run to spans: run → stage → what it asked of language models. Pure.

The ids come from the run's id, the stage's path and its round, so that whoever tells of a run again tells the same.
Attempts of a stage are events of its span. A model call has a span of its own, without what was asked and answered:
no journal keeps prompts for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from flowmason import event as ev
from flowmason.errors import Failure
from flowmason.ids import RunId, StagePath, format_path
from flowmason.telemetry.context import Traceparent, hashed_id
from flowmason.usage import Call, CallEnd, Usage

Attribute = str | int | float | bool
_MOST_TEXT = 1000


class _Told(Protocol):
    """An event that tells what an attempt asked of models."""

    @property
    def usage(self) -> Usage | None: ...
    @property
    def calls(self) -> tuple[Call, ...]: ...


class Happening(msgspec.Struct, frozen=True):
    """Something inside a span."""

    name: str
    at: int
    attributes: dict[str, Attribute] = {}


class Span(msgspec.Struct, kw_only=True):
    """A piece of time, in milliseconds since the epoch."""

    name: str
    span_id: int
    parent: int | None
    start: int
    end: int = 0
    kind: Literal["internal", "client", "server"] = "internal"
    attributes: dict[str, Attribute] = msgspec.field(default_factory=dict)
    happenings: list[Happening] = msgspec.field(default_factory=list)
    error: str | None = None
    """Why it failed."""


def run_span_id(run_id: RunId) -> int:
    """The id of a run's span."""
    return hashed_id(8, run_id)


def trace_id_of(run_id: RunId) -> int:
    """The id of the trace of a run that nobody's trace asked for."""
    return hashed_id(16, run_id)


def spans(recorded: Sequence[ev.Recorded], org_id: str, above: Traceparent | None = None) -> list[Span]:
    """The spans of a run whose journal this is; the first is the run's own. `above` is what asked for the run."""
    return _Telling(recorded, org_id, above).told()


class _Telling:
    def __init__(self, recorded: Sequence[ev.Recorded], org_id: str, above: Traceparent | None) -> None:
        self._recorded = recorded
        self._org_id = org_id
        first = recorded[0]
        self._run_id = first.run_id
        submitted = first.event
        name = submitted.pipeline if isinstance(submitted, ev.RunSubmitted) else ""
        self._run = Span(
            name=f"run {name}",
            span_id=run_span_id(self._run_id),
            parent=above.span_id if above is not None else None,
            start=first.at,
            end=recorded[-1].at,
            attributes={**self._common(), "flowmason.pipeline.name": name},
        )
        if isinstance(submitted, ev.RunSubmitted):
            self._run.attributes["flowmason.pipeline.version"] = submitted.version
            if submitted.parent is not None:
                self._run.attributes["flowmason.run.parent"] = submitted.parent
        self._rounds: dict[StagePath, int] = {}
        self._stages: dict[tuple[StagePath, int], Span] = {}
        self._calls: list[Span] = []

    def told(self) -> list[Span]:
        for each in self._recorded:
            self._tell(each.event, each.at)
        for span in self._stages.values():
            if not span.end:
                span.end = self._run.end
                span.attributes["flowmason.status"] = "unfinished"
            span.end = max(span.end, span.start)
        return [self._run, *self._stages.values(), *self._calls]

    def _common(self) -> dict[str, Attribute]:
        return {"flowmason.run.id": self._run_id, "flowmason.org.id": self._org_id}

    def _tell(self, event: ev.Event, at: int) -> None:
        match event:
            case ev.RunCompleted():
                self._run_ended("completed", at)
            case ev.RunFailed(failure=failure):
                self._run_ended("failed", at, failure)
            case ev.RunCancelled():
                self._run_ended("cancelled", at)
            case ev.RunStarted() | ev.RunAdopted() | ev.RunPaused() | ev.RunResumed() | ev.RunReopened():
                self._run.happenings.append(Happening(ev.kind(event), at))
            case ev.StageReopened(path=path, round=number):
                self._rounds[path] = number
                previous = self._stages.get((path, number))
                if previous is not None:
                    previous.end = 0
                    previous.error = None
            case ev.StageStarted(path=path) | ev.StageFailing(path=path):
                self._stage(path, at)
            case ev.StageExpanded(path=path, started_at=started):
                self._stage(path, min(started or at, at))
            case ev.StageRetried(path=path) | ev.StageLost(path=path):
                self._again(event, at)
            case ev.StageFinished(path=path, started_at=started):
                self._stage_ended(path, "completed", started, _over(event, at), event.attempt)
                self._asked(path, event.attempt, event, started or at, _over(event, at))
            case ev.StageFailed(path=path, started_at=started, failure=failure):
                self._stage_ended(path, "failed", started, _over(event, at), event.attempt, failure)
                self._asked(path, event.attempt, event, started or at, _over(event, at), failure)
            case ev.StageDeferred(path=path):
                span = self._stage(path, at)
                span.happenings.append(Happening(ev.kind(event), at, {"flowmason.stage.attempt": event.attempt}))
                self._asked(path, event.attempt, event, span.start, at)
            case ev.StageCancelled(path=path):
                self._stage_ended(path, "cancelled", 0, at, event.attempt)
                self._asked(path, event.attempt, event, at, at)
            case ev.ItemsFinished(path=path, started_at=started):
                what: dict[str, Attribute] = {
                    "flowmason.items.start": event.start,
                    "flowmason.items.count": event.count,
                }
                self._stage(path, started or at).happenings.append(Happening(ev.kind(event), at, what))
                self._asked(path, event.start, event, started or at, _over(event, at))
            case _:
                pass

    def _run_ended(self, status: str, at: int, failure: Failure | None = None) -> None:
        self._run.end = at
        self._run.attributes["flowmason.status"] = status
        self._fail(self._run, failure)

    def _stage(self, path: StagePath, start: int) -> Span:
        number = self._rounds.get(path, 1)
        span = self._stages.get((path, number))
        if span is None:
            span = self._stages[path, number] = Span(
                name=f"stage {path[-1] if path else ''}",
                span_id=hashed_id(8, self._run_id, format_path(path), number),
                parent=self._above(path),
                start=start,
                attributes={**self._common(), "flowmason.stage.path": format_path(path)},
            )
            if number > 1:
                span.attributes["flowmason.stage.round"] = number
        span.start = min(span.start, start)
        return span

    def _above(self, path: StagePath) -> int:
        """The span of the nearest stage around a stage."""
        for length in range(len(path) - 1, 0, -1):
            last = path[length - 1]
            if isinstance(last, str):
                around = (*path[: length - 1], last.partition("~")[0])
                # It has begun before what is in it, whatever was recorded of it so far.
                return hashed_id(8, self._run_id, format_path(around), self._rounds.get(around, 1))
        return self._run.span_id

    def _stage_ended(
        self, path: StagePath, status: str, started: int, end: int, attempt: int, failure: Failure | None = None
    ) -> None:
        span = self._stage(path, started or end)
        span.end = max(end, span.start)
        span.attributes["flowmason.status"] = status
        span.attributes["flowmason.stage.attempts"] = attempt
        self._fail(span, failure)

    def _again(self, event: ev.StageRetried | ev.StageLost, at: int) -> None:
        span = self._stage(event.path, at)
        what: dict[str, Attribute] = {
            "flowmason.stage.attempt": event.attempt,
            "error.type": event.failure.code,
            "error.message": event.failure.message[:_MOST_TEXT],
        }
        span.happenings.append(Happening(ev.kind(event), at, what))
        self._asked(event.path, event.attempt, event, span.start, at, event.failure)

    def _asked(
        self,
        path: StagePath,
        attempt: int,
        told: _Told,
        start: int,
        end: int,
        failure: Failure | None = None,
    ) -> None:
        """What an attempt asked of language models: a span for each call, under the stage's."""
        start = min(start, end)  # where nobody noted when it began, its record came after its end
        for n, call in enumerate(told.calls, 1):
            begun = call.started_at or start
            # Times are whole milliseconds: rounded, a call may seem to end after its attempt.
            ended = max(begun, min(begun + call.duration_ms, end)) if call.started_at else end
            self._called(path, attempt, n, call.usage, begun, ended, call.end)
        if not told.calls and told.usage is not None and told.usage.calls:
            # Journals of before the ledger have the sum alone.
            self._called(path, attempt, 0, told.usage, start, end, None if failure is None else CallEnd.FAILED)

    def _called(
        self, path: StagePath, attempt: int, n: int, usage: Usage, start: int, end: int, how: str | None
    ) -> None:
        stage = self._stage(path, start)
        number = self._rounds.get(path, 1)
        marks = ("llm", attempt, n) if n else ("llm", attempt)
        span = Span(
            name=f"chat {usage.model}".rstrip(),
            span_id=hashed_id(8, self._run_id, format_path(path), number, *marks),
            parent=stage.span_id,
            start=start,
            end=max(start, end),
            kind="client",
            attributes={
                **self._common(),
                "flowmason.stage.path": format_path(path),
                "flowmason.stage.attempt": attempt,
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": usage.provider,
                "gen_ai.request.model": usage.model,
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
                "flowmason.llm.tokens_estimated": usage.estimated,
            },
        )
        if n:
            span.attributes["flowmason.llm.end"] = how or CallEnd.ANSWERED.value
        else:
            span.attributes["flowmason.llm.calls"] = usage.calls
        if usage.cost is not None:
            span.attributes["flowmason.llm.cost_dollars"] = float(usage.cost)
        if n and how not in (None, CallEnd.ANSWERED, CallEnd.CACHED):
            span.error = f"the call was {how}"
            span.attributes["error.type"] = str(how)
        self._calls.append(span)

    def _fail(self, span: Span, failure: Failure | None) -> None:
        span.error = None if failure is None else f"{failure.code}: {failure.message}"[:_MOST_TEXT]
        if failure is None:
            span.attributes.pop("error.type", None)
        else:
            span.attributes["error.type"] = failure.code


def _over(event: Any, at: int) -> int:
    """When something ended: by the worker's clock where it said so."""
    return event.started_at + round(event.duration_ms) if event.started_at and event.duration_ms else at
