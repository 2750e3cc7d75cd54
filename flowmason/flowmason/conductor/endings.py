"""What the end of a flight means for the stages that it did not bring home."""

from __future__ import annotations

from flowmason import event as ev
from flowmason.conductor.flights import Flight, Flights
from flowmason.errors import Code, Failure
from flowmason.ids import format_path
from flowmason.policy import Effect
from flowmason.report import Ended, Report
from flowmason.state import ForeachState, RunState, StageState, Status
from flowmason.state.retry import after_failure, after_loss, timed_out
from flowmason.usage import total

_GONE = Failure(code=Code.LOST, message="the worker died")


def ended(
    state: RunState, flights: Flights, flight: Flight, report: Report, *, now: int, jitter: float
) -> list[ev.StageEvent]:
    """The events to record for what a flight leaves behind; what is pure simply becomes ready again."""
    stage = flight.effect
    if stage is not None:
        return _effect_ended(stage, flight, report, now, jitter)
    if report.ended is not Ended.LOST:
        return []
    failure = report.failure or _GONE
    if flight.timed_out:
        return [
            after_failure(
                found,
                timed_out(format_path(path), found.stage.timeout_ms),
                now=now,
                jitter=jitter,
                calls=flight.calls(path, found.attempt),
            )
            for path in flight.suspects()
            if (found := state.stages.get(path)) is not None and found.ready
        ]
    return _pure_lost(state, flights, flight, failure)


def _effect_ended(stage: StageState, flight: Flight, report: Report, now: int, jitter: float) -> list[ev.StageEvent]:
    if stage.status is not Status.RUNNING:
        return []
    failure = report.failure or _GONE
    # A worker that ended a call in good order has told all that it asked models.
    calls = flight.calls(stage.path, stage.attempt, lost=report.ended is not Ended.CANCELLED)
    if flight.timed_out:
        late = timed_out(format_path(stage.path), stage.stage.timeout_ms)
        return [after_failure(stage, late, now=now, jitter=jitter, calls=calls)]
    if flight.cancelling and stage.scope.doomed is not None:
        unknown = None
        if stage.stage.effect is Effect.UNSAFE:
            unknown = Failure(
                code=Code.OUTCOME_UNKNOWN,
                message="cancelled while its effect was under way; it may or may not have happened",
                stage=format_path(stage.path),
            )
        return [
            ev.StageCancelled(path=stage.path, attempt=stage.attempt, failure=unknown, usage=total(calls), calls=calls)
        ]
    return [after_loss(stage, failure, calls)]


def _pure_lost(state: RunState, flights: Flights, flight: Flight, failure: Failure) -> list[ev.StageEvent]:
    """Find the culprit: a stage that was alone is charged, the others are tried one by one, each in its own task."""
    suspects = flight.suspects()
    if len(suspects) == 1 and not flight.load.items and not flight.company:
        found = state.stages.get(next(iter(suspects)))
        if found is not None and found.ready:
            return [after_loss(found, failure, flight.calls(found.path, found.attempt))]
    flights.suspects |= suspects
    for owner, ranges in flight.load.items:
        if not isinstance(owner.body, ForeachState) or owner.ended or owner.body.doomed is not None:
            continue
        count = sum(stop - start for start, stop in ranges)
        flights.narrow[owner.path] = max(1, min(count, flights.narrow.get(owner.path, count)) // 2)
        if count == 1:
            index = ranges[0][0]
            if not owner.body.done[index] and index not in owner.body.open:
                scope = state.open_item(owner, index)
                flights.suspects.update(inner.path for inner in scope.stages.values())
    return []
