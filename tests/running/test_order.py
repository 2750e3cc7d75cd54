"""Stages start when what they need has ended, and not later."""

from __future__ import annotations

from running.kit import Engine, pipe, say, stage, touch


async def test_a_chain_hands_its_values_on(engine: Engine) -> None:
    result = await engine.run(
        pipe(say("a", 1), say("b", ["{{upstream.a.value}}", 2]), say("c", "{{upstream.b.value}}"))
    )
    assert result.status == "completed"
    assert result.output == {"value": [1, 2]}
    assert result.ran() == ["a", "b", "c"]


async def test_depends_on_orders_stages_that_read_nothing_of_each_other(engine: Engine) -> None:
    result = await engine.run(pipe(say("late", 1, depends_on=["early"]), say("early", 2, seconds=0.05)))
    assert result.ran() == ["early", "late"]


async def test_a_long_stage_holds_no_short_one_up(engine: Engine) -> None:
    short = [say(f"s{n}", f"{{{{upstream.s{n - 1}.value}}}}" if n else 0) for n in range(8)]
    result = await engine.run(pipe(say("long", 1, seconds=0.3), *short))
    assert result.status == "completed"
    assert (result.note("s7").ended or 9e9) < (result.note("long").ended or 0)


async def test_a_long_stage_holds_no_chain_of_effects_up(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            touch("long", 1, seconds=0.3),
            say("a"),
            touch("b", "{{upstream.a.value}}"),
            say("c", "{{upstream.b.value}}"),
        )
    )
    assert result.ran(ended=True)[-1] == "long"
    assert result.statuses() == dict.fromkeys(("long", "a", "b", "c"), "completed")


async def test_independent_stages_overlap(engine: Engine) -> None:
    result = await engine.run(pipe(*(say(f"s{n}", seconds=0.1) for n in range(10))))
    assert result.at_once() == 10


async def test_a_diamond_joins_once(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            say("top", 1),
            say("left", "{{upstream.top.value}}", seconds=0.05),
            touch("right", "{{upstream.top.value}}"),
            say("end", ["{{upstream.left.value}}", "{{upstream.right.value}}"]),
        )
    )
    assert result.output == {"value": [1, 1]}
    assert result.ran().count("end") == 1


async def test_the_output_is_that_of_every_last_stage(engine: Engine) -> None:
    result = await engine.run(pipe(say("a", 1), say("b", 2)))
    assert result.output == {"a": {"value": 1}, "b": {"value": 2}}
    named = await engine.run(pipe(say("a", 1), say("b", 2), output_stage_id="a"))
    assert named.output == {"value": 1}


async def test_a_component_that_changes_its_input_changes_nobody_else_s(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            say("a", [1]),
            stage("bad", "spoil", items="{{upstream.a.value}}"),
            say("good", "{{upstream.a.value}}", depends_on=["bad"]),
        )
    )
    assert result.out("good") == [1]


async def test_max_concurrency_bounds_pure_stages(engine: Engine) -> None:
    result = await engine.run(pipe(*(say(f"s{n}", seconds=0.05) for n in range(7)), max_concurrency=3))
    assert result.status == "completed"
    assert result.at_once() == 3


async def test_max_concurrency_bounds_effects_and_pure_stages_together(engine: Engine) -> None:
    stages = [say(f"s{n}", seconds=0.05) for n in range(3)] + [touch(f"t{n}", seconds=0.05) for n in range(3)]
    result = await engine.run(pipe(*stages), options={"max_concurrency": 2})
    assert result.status == "completed"
    assert result.at_once() == 2


async def test_max_concurrency_bounds_the_items_of_a_loop(engine: Engine) -> None:
    loop = stage("each", "foreach", items=list(range(8)), loop_stages=["body"], parallel=True, max_parallel=8)
    result = await engine.run(pipe(loop, say("body", "{{item}}", seconds=0.05), max_concurrency=2))
    assert result.status == "completed"
    assert result.at_once() == 2


async def test_max_concurrency_bounds_the_effects_in_a_loop(engine: Engine) -> None:
    loop = stage("each", "foreach", items=list(range(6)), loop_stages=["body"], parallel=True, max_parallel=6)
    result = await engine.run(pipe(loop, touch("body", "{{item}}", seconds=0.05), max_concurrency=2))
    assert result.status == "completed"
    assert result.at_once() == 2


async def test_max_concurrency_of_one_still_ends(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            say("a", 1),
            touch("b", "{{upstream.a.value}}"),
            stage("each", "foreach", items=[1, 2, 3], loop_stages=["body"], parallel=True),
            say("body", "{{item}}", seconds=0.02),
            say("end", ["{{upstream.b.value}}", "{{upstream.body}}"]),
            max_concurrency=1,
        )
    )
    assert result.status == "completed"
    assert result.at_once() == 1
