"""One stage at a time: over, into, out, from the entry on."""

from __future__ import annotations

from typing import Any

import pytest

from debug.kit import Debugged, start
from flowmason import debug
from flowmason.errors import UsageError
from flowmason.event import ItemsFinished
from running.kit import Engine, pipe, say, stage, touch


async def walk(run: Debugged, kind: str = "over", limit: int = 40) -> list[str]:
    """Step until the run ends: every place it stood."""
    places: list[str] = []
    at = await run.stands()
    while at.mode == "paused" and len(places) < limit:
        assert at.path is not None
        places.append(at.path)
        at = await run.step(kind)
    assert at.status == "completed", at
    return places


def branches(make: Any = say) -> dict[str, Any]:
    return pipe(
        make("a", 1),
        make("b", 2),
        make("c", ["{{upstream.a.value}}", "{{upstream.b.value}}"]),
    )


@pytest.mark.parametrize("make", [say, touch])
async def test_stop_on_entry_and_step_over_take_one_stage_at_a_time(engine: Engine, make: Any) -> None:
    run = await start(engine, branches(make), stop_on_entry=True)
    at = await run.stands()
    assert (at.reason, at.path, at.next) == ("entry", "a", ("a", "b"))
    assert (await run.result()).ran() == []
    at = await run.step()
    assert (at.reason, at.path) == ("step", "b")
    assert (await run.result()).ran() == ["a"]


async def test_a_whole_run_step_by_step(engine: Engine) -> None:
    run = await start(engine, branches(), stop_on_entry=True)
    assert await walk(run) == ["a", "b", "c"]
    assert (await run.result()).ran() == ["a", "b", "c"]


def loop() -> dict[str, Any]:
    return pipe(
        say("first", [1, 2]),
        stage("each", "foreach", items="{{upstream.first.value}}", loop_stages=["x", "y"]),
        say("x", "{{item}}"),
        say("y", "{{upstream.x.value}}"),
        say("end", "{{upstream.y}}"),
    )


async def test_step_over_takes_a_loop_as_one_and_runs_it_whole(engine: Engine) -> None:
    run = await start(engine, loop(), stop_on_entry=True)
    assert await walk(run) == ["first", "each", "end"]
    assert (await run.result()).of(ItemsFinished)


async def test_step_into_goes_through_every_item(engine: Engine) -> None:
    run = await start(engine, loop(), stop_on_entry=True)
    assert await walk(run, "into") == [
        "first", "each", "each[0].x", "each[0].y", "each[1].x", "each[1].y", "end",
    ]  # fmt: skip


async def test_step_out_of_a_loop_runs_the_rest_of_it(engine: Engine) -> None:
    run = await start(engine, loop(), "x")
    at = await run.stands()
    assert at.path == "each[0].x"
    await run.do("breakpoints", breakpoints=[])
    at = await run.step("out")
    assert (at.reason, at.path) == ("step", "end")
    assert (await run.go_on()).status == "completed"


async def test_a_breakpoint_inside_stops_a_step_over(engine: Engine) -> None:
    run = await start(engine, loop(), "each[1].y", stop_on_entry=True)
    await run.stands()
    await run.step()
    at = await run.step()
    assert (at.reason, at.path, at.hit) == ("breakpoint", "each[1].y", 1)
    assert (await run.go_on()).status == "completed"


CHILD = pipe(say("one", "{{input.n}}"), say("two", "{{upstream.one.value}}"), name="child", output_stage_id="two")


def parent() -> dict[str, Any]:
    return pipe(
        say("before", 7),
        stage("call", "subpipeline", pipeline_id="child", input_data={"n": "{{upstream.before.value}}"}),
        say("after", "{{upstream.call.result.value}}"),
    )


