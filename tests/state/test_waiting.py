"""Why a run or a stage waits: one test for each cause, over states that events make."""

from __future__ import annotations

from typing import Any

import pytest

from compiling_kit import build, echo, read
from flowmason import event as ev
from flowmason import value
from flowmason.compiler import compile_pipeline
from flowmason.debug import view
from flowmason.errors import Code, Failure
from flowmason.ids import RunId
from flowmason.plan import Plan
from flowmason.registry import find_components
from flowmason.report import LET_IN, LINED_UP, LogLine
from flowmason.state import RunState
from flowmason.usage import Limit
from flowmason.waiting import MOST_STAGES, Answer, Cause, Facts, lined_up, why

NOW = 1_000_000


def plan_of(*stages: dict[str, Any]) -> Plan:
    plan: Plan = build(*stages)
    return plan


CHAIN = (echo("a"), echo("b", "{{upstream.a.value}}"))


def state_of(*events: ev.Event, plan: Plan | None = None, options: dict[str, Any] | None = None) -> RunState:
    """A run that was submitted, and what happened since."""
    plan = plan or plan_of(*CHAIN)
    state = RunState(RunId("run_x"), plan)
    for event in (ev.RunSubmitted(plan=plan.id, input=value.inline({}), options=options or {}), *events):
        state.apply(event, at=NOW - 1000)
    return state


def facts(**more: Any) -> Facts:
    return Facts(**{"now": NOW, "owner": "c1", **more})


def code(answer: Answer) -> Cause:
    return answer.causes[0].code


def stages(answer: Answer) -> dict[str, Cause]:
    return {stage.path: stage.code for stage in answer.stages}


STARTED = ev.RunStarted()


def test_a_run_that_waits_for_a_conductor() -> None:
    none = why(state_of(), facts(status="queued", owner=None, conductors=0))
    assert code(none) is Cause.NO_CONDUCTOR and none.waiting and "there is none" in none.causes[0].explanation
    silent = why(state_of(), facts(owner=None, conductors=0, silent_s=42.0))
    assert code(silent) is Cause.NO_CONDUCTOR and "42 s ago" in silent.causes[0].explanation
    assert stages(none) == {"a": Cause.NO_CONDUCTOR, "b": Cause.DEPENDENCY}


def test_a_run_whose_conductor_died() -> None:
    lost = why(state_of(STARTED), facts(owner_lives=False, owner_silent_s=11.0, conductors=1))
    assert code(lost) is Cause.CONDUCTOR_LOST and "11 s" in lost.causes[0].explanation
    assert code(why(state_of(STARTED), facts(owner_lives=False, conductors=0))) is Cause.NO_CONDUCTOR


def test_an_org_that_has_as_many_runs_as_it_may() -> None:
    found = why(state_of(), facts(owner=None, held=3, most_held=3, ahead=7))
    assert code(found) is Cause.ORG_CONCURRENCY and found.causes[0].count == 7
    assert "3 runs under way" in found.causes[0].explanation


def test_runs_that_come_first_and_places_that_are_taken() -> None:
    behind = why(state_of(), facts(owner=None, held=1, most_held=3, ahead=1))
    assert code(behind) is Cause.QUEUE and behind.causes[0].count == 1
    assert behind.causes[0].explanation.startswith("1 run comes")
    assert code(why(state_of(), facts(owner=None, conductors=2))) is Cause.CAPACITY


def test_a_run_that_is_paused_says_where_and_by_whom() -> None:
    paused = (STARTED, ev.RunPausing(), ev.RunPaused())
    by = why(state_of(*paused), facts(owner=None, asked_by="key_7"))
    assert code(by) is Cause.PAUSED and "by key_7" in by.causes[0].explanation
    hit = ev.BreakpointHit(path=("b",), breakpoint="b", hit=1)
    at = why(state_of(STARTED, hit, ev.RunPausing(), ev.RunPaused()), facts(owner=None))
    assert "breakpoint on b" in at.causes[0].explanation and at.causes[0].on == ("b",)
    failed = ev.BreakpointHit(path=("a",), breakpoint="all", reason="exception")
    after = why(state_of(STARTED, failed, ev.RunPausing(), ev.RunPaused()), facts(owner=None))
    assert "exception filter all" in after.causes[0].explanation
    assert view(state_of(*paused)).mode == "paused"  # the debugger says the same


def test_a_run_that_is_pausing_or_being_cancelled() -> None:
    assert code(why(state_of(STARTED, ev.RunPausing()), facts())) is Cause.PAUSING
    cancelling = why(state_of(STARTED, ev.RunCancelling(reason="no need")), facts())
    assert code(cancelling) is Cause.CANCELLING and "no need" in cancelling.causes[0].explanation


