"""Whether an event that a worker proposes may be recorded now.

Workers are never trusted to know the present: their reports may be late, doubled, reordered, or come
from an attempt that was given up. What is refused is dropped; nothing is ever recorded twice.
"""

from __future__ import annotations

from flowmason import event as ev
from flowmason.plan import Kind
from flowmason.policy import Effect
from flowmason.state.debugging import BEFORE
from flowmason.state.fold import RunState
from flowmason.state.tree import ForeachState, StageState, Status

_PROPOSED = (
    ev.StageFinished,
    ev.StageFailed,
    ev.StageRetried,
    ev.StageSkipped,
    ev.StageExpanded,
    ev.ItemsFinished,
    ev.StageLost,
    ev.StageDeferred,
    ev.StageCancelled,
    ev.EffectRecorded,
)


def admits(state: RunState, event: ev.StageEvent) -> str | None:
    """None if `event` may be recorded, else why not."""
    if state.ended:
        return "the run has ended"
    if not isinstance(event, _PROPOSED):
        return f"a worker may not propose {ev.kind(event)}"
    try:
        stage = state.find(event.path)
    except KeyError:
        return "no such stage is open"
    if stage.ended:
        return f"the stage is {stage.status}"
    if state.debug.stop is not None and state.debug.stop.reason in BEFORE and state.debug.stop.path == event.path:
        return "the run has stopped before the stage"  # it was sent out before anybody asked for that
    if isinstance(event, ev.ItemsFinished):
        return _items(stage, event)
    if isinstance(event, ev.EffectRecorded):
        return None if stage.status is Status.RUNNING else "the stage is not running"
    if stage.body is not None:
        return _owner(stage, event)
    if stage.stage.effect is not Effect.PURE and not isinstance(event, ev.StageSkipped):
        if stage.status is not Status.RUNNING:
            return "the stage has an effect and its start is not recorded"
    elif stage.missing or stage.scope.doomed is not None or stage.status is not Status.PENDING:
        return "the stage may not start"
    if not isinstance(event, ev.StageSkipped) and event.attempt != stage.attempt:
        return f"attempt {event.attempt} was given up; {stage.attempt} counts"
    if isinstance(event, ev.StageDeferred) and stage.stage.effect is not Effect.IDEMPOTENT:
        return "only what is idempotent can be begun again"
    return _fits(stage, event)


def _fits(stage: StageState, event: ev.StageEvent) -> str | None:
    kind = stage.stage.kind
    if isinstance(event, ev.StageExpanded) and kind not in (Kind.FOREACH, Kind.TRYCATCH, Kind.SUBPIPELINE):
        return "the stage has no body"
    if isinstance(event, ev.StageFinished):
        if kind in (Kind.FOREACH, Kind.TRYCATCH):
            return "the stage has a body that has not run"
        if stage.stage.is_guard and event.choice is None:
            return "a guard must say what it chose"
    return None


def _items(stage: StageState, event: ev.ItemsFinished) -> str | None:
    body = stage.body
    if not isinstance(body, ForeachState):
        return "the stage is not an expanded foreach"
    stop = event.start + event.count
    if event.count < 1 or event.start < 0 or stop > body.total:
        return "no such items"
    if body.doomed is not None:
        return "the foreach is ending"
    if body.done.find(1, event.start, stop) >= 0:
        return "some of the items ended before"
    if any(event.start <= index < stop for index in body.open):
        return "some of the items are recorded stage by stage"
    return None


def _owner(stage: StageState, event: ev.StageEvent) -> str | None:
    """A worker that ran a whole body proposes its owner's end; the fold decides whether it is over."""
    assert stage.body is not None
    if isinstance(event, ev.StageExpanded):
        return "the stage is expanded already"
    if isinstance(event, ev.StageRetried):
        return None if getattr(stage.body, "retry", False) else "no round is due"
    return None if stage.body.over else "the body is not over"
