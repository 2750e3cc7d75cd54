"""Exception filters: the run stops after a failure, before anything follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from debug.kit import start
from running.kit import Engine, pipe, say, stage, touch

RETRY = {"max_retries": 1, "initial_delay_ms": 100, "max_delay_ms": 1000}


@pytest.mark.parametrize("make", [say, touch])
@pytest.mark.parametrize("name", ["all", "uncaught", "error"])
async def test_an_uncaught_failure_stops_the_run_before_it_fails(engine: Engine, make: Any, name: str) -> None:
    run = await start(engine, pipe(make("a", error="ValueError"), say("b", "{{upstream.a.value}}")), exceptions=[name])
    at = await run.stands()
    assert (at.mode, at.status, at.reason, at.path, at.breakpoint) == ("paused", "paused", "exception", "a", name)
    assert at.failure is not None and at.failure.message == "as told"
    at = await run.go_on()
    assert (at.mode, at.status) == ("stopped", "failed")


def guarded(make: Any = say, **options: Any) -> dict[str, Any]:
    return pipe(
        stage("guard", "trycatch", try_stages=["a"], catch_stages=["c"], finally_stages=["d"], **options),
        make("a", error="ValueError"),
        make("c", "{{error.message}}"),
        make("d", 1),
    )


async def test_a_caught_failure_is_not_uncaught(engine: Engine) -> None:
    run = await start(engine, guarded(), exceptions=["uncaught"])
    assert (await run.stands()).status == "completed"


@pytest.mark.parametrize("make", [say, touch])
async def test_all_stops_before_the_rescue_begins(engine: Engine, make: Any) -> None:
    run = await start(engine, guarded(make), exceptions=["all"])
    at = await run.stands()
    assert (at.path, at.reason, at.next) == ("a", "exception", ("c",))
    assert (await run.result()).ran() == ["a"]
    at = await run.step()
    assert at.path == "c"
    assert (await run.go_on()).status == "completed"


async def test_what_a_propagating_catch_takes_is_uncaught(engine: Engine) -> None:
    run = await start(engine, guarded(error_scope="propagate"), exceptions=["uncaught"])
    at = await run.stands()
    assert at.path == "a"
    at = await run.go_on()
    assert at.status == "failed"
    assert (await run.result()).ran() == ["a", "c", "d"]


async def test_warning_stops_at_an_attempt_that_is_retried(engine: Engine) -> None:
    document = pipe(touch("a", error="RetryableError", times=1, retry_config=RETRY), say("b", "{{upstream.a.value}}"))
    run = await start(engine, document, exceptions=["warning"])
    at = await run.stands()
    assert (at.path, at.breakpoint, at.next) == ("a", "warning", ("a",))
    assert (await run.go_on()).status == "completed"


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("timeout", touch("a", seconds=30, timeout_ms=100, retry_config={"max_retries": 0})),
        ("validation", say("a", "{{input.nothing}}")),
        ("connectivity", touch("a", error="RetryableError", retry_config={"max_retries": 0})),
    ],
)
async def test_failures_by_their_kind(engine: Engine, name: str, failing: Any) -> None:
    document = pipe(failing, input_schema={"type": "object"})
    run = await start(engine, document, exceptions=[name])
    at = await run.stands()
    assert (at.path, at.breakpoint) == ("a", name)
    others = [other for other in ("timeout", "validation", "connectivity") if other != name]
    run = await start(engine, document, exceptions=others)
    assert (await run.stands()).status == "failed"


@pytest.mark.parametrize("make", [say, touch])
async def test_a_failed_item_stops_where_the_loop_would_go_on(engine: Engine, make: Any) -> None:
    document = pipe(
        stage("each", "foreach", items=[1, 2, 3], loop_stages=["x"], break_on_error=False),
        make("x", "{{item}}", error="{{'ValueError' if item == 2 else ''}}"),
    )
    run = await start(engine, document, exceptions=["error"])
    at = await run.stands()
    assert at.path == "each[1].x"
    assert "each[2].x" not in (await run.result()).ran()
    assert (await run.go_on()).status == "completed"


async def test_the_body_that_runs_out_of_time(engine: Engine) -> None:
    document = pipe(stage("guard", "trycatch", try_stages=["a"], timeout_ms=200), touch("a", seconds=30))
    run = await start(engine, document, exceptions=["timeout"])
    at = await run.stands()
    assert (at.path, at.breakpoint) == ("guard", "timeout")
    assert (await run.go_on()).status == "failed"