@pytest.mark.parametrize(
    ("failure_code", "cause"), [(Code.CONNECTIVITY, Cause.RETRY_DELAY), (Code.RATE_LIMITED, Cause.RATE_LIMIT)]
)
@pytest.mark.parametrize("owner", ["c1", None])
def test_an_attempt_that_is_put_off(failure_code: Code, cause: Cause, owner: str | None) -> None:
    failure = Failure(code=failure_code, message="not now")
    retried = ev.StageRetried(path=("a",), attempt=1, failure=failure, at=NOW + 5000)
    found = why(state_of(STARTED, retried), facts(owner=owner, wake_at=NOW + 5000))
    assert code(found) is cause and found.waiting
    assert found.causes[0].until == NOW + 5000 and "in 5.0 s" in found.causes[0].explanation
    assert stages(found) == {"a": cause, "b": Cause.DEPENDENCY}
    assert [stage.on for stage in found.stages] == [("a",), ("a",)]


def test_more_ready_stages_than_may_run_at_once() -> None:
    plan = plan_of(*(echo(f"s{number}") for number in range(4)))
    wide = why(state_of(STARTED, plan=plan, options={"max_concurrency": 2}), facts())
    assert set(stages(wide).values()) == {Cause.MAX_CONCURRENCY}
    assert "may have 2 stages" in wide.stages[0].explanation and not wide.waiting
    assert set(stages(why(state_of(STARTED, plan=plan), facts())).values()) == {Cause.READY}


def test_a_stage_whose_budget_is_reserved_by_others() -> None:
    document = {"stages": [{"id": name, "component_type": "generator", "config": {"prompt": "p"}} for name in "ab"]}
    plan = compile_pipeline(read({"name": "p", **document}), find_components(None))
    begun = ev.StageStarted(path=("a",), attempt=1, epoch=1, allowance=Limit(None, 990))
    found = why(state_of(STARTED, begun, plan=plan, options={"budget": {"max_tokens": 1000}}), facts())
    assert stages(found) == {"a": Cause.UNDER_WAY, "b": Cause.BUDGET}
    assert "The budget of the run is reserved" in found.stages[1].explanation


def test_a_stage_that_runs_and_one_that_waits_for_it() -> None:
    begun = ev.StageStarted(path=("a",), attempt=1, epoch=1)
    found = why(state_of(STARTED, begun), facts())
    assert code(found) is Cause.UNDER_WAY and not found.waiting
    assert stages(found) == {"a": Cause.UNDER_WAY, "b": Cause.DEPENDENCY}
    assert found.stages[1].on == ("a",)


def test_a_stage_that_no_worker_can_run() -> None:
    failure = Failure(code=Code.INFEASIBLE_RESOURCES, message="no node has 9 GPUs", stage="a")
    failed = ev.StageFailed(path=("a",), attempt=1, failure=failure)
    found = why(state_of(STARTED, failed, ev.RunFailed(failure=failure)), facts(owner=None))
    assert [cause.code for cause in found.causes] == [Cause.ENDED, Cause.RESOURCES] and not found.waiting
    assert stages(found) == {"a": Cause.RESOURCES}


def test_a_run_that_has_ended_waits_for_nothing() -> None:
    found = why(state_of(STARTED, ev.RunCancelled()), facts(owner=None))
    assert code(found) is Cause.ENDED and not found.waiting


def test_an_answer_is_bounded() -> None:
    plan = plan_of(*(echo(f"s{number}") for number in range(MOST_STAGES + 7)))
    found = why(state_of(STARTED, plan=plan), facts())
    assert (len(found.stages), found.more) == (MOST_STAGES, 7)


def test_an_attempt_that_waits_for_its_turn_at_a_provider() -> None:
    def line(n: int, message: str, attempt: int = 2) -> LogLine:
        return LogLine(("a",), attempt, n, NOW, "info", message, {"provider": "house"})

    started = ev.StageStarted(path=("a",), attempt=2, epoch=1)
    waits = lined_up([line(2, LINED_UP), line(1, "hello"), line(3, "more")])
    found = why(state_of(STARTED, started), facts(lined_up=waits))
    assert stages(found)["a"] is Cause.PROVIDER_LIMIT and found.waiting and found.causes[0].on == ("house",)
    assert "house" in found.causes[0].explanation
    goes_on = why(state_of(STARTED, started), facts(lined_up=lined_up([line(9, LET_IN), line(2, LINED_UP)])))
    assert stages(goes_on)["a"] is Cause.UNDER_WAY and not goes_on.waiting
    earlier = why(state_of(STARTED, started), facts(lined_up=lined_up([line(2, LINED_UP, attempt=1)])))
    assert stages(earlier)["a"] is Cause.UNDER_WAY
