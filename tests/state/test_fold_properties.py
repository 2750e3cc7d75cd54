"""The fold and `admits`, over journals of random pipelines in a bad world."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason import event as ev
from flowmason.errors import Code
from flowmason.event import Recorded, decode_events, encode_events
from flowmason.state import RunState, Status, admits, decide, fold
from journals.golden import snapshot
from simulation.drive import Outcome, simulate

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(min_value=50_000, max_value=50_040)
ONCE = (ev.StageFinished, ev.StageFailed, ev.StageSkipped, ev.StageExpanded, ev.ItemsFinished)
PROPOSED = (*ONCE, ev.StageRetried, ev.StageLost, ev.StageCancelled)


@lru_cache(maxsize=64)
def recorded(seed: int) -> Outcome:
    """The journal of one seed."""
    return simulate(seed)


def state_of(outcome: Outcome, events: list[Recorded]) -> RunState:
    """The fold of some of its events."""
    return fold(outcome.events[0].run_id, outcome.plan, events)


@FEW
@given(SEEDS)
def test_the_same_events_give_the_same_state(seed: int) -> None:
    outcome = recorded(seed)
    one = snapshot(state_of(outcome, outcome.events))
    stored = decode_events(encode_events(tuple(each.event for each in outcome.events)))
    copies = [msgspec.structs.replace(each, event=event) for each, event in zip(outcome.events, stored, strict=True)]
    assert snapshot(state_of(outcome, copies)) == one
    assert one["status"] == outcome.status


@FEW
@given(SEEDS, st.floats(min_value=0, max_value=1))
def test_a_prefix_and_then_the_rest_is_the_whole(seed: int, share: float) -> None:
    outcome = recorded(seed)
    cut = int(share * len(outcome.events))
    state = state_of(outcome, outcome.events[:cut])
    if cut:
        snapshot(state)  # looking at a state changes nothing
    runnable: list[Any] = []
    for each in outcome.events[cut:]:
        if state.root is not None:
            decide(state, each.at, runnable)  # nor does asking what follows
        state.apply(each.event, seq=each.seq, at=each.at)
    assert snapshot(state) == snapshot(state_of(outcome, outcome.events))


def _refused(state: RunState, event: Any) -> bool:
    """Whether the conductor itself ended a stage that its budgets have no room for, before it was begun."""
    if not isinstance(event, ev.StageFailed) or event.failure.code != Code.BUDGET_EXCEEDED:
        return False
    return state.find(event.path).status is Status.PENDING


@FEW
@given(SEEDS)
def test_what_was_recorded_is_admitted_once_and_not_again(seed: int) -> None:
    outcome = recorded(seed)
    state = RunState(outcome.events[0].run_id, outcome.plan)
    for each in outcome.events:
        event: Any = each.event
        if isinstance(event, PROPOSED) and not _refused(state, event):
            assert admits(state, event) is None, (each.seq, event)
        state.apply(event, seq=each.seq, at=each.at)
        if isinstance(event, PROPOSED):
            assert admits(state, event) is not None, (each.seq, event)


@FEW
@given(SEEDS, st.data())
def test_a_late_report_is_never_admitted(seed: int, data: st.DataObject) -> None:
    """What a worker says once more, however late, finds the stage ended or its attempt given up."""
    outcome = recorded(seed)
    proposed = [each for each in outcome.events if isinstance(each.event, ONCE)]
    if not proposed:
        return
    late = data.draw(st.sampled_from(proposed))
    reopened = [each.seq for each in outcome.events if isinstance(each.event, ev.StageReopened)]
    until = data.draw(st.integers(min_value=late.seq, max_value=len(outcome.events)))
    if any(late.seq < seq <= until for seq in reopened):
        return
    state = state_of(outcome, outcome.events[:until])
    assert admits(state, late.event) is not None  # type: ignore[arg-type]


@FEW
@given(SEEDS)
def test_nothing_follows_from_a_state_that_has_ended(seed: int) -> None:
    outcome = recorded(seed)
    state = state_of(outcome, outcome.events)
    runnable: list[Any] = []
    state.drain_fresh()
    assert state.ended
    assert [event for event in decide(state, 10**15, runnable) if not isinstance(event, ev.StageSkipped)] == []


@FEW
@given(SEEDS)
def test_counters_agree_with_the_stages_they_count(seed: int) -> None:
    outcome = recorded(seed)
    state = RunState(outcome.events[0].run_id, outcome.plan)
    for each in outcome.events:
        state.apply(each.event, seq=each.seq, at=each.at)
        for scope in {id(stage.scope): stage.scope for stage in state.stages.values()}.values():
            assert scope.open == sum(not stage.ended for stage in scope.stages.values())
            assert scope.busy == sum(stage.status is Status.RUNNING for stage in scope.stages.values())
            for stage in scope.stages.values():
                ended = (Status.COMPLETED, Status.SKIPPED)
                waits = sum(scope.stages[need].status not in ended for need in stage.stage.needs)
                assert stage.missing == waits