async def test_into_and_out_of_a_sub_pipeline(engine: Engine) -> None:
    run = await start(engine, parent(), "call", others=[CHILD])
    at = await run.stands()
    assert at.path == "call"
    at = await run.step("into")
    assert (at.path, at.inputs["value"]) == ("call.one", 7)
    assert [(frame.path, frame.pipeline, frame.kind) for frame in at.stack] == [
        ("call.one", "child@1.0.0", "operator"),
        ("call", "main@1.0.0", "subpipeline"),
    ]
    at = await run.step("out")
    assert at.path == "after"
    at = await run.go_on()
    assert at.status == "completed"
    assert (await run.result()).out("after") == 7


async def test_a_breakpoint_in_a_sub_pipeline(engine: Engine) -> None:
    for name in ("two", "call.two"):
        run = await start(engine, parent(), name, others=[CHILD])
        assert (await run.stands()).path == "call.two"
        assert (await run.go_on()).status == "completed"


async def test_step_over_a_sub_pipeline(engine: Engine) -> None:
    run = await start(engine, parent(), stop_on_entry=True, others=[CHILD])
    assert await walk(run) == ["before", "call", "after"]


async def test_a_step_of_a_run_under_way_stops_it_before_its_next_stage(engine: Engine) -> None:
    run = await start(engine, pipe(touch("a", seconds=0.2), say("b", "{{upstream.a.value}}")))
    await run.running.began("a")
    await run.running.command("step")
    at = await run.stands()
    assert (at.reason, at.path) == ("step", "b")
    assert (await run.go_on()).status == "completed"


async def test_a_step_after_a_pause_takes_the_first_stage_that_waits(engine: Engine) -> None:
    run = await start(
        engine, pipe(touch("a", seconds=0.1), say("b", "{{upstream.a.value}}"), say("c", "{{upstream.b}}"))
    )
    await run.running.began("a")
    await run.running.command("pause")
    at = await run.stands()
    assert (at.reason, at.path) == ("pause", "b")
    at = await run.step()
    assert (at.reason, at.path) == ("step", "c")
    assert (await run.result()).ran() == ["a", "b"]


async def test_continue_after_a_step_lets_go(engine: Engine) -> None:
    run = await start(engine, branches(), stop_on_entry=True)
    await run.stands()
    await run.step()
    at = await run.go_on()
    assert (at.mode, at.status) == ("stopped", "completed")


async def test_a_retried_stage_is_one_step(engine: Engine) -> None:
    retry = {"max_retries": 2, "initial_delay_ms": 100, "max_delay_ms": 1000}
    flaky = touch("a", error="RetryableError", times=2, retry_config=retry)
    run = await start(engine, pipe(flaky, say("b", "{{upstream.a.value}}")), stop_on_entry=True)
    assert await walk(run) == ["a", "b"]


async def test_steps_that_make_no_sense_are_refused(engine: Engine) -> None:
    run = await start(engine, branches(), "b")
    await run.stands()
    state = await run.state()
    with pytest.raises(UsageError, match="no step"):
        debug.step(state, {"kind": "ovr"})
    await run.do("step", kind="ovr")
    assert (await run.look()).path == "b"
    at = await run.go_on()
    with pytest.raises(UsageError, match="completed"):
        debug.step(await run.state(), {})
    assert at.mode == "stopped"


async def test_a_step_from_before_what_a_failure_has_ended_goes_to_what_comes_next(engine: Engine) -> None:
    document = pipe(
        stage("guard", "trycatch", try_stages=["fails", "b"], catch_stages=["rescue"]),
        touch("fails", 1, error="ValueError", seconds=0.2),
        touch("b", 1),
        say("rescue", 2),
        say("end", "{{upstream.rescue.value}}", depends_on=["guard"]),
    )
    run = await start(engine, document, "b")
    at = await run.stands()
    assert (at.path, at.next) == ("b", ("rescue",))
    await run.do("step", kind="into")
    assert (await run.stands()).path == "end"
    assert (await run.go_on()).status == "completed"
