"""conditional and router: who runs, who is skipped, and what a reader of a skipped stage sees."""

from __future__ import annotations

from typing import Any

import pytest

from flowmason.event import StageSkipped
from running.kit import Engine, pipe, say, stage, touch


def when(condition: Any, yes: list[str], no: list[str] | None = None, id: str = "pick", **more: Any) -> dict[str, Any]:
    return stage(id, "conditional", condition=condition, true_branch_stages=yes, false_branch_stages=no or [], **more)


@pytest.mark.parametrize(("given", "ran"), [(1, "yes"), (0, "no"), ("", "no"), ([0], "yes"), (None, "no")])
async def test_a_conditional_runs_one_branch(engine: Engine, given: Any, ran: str) -> None:
    result = await engine.run(pipe(when("{{input.x}}", ["yes"], ["no"]), say("yes"), say("no")), {"x": given})
    assert result.ran() == [ran]
    assert result.statuses("yes", "no") == {n: "completed" if n == ran else "skipped" for n in ("yes", "no")}
    assert result.stages["pick"].output["branch_taken"] == ("true" if ran == "yes" else "false")


async def test_a_condition_may_compare_beside_its_template(engine: Engine) -> None:
    result = await engine.run(
        pipe(say("code", 404), when("{{upstream.code.value}} == 200", ["yes"], ["no"]), say("yes"), say("no"))
    )
    assert result.ran() == ["code", "no"]


@pytest.mark.parametrize("make", [say, touch])
async def test_a_skip_goes_on_to_all_that_depend_on_it_alone(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            when(False, ["a"]),
            make("a", 1),
            make("b", "{{upstream.a.value}}"),
            make("c", depends_on=["b"]),
            make("free", 2),
        )
    )
    assert result.status == "completed"
    assert result.statuses("a", "b", "c", "free") == {
        "a": "skipped",
        "b": "skipped",
        "c": "skipped",
        "free": "completed",
    }
    assert [event.path for event in result.of(StageSkipped)] == [("a",), ("b",), ("c",)]


async def test_a_join_runs_with_one_live_dependency_and_sees_null_for_the_other(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            when("{{input.x}}", ["a"], ["b"]),
            say("a", {"deep": [1]}),
            say("b", {"deep": [2]}),
            say("join", ["{{upstream.a.value.deep[0]}}", "{{upstream.b.value.deep[0]}}", "{{upstream.a}}"]),
        ),
        {"x": False},
    )
    assert result.out("join") == [None, 2, None]


async def test_data_weighs_more_than_order(engine: Engine) -> None:
    """What it reads was skipped; that something it only follows ran does not save it."""
    result = await engine.run(
        pipe(when(False, ["a"]), say("a"), say("b"), say("c", "{{upstream.a.value}}", depends_on=["b"]))
    )
    assert result.statuses("b", "c") == {"b": "completed", "c": "skipped"}


async def test_a_guard_is_no_live_dependency_beside_another(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            when(False, ["a"]),
            say("a"),
            say("reader", ["{{upstream.a.value}}", "{{upstream.pick.branch_taken}}"]),
            say("only_guard", "{{upstream.pick.branch_taken}}"),
        )
    )
    assert result.statuses("reader", "only_guard") == {"reader": "skipped", "only_guard": "completed"}
    assert result.out("only_guard") == "false"


async def test_a_stage_that_no_guard_lists_runs_whatever_is_chosen(engine: Engine) -> None:
    result = await engine.run(pipe(when(False, ["a"]), say("a"), say("after", depends_on=["pick"])))
    assert result.statuses("a", "after") == {"a": "skipped", "after": "completed"}


async def test_a_guard_that_is_skipped_chooses_nothing(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            when(False, ["first"]),
            say("first"),
            when("{{upstream.first.value}}", ["a"], ["b"], id="second"),
            say("a"),
            say("b"),
        )
    )
    assert result.statuses("first", "second", "a", "b") == dict.fromkeys(("first", "second", "a", "b"), "skipped")


