"""A breakpoint is a cut: the run stops before it, whatever travels together elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from debug.kit import start
from flowmason.event import BreakpointHit, ItemsFinished, RunPaused, RunPausing
from flowmason.ids import format_path
from running.kit import Engine, pipe, post, say, stage, touch


def chain(make: Any = say) -> dict[str, Any]:
    return pipe(make("a", 1), make("b", "{{upstream.a.value}}"), make("c", "{{upstream.b.value}}"))


@pytest.mark.parametrize("make", [say, touch, post], ids=["pure", "idempotent", "unsafe"])
async def test_a_run_stops_before_a_stage_and_goes_on(engine: Engine, make: Any) -> None:
    run = await start(engine, chain(make), "b")
    at = await run.stands()
    assert (at.mode, at.status, at.reason, at.path, at.breakpoint, at.hit) == (
        "paused",
        "paused",
        "breakpoint",
        "b",
        "b",
        1,
    )
    assert at.inputs["value"] == 1
    assert at.next == ("b",)
    assert (await run.result()).ran() == ["a"]
    at = await run.go_on()
    assert (at.mode, at.status) == ("stopped", "completed")
    result = await run.result()
    assert result.ran() == ["a", "b", "c"]
    assert result.out("c") == 1


async def test_pausing_precedes_paused_and_a_paused_run_belongs_to_nobody(engine: Engine) -> None:
    run = await start(engine, chain(), "b")
    await run.stands()
    kinds = [type(each.event) for each in (await run.result()).events]
    assert kinds.index(BreakpointHit) < kinds.index(RunPausing) < kinds.index(RunPaused)
    row = await run.running.host.stores.journal.row(run.running.run_id)
    assert row is not None and row.owner is None and row.wake_at is None


async def test_every_item_of_a_loop_stops(engine: Engine) -> None:
    """The flat body of a pure loop would run through on a worker otherwise."""
    run = await start(engine, loop(items=[10, 20, 30]), "double")
    seen = []
    at = await run.stands()
    while at.mode == "paused":
        seen.append((at.path, at.locals, at.hit))
        at = await run.go_on()
    assert seen == [(f"each[{n}].double", {"item": (n + 1) * 10, "index": n, "loop_total": 3}, n + 1) for n in range(3)]
    result = await run.result()
    assert result.out("end") == [{"value": 10}, {"value": 20}, {"value": 30}]
    assert not result.of(ItemsFinished)


def loop(items: list[Any], **options: Any) -> dict[str, Any]:
    return pipe(
        stage("each", "foreach", items=items, loop_stages=["double", "after"], **options),
        say("double", "{{item}}"),
        say("after", "{{upstream.double.value}}"),
        say("end", "{{upstream.after}}"),
    )


async def test_a_condition_is_asked_for_every_item(engine: Engine) -> None:
    run = await start(
        engine, loop(list(range(50)), parallel=True, max_parallel=7), "double: item > 40 and index % 3 == 0"
    )
    seen = []
    at = await run.stands()
    while at.mode == "paused":
        seen.append(str(at.path))
        at = await run.go_on()
    assert sorted(seen) == ["each[42].double", "each[45].double", "each[48].double"]
    assert (await run.result()).out("end") == [{"value": n} for n in range(50)]


async def test_a_condition_sees_what_the_stage_sees(engine: Engine) -> None:
    document = pipe(
        say("a", {"n": [1, 2, 3]}),
        say("b", "{{upstream.a.value}}"),
        say("c", "{{input.text}}", depends_on=["b"]),
        input_schema={"type": "object", "properties": {"text": {"type": "string"}}},
    )
    condition = "len(upstream.a.value.n) == 3 and starts_with(input.text, 'h') and context.pipeline_id == 'main'"
    run = await start(engine, document, {"stage": "c", "condition": condition}, given={"text": "hello"})
    at = await run.stands()
    assert at.path == "c"
    assert at.inputs["value"] == "hello"


async def test_a_false_condition_lets_everything_through(engine: Engine) -> None:
    run = await start(engine, chain(), "b: upstream.a.value == 2")
    at = await run.stands()
    assert at.status == "completed"
    assert at.breakpoints[0].hits == 0


async def test_a_condition_that_cannot_be_told_stops_and_says_why(engine: Engine) -> None:
    run = await start(engine, chain(), "b: upstream.a.nothing > 1")
    at = await run.stands()
    assert at.path == "b"
    assert "nothing" in at.note


@pytest.mark.parametrize(
    ("hit_condition", "stops"),
    [("3", [2]), ("hits >= 4", [3, 4]), ("hits % 2 == 0", [1, 3])],
)
async def test_a_hit_count_counts_the_times_that_the_condition_held(
    engine: Engine, hit_condition: str, stops: list[int]
) -> None:
    run = await start(engine, loop(list(range(5))), {"stage": "double", "hit_condition": hit_condition})
    seen = []
    at = await run.stands()
    while at.mode == "paused":
        seen.append(str(at.path))
        at = await run.go_on()
    assert seen == [f"each[{n}].double" for n in stops]
    assert at.breakpoints[0].hits == 5
    hits = (await run.result()).of(BreakpointHit)
    assert [hit.hit for hit in hits] == [1, 2, 3, 4, 5]


async def test_a_breakpoint_names_a_stage_by_id_by_the_ids_down_to_it_or_by_its_very_place(engine: Engine) -> None:
    for name, stops in (("double", 3), ("each.double", 3), ("each[1].double", 1)):
        run = await start(engine, loop([1, 2, 3]), name)
        at, count = await run.stands(), 0
        while at.mode == "paused":
            count += 1
            at = await run.go_on()
        assert count == stops, name


async def test_what_is_ready_beside_a_breakpoint_starts_all_the_same(engine: Engine) -> None:
    document = pipe(touch("a"), touch("b"), touch("c", depends_on=["a"]))
    run = await start(engine, document, "b")
    at = await run.stands()
    assert at.path == "b"
    assert set((await run.result()).ran()) == {"a"}  # c was not ready when the run stopped
    assert set(at.next) == {"b", "c"}
    assert (await run.go_on()).status == "completed"


async def test_a_breakpoint_added_while_the_run_goes_binds_at_the_next_dispatch(engine: Engine) -> None:
    document = pipe(touch("a", seconds=0.2), say("b", "{{upstream.a.value}}"), say("c", "{{upstream.b.value}}"))
    run = await start(engine, document)
    await run.running.began("a")
    await run.running.command("breakpoints", breakpoints=["c"])
    at = await run.stands()
    assert at.path == "c"
    assert (await run.go_on()).status == "completed"


async def test_breakpoints_of_a_paused_run_can_be_changed_and_it_stays_paused(engine: Engine) -> None:
    run = await start(engine, chain(), "b")
    await run.stands()
    at = await run.do("breakpoints", breakpoints=["c", "b"])
    assert (at.status, at.path, [point.stage for point in at.breakpoints]) == ("paused", "b", ["c", "b"])
    assert len((await run.result()).of(RunPaused)) == 1
    at = await run.go_on()
    assert at.path == "c"
    at = await run.do("breakpoints", breakpoints=[])
    assert at.breakpoints == ()
    assert (await run.go_on()).status == "completed"


async def test_a_loop_whose_breakpoint_was_removed_goes_on_as_a_whole(engine: Engine) -> None:
    run = await start(engine, loop(list(range(200))), "each[3].double")
    assert (await run.stands()).path == "each[3].double"
    await run.do("breakpoints", breakpoints=[])
    at = await run.go_on()
    assert at.status == "completed"
    result = await run.result()
    assert result.out("end") == [{"value": n} for n in range(200)]
    assert result.of(ItemsFinished)


async def test_a_breakpoint_in_a_trycatch_of_pure_stages(engine: Engine) -> None:
    document = pipe(
        stage("guard", "trycatch", try_stages=["a", "b"], catch_stages=["c"], finally_stages=["d"]),
        say("a", 1),
        say("b", "{{upstream.a.value}}", error="ValueError"),
        say("c", "{{error.message}}"),
        say("d", 4),
    )
    run = await start(engine, document, "b", "c", "d")
    at = await run.stands()
    assert (at.path, [frame.part for frame in at.stack]) == ("b", [None, "attempt"])
    at = await run.go_on()
    assert (at.path, at.inputs["value"], at.stack[1].part) == ("c", "as told", "rescue")
    at = await run.go_on()
    assert (at.path, at.stack[1].part) == ("d", "cleanup")
    assert (await run.go_on()).status == "completed"


async def test_a_skipped_stage_stops_nothing(engine: Engine) -> None:
    document = pipe(
        stage("if", "conditional", condition=False, true_branch_stages=["yes"], false_branch_stages=["no"]),
        say("yes", 1),
        say("no", 2),
    )
    run = await start(engine, document, "yes")
    assert (await run.stands()).status == "completed"


async def test_a_retried_stage_stops_once(engine: Engine) -> None:
    retry = {"max_retries": 2, "initial_delay_ms": 100, "max_delay_ms": 1000}
    run = await start(engine, pipe(touch("a", error="RetryableError", times=2, retry_config=retry)), "a")
    assert (await run.stands()).path == "a"
    at = await run.go_on()
    assert at.status == "completed"
    assert len((await run.result()).of(BreakpointHit)) == 1


async def test_a_cancelled_run_cleans_up_without_a_stop(engine: Engine) -> None:
    document = pipe(
        stage("guard", "trycatch", try_stages=["a", "b"], finally_stages=["close"]),
        touch("a"),
        touch("b", "{{upstream.a.value}}"),
        touch("close"),
    )
    run = await start(engine, document, "b", "close")
    assert (await run.stands()).path == "b"
    at = await run.do("cancel")
    assert (at.mode, at.status) == ("stopped", "cancelled")
    assert (await run.result()).ran() == ["a", "close"]


async def test_a_large_loop_without_a_breakpoint_inside_stays_whole(engine: Engine) -> None:
    run = await start(engine, loop(list(range(300))), "end")
    at = await run.stands()
    assert at.path == "end"
    result = await run.result()
    assert result.of(ItemsFinished) and not [
        e for e in result.events if format_path(getattr(e.event, "path", ())).startswith("each[")
    ]
