"""Gaps of a loop, shares of what is ready, waits between attempts."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason import event as ev
from flowmason import value
from flowmason.conductor.flights import take
from flowmason.dispatch import share
from flowmason.errors import Failure, Retry
from flowmason.ids import RunId, StagePath
from flowmason.policy import LOST_BUDGET, OnLost, RetryPolicy
from flowmason.state import ForeachState, Role, RunState, ScopeState, StageState, Status
from flowmason.state.retry import after_failure, after_loss
from simulation.pipelines import random_plan

SOME = settings(max_examples=150, deadline=None, derandomize=True)


@SOME
@given(
    st.lists(st.sampled_from("-do"), max_size=60),
    st.integers(min_value=0, max_value=70),
)
def test_gaps_are_what_neither_ended_nor_was_opened(items: list[str], start: int) -> None:
    done = bytearray(item == "d" for item in items)
    foreach = ForeachState(len(items), value.NULL, {}, done=done)
    plan = random_plan(1)
    foreach.open = {
        index: ScopeState(plan.scope, plan, (), Role.ITEM) for index, item in enumerate(items) if item == "o"
    }
    gaps = foreach.gaps(start)
    covered = [index for low, high in gaps for index in range(low, high)]
    assert covered == [index for index, item in enumerate(items) if item == "-" and index >= start]
    assert all(low < high for low, high in gaps)


@SOME
@given(
    st.lists(st.tuples(st.integers(min_value=0, max_value=9), st.integers(min_value=1, max_value=9)), max_size=8),
    st.integers(min_value=0, max_value=60),
)
def test_taking_and_leaving_loses_no_item(pieces: list[tuple[int, int]], count: int) -> None:
    ranges, at = [], 0
    for gap, length in pieces:
        ranges.append((at + gap, at + gap + length))
        at += gap + length
    everything = [index for low, high in ranges for index in range(low, high)]
    taken, rest = take(ranges, count)
    first = [index for low, high in taken for index in range(low, high)]
    second = [index for low, high in rest for index in range(low, high)]
    assert first == everything[:count]
    assert second == everything[count:]


def ready_stages(seed: int) -> list[StageState]:
    """What may start first in a random pipeline."""
    plan = random_plan(seed)
    state = RunState(RunId("run_x"), plan)
    state.apply(ev.RunSubmitted(plan=plan.id, input=value.inline({})))
    return [stage for stage in state.drain_fresh() if stage.stage.light]


@SOME
@given(
    st.integers(min_value=0, max_value=300),
    st.integers(min_value=1, max_value=5),
    st.sampled_from([1, 2, 16, 64]),
)
def test_shares_cover_every_ready_stage_once_and_look_ahead_only_at_what_can_run(
    seed: int, workers: int, size: int
) -> None:
    ready = ready_stages(seed)
    taken: set[StagePath] = set()
    loads = share(ready, workers, size, taken)
    assert len(loads) <= workers
    carried = [stage.path for load in loads for stage in load.stages]
    assert len(carried) == len(set(carried))
    assert {stage.path for stage in ready} <= set(carried)
    assert taken == set(carried)
    for load in loads:
        own = {stage.stage.id for stage in load.stages}
        for position, stage in enumerate(load.stages):
            before = {other.stage.id for other in load.stages[:position]}
            assert all(need in before for need in stage.stage.needs) or not stage.stage.needs
            assert stage.stage.light and stage.stage.id in own


def stage_with(retry: RetryPolicy, *, on_lost: OnLost = OnLost.RERUN) -> StageState:
    """A stage with this policy."""
    plan = random_plan(3)
    stage = msgspec.structs.replace(plan.scope.stages[0], retry=retry, on_lost=on_lost)
    return StageState(stage, ScopeState(plan.scope, plan, (), Role.ROOT), (stage.id,), 0, status=Status.RUNNING)


POLICIES = st.builds(
    RetryPolicy,
    max_retries=st.integers(min_value=0, max_value=10),
    initial_delay_ms=st.integers(min_value=0, max_value=5_000),
    max_delay_ms=st.integers(min_value=0, max_value=60_000),
    backoff_multiplier=st.floats(min_value=1, max_value=5),
)
JITTER = st.floats(min_value=0, max_value=1)


@SOME
@given(POLICIES, st.integers(min_value=1, max_value=11), JITTER)
def test_a_wait_lies_within_a_quarter_of_its_exponential(policy: RetryPolicy, attempt: int, jitter: float) -> None:
    exact = min(policy.max_delay_ms, policy.initial_delay_ms * policy.backoff_multiplier ** (attempt - 1))
    assert int(exact * 0.75) <= policy.delay_ms(attempt, jitter) <= exact * 1.25
    assert policy.delay_ms(attempt, 0) <= policy.delay_ms(attempt, jitter) <= policy.delay_ms(attempt, 1)


@SOME
@given(POLICIES, st.integers(min_value=0, max_value=5), st.integers(min_value=0, max_value=3), JITTER)
def test_attempts_are_one_more_than_retries_whatever_was_lost_or_reopened(
    policy: RetryPolicy, base: int, lost: int, jitter: float
) -> None:
    stage = stage_with(policy)
    stage.base, stage.lost = base, lost
    stage.attempt = base + lost + 1
    failure = Failure(code="X", message="x", retry=Retry.NOW)
    made = 0
    while True:
        made += 1
        assert made < 20
        event = after_failure(stage, failure, now=1000, jitter=jitter)
        if isinstance(event, ev.StageFailed):
            break
        assert event.at >= 1000
        stage.attempt = event.attempt + 1
    assert made == policy.max_retries + 1


@SOME
@given(POLICIES, st.integers(min_value=0, max_value=100_000), JITTER)
def test_the_other_side_s_wish_is_a_lower_bound(policy: RetryPolicy, wish: int, jitter: float) -> None:
    failure = Failure(code="X", message="x", retry=Retry.AFTER, retry_after_ms=wish)
    event = after_failure(stage_with(policy), failure, now=0, jitter=jitter)
    if policy.max_retries:
        assert isinstance(event, ev.StageRetried)
        assert event.at >= max(wish, policy.delay_ms(1, jitter))
    else:
        assert isinstance(event, ev.StageFailed)


@given(st.sampled_from([Retry.NEVER]), POLICIES)
@SOME
def test_what_says_never_is_never_tried_again(retry: Retry, policy: RetryPolicy) -> None:
    event = after_failure(stage_with(policy), Failure(code="X", message="x", retry=retry), now=0, jitter=0.5)
    assert isinstance(event, ev.StageFailed)


def test_losses_have_a_budget_of_their_own() -> None:
    stage = stage_with(RetryPolicy())
    lost = Failure(code="LOST", message="gone")
    seen = 0
    while isinstance(event := after_loss(stage, lost), ev.StageLost):
        seen += 1
        stage.lost += 1
        stage.attempt = event.attempt + 1
    assert seen == LOST_BUDGET
    stage.stage = msgspec.structs.replace(stage.stage, lost_budget=0)
    stage.lost = 0
    assert isinstance(after_loss(stage, lost), ev.StageFailed)
    unknown = after_loss(stage_with(RetryPolicy(max_retries=5), on_lost=OnLost.UNKNOWN), lost)
    assert isinstance(unknown, ev.StageFailed)
    assert unknown.failure.code == "OUTCOME_UNKNOWN"