async def test_a_stage_listed_by_two_guards_runs_if_either_chose_it(engine: Engine) -> None:
    document = pipe(when("{{input.x}}", ["a"], id="one"), when("{{input.y}}", ["a"], id="two"), say("a"))
    for x, y in ((True, False), (False, True), (False, False)):
        result = await engine.run(document, {"x": x, "y": y})
        assert result.stages["a"].status == ("completed" if x or y else "skipped")


def route(value: Any, routes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return stage("route", "router", value=value, routes=routes, **more)


@pytest.mark.parametrize(
    ("given", "ran", "taken"),
    [
        ("red", ["r"], "red"),
        (7, ["s"], "7"),
        (True, ["b"], "true"),
        ("none", ["d"], "default"),
        (None, ["d"], "default"),
    ],
)
async def test_a_router_runs_the_stages_of_the_key(engine: Engine, given: Any, ran: list[str], taken: str) -> None:
    result = await engine.run(
        pipe(
            route("{{input.x}}", {"red": ["r"], "7": "s", "true": ["b"]}, default_route=["d"]),
            *(say(name) for name in "rsbd"),
        ),
        {"x": given},
    )
    assert result.ran() == ran
    assert result.stages["route"].output["route_taken"] == taken


async def test_a_stage_on_several_routes_runs_if_any_was_chosen(engine: Engine) -> None:
    document = pipe(
        route("{{input.x}}", {"a": ["shared", "a"], "b": ["shared", "b"], "c": ["c"]}),
        *(say(name) for name in ("shared", "a", "b", "c")),
    )
    assert set((await engine.run(document, {"x": "b"})).ran()) == {"shared", "b"}
    assert (await engine.run(document, {"x": "c"})).ran() == ["c"]
    nothing = await engine.run(document, {"x": "elsewhere"})
    assert (nothing.status, nothing.ran()) == ("completed", [])


async def test_routes_match_without_case_if_asked(engine: Engine) -> None:
    result = await engine.run(pipe(route("RED", {"red": ["r"]}, case_insensitive=True), say("r")))
    assert result.ran() == ["r"]


async def test_the_output_of_a_skipped_output_stage_is_null(engine: Engine) -> None:
    result = await engine.run(pipe(when(False, ["a"]), say("a", 1), output_stage_id="a"))
    assert (result.status, result.output) == ("completed", None)


async def test_a_conditional_of_the_user_s_chooses(engine: Engine) -> None:
    document = pipe(
        stage("pick", "by_size", items="{{input.items}}", true_branch_stages=["many"], false_branch_stages=["few"]),
        say("many"),
        say("few"),
    )
    assert (await engine.run(document, {"items": [1, 2]})).ran() == ["many"]
    assert (await engine.run(document, {"items": [1]})).ran() == ["few"]


async def test_a_conditional_that_says_neither_yes_nor_no_fails(engine: Engine) -> None:
    result = await engine.run(pipe(stage("pick", "undecided", true_branch_stages=["a"]), say("a")))
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.stage) == ("INVALID_OUTPUT", "pick")
    assert result.ran() == []


async def test_a_loop_of_the_user_s_runs_over_what_it_says(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("each", "pairs", items=[1, 2, 3], loop_stages=["body"], parallel=True),
            say("body", "{{item[0] + item[1]}}"),
            say("end", "{{upstream.body}}"),
        )
    )
    assert result.status == "completed"
    assert result.out("end") == [{"value": 3}, {"value": 5}]


@pytest.mark.parametrize("make", [say, touch])
async def test_a_skipped_body_owner_skips_what_reads_from_its_body(engine: Engine, make: Any) -> None:
    result = await engine.run(
        pipe(
            when(False, ["each"]),
            stage("each", "foreach", items=[1], loop_stages=["body"]),
            make("body", "{{item}}"),
            make("reader", "{{upstream.body}}"),
        )
    )
    assert result.statuses("each", "reader") == {"each": "skipped", "reader": "skipped"}
    assert result.ran() == []
