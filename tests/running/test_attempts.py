"""Timeouts and retries: how often, how long, and for which failures."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason.event import StageFailed, StageRetried, StageStarted
from running.kit import Engine, pipe, post, say, stage, touch

QUICK = {"max_retries": 3, "initial_delay_ms": 100, "max_delay_ms": 1000}


def retry(most: int, **more: Any) -> dict[str, Any]:
    return {**QUICK, "max_retries": most, **more}


@pytest.mark.parametrize("make", [say, touch, post], ids=["pure", "idempotent", "unsafe"])
async def test_max_retries_of_two_are_three_attempts(engine: Engine, make: Any) -> None:
    result = await engine.run(pipe(make("a", error="ConnectionError", retry_config=retry(2))))
    assert result.status == "failed"
    assert [note.attempt for note in result.notes] == [1, 2, 3]
    assert result.stages["a"].attempts == 3
    assert len(result.of(StageRetried, "a")) == 2
    assert len(result.of(StageFailed, "a")) == 1


@pytest.mark.parametrize("make", [say, touch])
async def test_the_attempt_that_succeeds_is_the_result(engine: Engine, make: Any) -> None:
    result = await engine.run(pipe(make("a", 7, error="TimeoutError", times=1, retry_config=retry(3))))
    assert (result.status, result.out("a")) == ("completed", 7)
    assert [note.attempt for note in result.notes] == [1, 2]


async def test_the_key_of_an_effect_is_the_same_for_every_attempt(engine: Engine) -> None:
    result = await engine.run(pipe(touch("a", error="ConnectionError", times=2, retry_config=retry(2))))
    assert result.status == "completed"
    assert len(result.notes) == 3
    assert len({note.key for note in result.notes}) == 1
    assert [event.attempt for event in result.of(StageStarted, "a")] == [1, 2, 3]


@pytest.mark.parametrize("error", ["ValueError", "KeyError", "RuntimeError"])
async def test_only_what_may_pass_is_tried_again(engine: Engine, error: str) -> None:
    config = retry(3)
    result = await engine.run(pipe(touch("a", error=error, message="try again, temporary", retry_config=config)))
    assert result.status == "failed"
    assert len(result.notes) == 1


async def test_an_error_that_says_so_is_tried_again(engine: Engine) -> None:
    result = await engine.run(pipe(say("a", 1, error="RetryableError", times=1, retry_config=retry(1))))
    assert result.status == "completed"


async def test_operators_are_not_retried_unless_told(engine: Engine) -> None:
    result = await engine.run(pipe(touch("a", error="ConnectionError")))
    assert (result.status, len(result.notes)) == ("failed", 1)


async def test_the_other_side_s_wish_to_wait_is_kept(engine: Engine) -> None:
    result = await engine.run(pipe(touch("a", 1, error="RetryableError", wait_ms=400, times=1, retry_config=retry(1))))
    assert result.status == "completed"
    first, second = result.notes
    assert second.begun - (first.ended or 0) >= 0.39


async def test_attempts_wait_longer_each_time(engine: Engine) -> None:
    result = await engine.run(
        pipe(say("a", 1, error="ConnectionError", times=3, retry_config=retry(3, backoff_multiplier=2)))
    )
    assert result.status == "completed"
    gaps = [b.begun - (a.ended or 0) for a, b in zip(result.notes, result.notes[1:], strict=False)]
    for gap, wanted in zip(gaps, (0.1, 0.2, 0.4), strict=True):
        assert wanted * 0.74 <= gap <= wanted * 1.26 + 0.15


async def test_what_waits_for_its_next_attempt_holds_nobody_up(engine: Engine) -> None:
    config = {"max_retries": 1, "initial_delay_ms": 400}
    result = await engine.run(
        pipe(say("a", error="ConnectionError", times=1, retry_config=config), say("b"), touch("c", depends_on=["b"]))
    )
    assert result.status == "completed"
    assert result.ran() == ["a", "b", "c", "a"]


@pytest.mark.parametrize("make", [say, touch, post], ids=["pure", "idempotent", "unsafe"])
async def test_a_stage_that_takes_too_long_is_cancelled_and_fails(engine: Engine, make: Any) -> None:
    result = await engine.run(pipe(make("slow", seconds=10, timeout_ms=120)))
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.stage) == ("TIMEOUT", "slow")
    assert "0.12 s" in result.error.message
    assert result.note("slow").cancelled


async def test_a_timeout_is_of_one_attempt_and_may_be_retried(engine: Engine) -> None:
    config = {"seconds": 10, "timeout_ms": 100, "retry_config": retry(1)}
    result = await engine.run(pipe(touch("slow", **config)))
    assert (result.status, len(result.notes)) == ("failed", 2)


def test_without_a_timeout_of_its_own_a_stage_has_that_of_its_kind(engine: Engine) -> None:
    plan = engine.plan(pipe(say("operator"), stage("node", "ask", prompt="x"), say("own", timeout_ms=150)))
    stages: dict[str, Any] = {str(name): found.timeout_ms for name, found in plan.stages.items()}
    assert stages == {"operator": 30_000, "node": 60_000, "own": 150}


def test_no_retries_when_written_out_mean_that_no_loss_is_repeated_either(engine: Engine) -> None:
    plan = engine.plan(pipe(touch("none", retry_config=retry(0)), touch("usual"), touch("some", retry_config=retry(2))))
    budgets: dict[str, Any] = {str(name): found.lost_budget for name, found in plan.stages.items()}
    assert budgets == {"none": 0, "usual": 3, "some": 3}


async def test_a_timeout_on_a_loop_bounds_its_whole_body(engine: Engine) -> None:
    for make in (say, touch):
        result = await engine.run(
            pipe(
                stage("each", "foreach", items=list(range(50)), loop_stages=["body"], timeout_ms=200),
                make("body", "{{item}}", seconds=0.05),
            )
        )
        assert result.status == "failed"
        assert result.error is not None
        assert (result.error.code, result.error.stage) == ("TIMEOUT", "each")
        assert 1 <= len(result.notes) <= 6


async def test_a_body_that_keeps_its_time_is_left_alone(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("each", "foreach", items=[1, 2], loop_stages=["body"], timeout_ms=5000),
            say("body", "{{item}}", seconds=0.05),
        )
    )
    assert result.status == "completed"


async def test_a_failure_lets_effects_end_and_drops_pure_work(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            post("effect", 1, seconds=0.25),
            say("pure", 1, seconds=10),
            touch("bad", error="ValueError", seconds=0.05),
            say("after_effect", "{{upstream.effect.value}}"),
            say("never", depends_on=["bad"]),
        )
    )
    assert result.status == "failed"
    assert result.statuses("effect", "pure", "bad", "after_effect", "never") == {
        "effect": "completed",
        "pure": "pending",
        "bad": "failed",
        "after_effect": "pending",
        "never": "pending",
    }
    assert result.out("effect") == 1
    assert result.error is not None and result.error.stage == "bad"


async def test_an_output_that_is_not_allowed_is_a_failure_of_the_stage(engine: Engine) -> None:
    result = await engine.run(pipe(stage("a", "wrong", value="many")))
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.stage) == ("INVALID_OUTPUT", "a")


async def test_an_input_that_is_not_allowed_names_its_field(engine: Engine) -> None:
    result = await engine.run(pipe(say("a", seconds="{{input.x}}")), {"x": "soon"})
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "INVALID_INPUT"
    assert "seconds" in result.error.message
    assert result.ran() == []


async def test_a_component_that_leaves_the_process_fails_its_stage(engine: Engine) -> None:
    result = await engine.run(pipe(say("a", error="SystemExit"), say("b")))
    assert result.status == "failed"
    assert result.error is not None
    assert "SystemExit" in result.error.message
    loop = stage("each", "foreach", items=[1, 2], loop_stages=["body"], break_on_error=False)
    result = await engine.run(pipe(loop, say("body", error="{{'SystemExit' if item == 1 else ''}}")))
    assert result.output["failed_items"] == 1
    assert (await engine.run(pipe(say("a", 1)))).status == "completed"
