"""foreach: positions, order, errors, what is seen from inside and from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowmason.event import ItemsFinished
from running.kit import Engine, expanded, pipe, post, say, stage, touch


def each(items: Any, *body: str, id: str = "each", **config: Any) -> dict[str, Any]:
    return stage(id, "foreach", items=items, loop_stages=list(body), **config)


PURE_AND_EFFECT = pytest.mark.parametrize("make", [say, touch], ids=["pure", "effect"])
SIDE_BY_SIDE = pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])


@PURE_AND_EFFECT
@SIDE_BY_SIDE
async def test_results_stand_in_the_order_of_the_items(engine: Engine, make: Any, parallel: bool) -> None:
    result = await engine.run(
        pipe(
            each("{{input.items}}", "double", "last", parallel=parallel),
            make("double", "{{item * 2}}"),
            make("last", ["{{index}}", "{{upstream.double.value}}"]),
            say("end", {"results": "{{upstream.each.results}}", "doubles": "{{upstream.double}}"}),
        ),
        {"items": [5, 6, 7, 8]},
    )
    assert result.status == "completed"
    assert result.out("end") == {
        "results": [{"value": [n, item * 2]} for n, item in enumerate([5, 6, 7, 8])],
        "doubles": [{"value": item * 2} for item in [5, 6, 7, 8]],
    }
    assert result.stages["each"].output["processed_items"] == 4
    assert result.stages["each"].output["is_complete"] is True


@PURE_AND_EFFECT
async def test_a_sequential_loop_runs_one_item_after_the_other(engine: Engine, make: Any) -> None:
    result = await engine.run(pipe(each([1, 2, 3, 4], "body"), make("body", "{{item}}", seconds=0.04)))
    assert result.status == "completed"
    assert result.at_once() == 1
    assert [note.value for note in result.notes] == [1, 2, 3, 4]


async def test_a_sequential_loop_of_guarded_stages_runs_one_item_after_the_other(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each([1, 2, 3, 4], "pick", "odd", "even", "end"),
            stage(
                "pick",
                "conditional",
                condition="{{item % 2 == 1}}",
                true_branch_stages=["odd"],
                false_branch_stages=["even"],
            ),
            say("odd", "{{item}}", seconds=0.04),
            say("even", "{{item}}", seconds=0.04),
            say("end", ["{{upstream.odd.value}}", "{{upstream.even.value}}"], seconds=0.03),
        )
    )
    assert result.status == "completed"
    assert result.at_once() == 1
    assert [row["value"] for row in result.output["results"]] == [[1, None], [None, 2], [3, None], [None, 4]]
    order = [note.path for note in result.notes]
    assert order == sorted(order, key=lambda path: int(path[5]))


@pytest.mark.parametrize("width", [1, 3])
async def test_max_parallel_bounds_the_items_under_way(engine: Engine, width: int) -> None:
    result = await engine.run(
        pipe(each(list(range(9)), "body", parallel=True, max_parallel=width), say("body", "{{item}}", seconds=0.04))
    )
    assert result.status == "completed"
    assert result.at_once() == width


async def test_max_parallel_bounds_effects(engine: Engine) -> None:
    result = await engine.run(
        pipe(each(list(range(7)), "body", parallel=True, max_parallel=3), touch("body", "{{item}}", seconds=0.04))
    )
    assert result.at_once() == 3


async def test_max_parallel_counts_items_and_not_stages(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each(list(range(8)), "first", "second", parallel=True, max_parallel=2),
            say("first", "{{item}}", seconds=0.03),
            touch("second", "{{upstream.first.value}}", seconds=0.03),
        )
    )
    assert result.status == "completed"
    spans: dict[str, tuple[float, float]] = {}
    for note in result.notes:
        begun, ended = spans.get(note.path[:7], (note.begun, 0.0))
        spans[note.path[:7]] = (min(begun, note.begun), max(ended, note.ended or 0.0))
    for begun, _ in spans.values():
        assert sum(start <= begun < stop for start, stop in spans.values()) <= 2


async def test_a_slow_item_holds_no_other_up(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each(list(range(20)), "body", parallel=True, max_parallel=4),
            say("body", "{{item}}", others="{{19 if item == 0 else 0}}"),
        )
    )
    assert result.status == "completed"
    assert result.ran(ended=True)[-1] == "each[0].body"
    assert [row["value"] for row in result.output["results"]] == list(range(20))


@PURE_AND_EFFECT
@SIDE_BY_SIDE
async def test_a_failed_item_ends_the_loop_and_the_run(engine: Engine, make: Any, parallel: bool) -> None:
    result = await engine.run(
        pipe(
            each([1, 2, 3], "body", parallel=parallel),
            make("body", "{{item}}", error="{{'ValueError' if item == 2 else ''}}"),
        )
    )
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.type, result.error.stage) == ("ValueError", "each[1].body")
    assert result.stages["each"].status == "failed"
    if not parallel:
        assert [note.value for note in result.notes] == [1, 2]


@PURE_AND_EFFECT
@SIDE_BY_SIDE
async def test_without_break_on_error_a_failed_item_stands_in_its_place(
    engine: Engine, make: Any, parallel: bool
) -> None:
    result = await engine.run(
        pipe(
            each([1, 2, 3], "first", "body", "last", parallel=parallel, break_on_error=False),
            make("first", "{{item}}"),
            make("body", "{{upstream.first.value}}", error="{{'ValueError' if item == 2 else ''}}"),
            make("last", "{{upstream.body.value}}"),
            say("end", {name: f"{{{{upstream.{name}}}}}" for name in ("first", "body", "last")}),
        )
    )
    assert result.status == "completed"
    loop = result.stages["each"].output
    assert (loop["processed_items"], loop["failed_items"]) == (3, 1)
    assert [row.get("value") for row in loop["results"]] == [1, None, 3]
    error = loop["results"][1]["$error"]
    assert (error["type"], error["message"], error["stage"]) == ("ValueError", "as told", "each[1].body")
    seen = result.out("end")
    assert seen["first"] == [{"value": 1}, {"value": 2}, {"value": 3}]
    assert seen["body"] == [{"value": 1}, {"$error": error}, {"value": 3}]
    assert seen["last"] == [{"value": 1}, {"$error": error}, {"value": 3}]


async def test_the_filter_drops_items_before_positions_are_counted(engine: Engine) -> None:
    result = await engine.run(
        pipe(each([3, 0, 5, 0, 7], "body", filter_expression="item > 0"), say("body", ["{{index}}", "{{item}}"]))
    )
    assert [row["value"] for row in result.output["results"]] == [[0, 3], [1, 5], [2, 7]]
    assert (result.output["total_items"], result.output["skipped_items"]) == (5, 2)


async def test_a_filter_that_fails_fails_the_loop(engine: Engine) -> None:
    result = await engine.run(pipe(each([1, "x"], "body", filter_expression="item > 0"), say("body")))
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "EXPRESSION"
    assert result.notes == []


@PURE_AND_EFFECT
async def test_no_items_run_nothing(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            each("{{input.items}}", "body"),
            make("body"),
            say("end", [["{{upstream.each.results}}", "{{upstream.body}}"], "{{upstream.each.is_complete}}"]),
        ),
        {"items": []},
    )
    assert result.status == "completed"
    assert result.out("end") == [[[], []], True]
    assert [note.path for note in result.notes] == ["end"]


async def test_an_object_is_run_over_as_pairs(engine: Engine) -> None:
    result = await engine.run(pipe(each({"a": 1, "b": 2}, "body"), say("body", "{{item.key + '=' + str(item.value)}}")))
    assert [row["value"] for row in result.output["results"]] == ["a=1", "b=2"]


async def test_what_cannot_be_run_over_is_an_error_of_the_loop(engine: Engine) -> None:
    result = await engine.run(pipe(each("{{input.items}}", "body"), say("body")), {"items": 7})
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.stage) == ("INVALID_INPUT", "each")


async def test_names_of_the_loop_are_the_author_s(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each(["x", "y"], "body", item_variable="letter", index_variable="n"),
            say("body", ["{{letter}}", "{{n}}", "{{context.letter}}", "{{context.n}}", "{{context.loop_item}}"]),
        )
    )
    assert [row["value"] for row in result.output["results"]] == [["x", 0, "x", 0, "x"], ["y", 1, "y", 1, "y"]]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("body", [say, touch])
async def test_an_item_knows_how_many_the_nearest_loop_runs_over(
    engine: Engine, body: Callable[..., dict[str, Any]], parallel: bool
) -> None:
    text = "{{str(outer)}}:{{str(context.loop_index + 1)}}/{{str(context.loop_total)}}"
    result = await engine.run(
        pipe(
            each(
                [1, 2, 3], "inner", id="rows", item_variable="outer", parallel=parallel, filter_expression="outer > 1"
            ),
            each("{{[0] if outer == 2 else [0, 0]}}", "cell", id="inner", parallel=parallel),
            body("cell", text),
            say("end", "{{upstream.cell}}"),
        )
    )
    assert result.status == "completed", result.error
    assert [[cell["value"] for cell in row] for row in result.out("end")] == [["2:1/1"], ["3:1/2", "3:2/2"]]


async def test_loops_nest_three_deep_with_effects_inside(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each([0, 1], "inner", id="outer", item_variable="a", index_variable="i", parallel=True),
            each([0, 1, 2], "core", id="inner", item_variable="b", index_variable="j"),
            each("{{input.last}}", "body", id="core", item_variable="c", index_variable="k", parallel=True),
            touch("body", "{{str(a) + str(b) + c}}"),
            say("end", "{{upstream.body}}"),
        ),
        {"last": ["x", "y"]},
    )
    assert result.status == "completed"
    want = [[[{"value": f"{a}{b}{c}"} for c in "xy"] for b in range(3)] for a in range(2)]
    assert result.out("end") == want
    assert len({note.key for note in result.notes if note.key}) == 12


async def test_pure_loops_nest_three_deep(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each([0, 1], "inner", id="outer", item_variable="a", index_variable="i", parallel=True),
            each([0, 1, 2], "core", id="inner", item_variable="b", index_variable="j", parallel=True),
            each("{{input.last}}", "body", id="core", item_variable="c", index_variable="k"),
            say("body", "{{str(a) + str(b) + c}}"),
            say("end", "{{upstream.body}}"),
        ),
        {"last": ["x", "y"]},
    )
    want = [[[{"value": f"{a}{b}{c}"} for c in "xy"] for b in range(3)] for a in range(2)]
    assert result.out("end") == want


@PURE_AND_EFFECT
async def test_items_do_not_see_each_other_s_variables(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            each(list(range(8)), "keep", "read", parallel=True, max_parallel=8),
            stage("keep", "variable_set", name="mine", value="{{item}}"),
            make("read", ["{{item}}", "{{context.mine}}"], seconds=0.02, depends_on=["keep"]),
        )
    )
    assert result.status == "completed"
    assert [row["value"] for row in result.output["results"]] == [[n, n] for n in range(8)]


async def test_an_item_that_is_changed_is_changed_for_nobody_else(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each([[1], [2]], "bad", "good", parallel=True),
            stage("bad", "spoil", items="{{item}}"),
            say("good", "{{item}}", depends_on=["bad"]),
        )
    )
    assert [row["value"] for row in result.output["results"]] == [[1], [2]]


@PURE_AND_EFFECT
async def test_the_body_sees_what_stands_before_the_loop(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            say("before", 10),
            stage("keep", "variable_set", name="factor", value=3),
            each([1, 2], "body", depends_on=["keep"]),
            make("body", "{{(upstream.before.value + item) * context.factor + input.plus}}"),
        ),
        {"plus": 100},
    )
    assert [row["value"] for row in result.output["results"]] == [133, 136]


@PURE_AND_EFFECT
async def test_a_body_that_was_partly_skipped_has_null_in_its_place(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            each([1, 2, 3], "pick", "odd"),
            stage("pick", "conditional", condition="{{item % 2 == 1}}", true_branch_stages=["odd"]),
            make("odd", "{{item}}"),
            say("end", ["{{upstream.odd}}", "{{upstream.each.results}}"]),
        )
    )
    odd = [{"value": 1}, None, {"value": 3}]
    assert result.out("end") == [odd, odd]


async def test_retries_of_a_body_are_counted_per_item(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each([1, 2], "body", parallel=True),
            touch(
                "body",
                "{{item}}",
                error="ConnectionError",
                times="{{1 if item == 2 else 0}}",
                retry_config={"max_retries": 2, "initial_delay_ms": 100},
            ),
        )
    )
    assert result.status == "completed"
    assert [len([n for n in result.notes if n.path == f"each[{i}].body"]) for i in range(2)] == [1, 2]


async def test_a_thousand_items_are_recorded_in_few_events(engine: Engine) -> None:
    result = await engine.run(
        pipe(each("{{range(1000)}}", "body", parallel=True, max_parallel=100), say("body", "{{item}}"))
    )
    assert result.status == "completed"
    assert [row["value"] for row in result.output["results"]] == list(range(1000))
    assert len(result.of(ItemsFinished)) < 200
    assert expanded(result, "each").total == 1000


async def test_a_loop_without_results_collects_none(engine: Engine) -> None:
    result = await engine.run(pipe(each([1, 2], "body", collect_results=False), say("body", "{{item}}")))
    assert result.output["results"] == []
    assert result.output["processed_items"] == 2


async def test_unsafe_items_each_run_once(engine: Engine) -> None:
    result = await engine.run(pipe(each([1, 2, 3], "body", parallel=True), post("body", "{{item}}", seconds=0.02)))
    assert sorted(note.value for note in result.notes) == [1, 2, 3]
    assert len({note.key for note in result.notes}) == 3


async def test_an_item_whose_effects_still_run_is_recorded_when_another_fails(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            each([1, 2], "body", parallel=True),
            post(
                "body",
                "{{item}}",
                seconds="{{0.15 if item == 1 else 0.02}}",
                error="{{'ValueError' if item == 2 else ''}}",
            ),
        )
    )
    assert result.status == "failed"
    assert result.stages["each[0].body"].status == "completed"
    assert result.stages["each[1].body"].status == "failed"


async def test_a_failed_item_stands_in_the_place_of_what_a_loop_inside_of_it_did_not_give(engine: Engine) -> None:
    """What ran before the failure, if only in a body, is what it was."""
    document = pipe(
        stage("each", "foreach", items=[2, 0], loop_stages=["guard", "inner"], break_on_error=False),
        stage("guard", "trycatch", try_stages=["before"], catch_stages=[]),
        say("before", "{{item}}"),
        stage("inner", "foreach", items="{{[1, item]}}", loop_stages=["leaf"], depends_on=["guard"], item_variable="n"),
        touch("leaf", "{{4 / n}}"),
        say("end", ["{{upstream.before}}", "{{upstream.inner}}", "{{upstream.leaf}}"]),
    )
    result = await engine.run(document)
    assert result.status == "completed"
    before, inner, leaf = result.out("end")
    assert before == [{"value": 2}, {"value": 0}]
    assert leaf[0] == [{"value": 4.0}, {"value": 2.0}]
    assert leaf[1] == inner[1] and leaf[1]["$error"]["stage"] == "each[1].inner[1].leaf"
