"""foreach and trycatch own their stages: scopes, lifted edges, what may be read from where."""

from __future__ import annotations

from typing import Any

import pytest

from compiling_kit import build, echo, only, refused, stage
from flowmason.plan import ForeachBody, TryCatchBody


def foreach(
    id: str, *loop: str, items: Any = "{{input.items}}", depends_on: list[str] | None = None, **more: Any
) -> Any:
    return stage(id, "foreach", {"items": items, "loop_stages": list(loop), **more}, depends_on=depends_on or [])


def trycatch(id: str, attempt: list[str], rescue: list[str] | None = None, cleanup: list[str] | None = None) -> Any:
    return stage(id, "trycatch", {"try_stages": attempt, "catch_stages": rescue or [], "finally_stages": cleanup or []})


def inside(plan: Any, owner: str) -> list[str]:
    return [each.id for scope in plan.stages[owner].scopes for each in scope.stages]


def test_a_body_is_a_scope_of_its_own() -> None:
    plan = build(foreach("each", "s", "t"), echo("t", "{{upstream.s.value}}"), echo("s"), echo("after"))
    assert [each.id for each in plan.scope.stages] == ["each", "after"]
    assert inside(plan, "each") == ["s", "t"]
    body = plan.stages["each"].body
    assert isinstance(body, ForeachBody) and body.scope.last == "t"
    assert plan.stages["t"].needs == ("s",)


def test_inside_a_body_list_order_breaks_ties_and_names_the_last() -> None:
    plan = build(foreach("each", "c", "a", "b"), echo("a"), echo("b"), echo("c", "{{upstream.b.value}}"))
    assert inside(plan, "each") == ["a", "b", "c"]
    body = plan.stages["each"].body
    assert isinstance(body, ForeachBody) and body.scope.last == "b"


def test_outer_stages_that_a_body_reads_become_needs_of_its_owner() -> None:
    plan = build(
        echo("a"), echo("b"), foreach("each", "s"), echo("s", "{{upstream.a.value}}", "each", "b"), echo("unrelated")
    )
    each, s = plan.stages["each"], plan.stages["s"]
    assert (each.needs, each.data, each.order, each.reads) == (("a", "b"), ("a",), ("b",), ("a",))
    assert (s.needs, s.reads) == ((), ("a",))


def test_a_reader_of_a_body_depends_on_its_owner() -> None:
    plan = build(foreach("each", "s"), echo("s"), echo("after", "{{upstream.s[0].value}}"), echo("later", 1, "s"))
    after, later = plan.stages["after"], plan.stages["later"]
    assert (after.needs, after.data, after.reads) == (("each",), ("each",), ("s",))
    assert (later.needs, later.order, later.reads) == (("each",), ("each",), ())
    assert plan.exports == {"each": frozenset({"s"})}


def test_bodies_nest_by_listing_the_inner_owner() -> None:
    plan = build(
        echo("a"),
        foreach("outer", "inner"),
        foreach("inner", "guard", items="{{item}}", item_variable="cell"),
        trycatch("guard", ["work"], ["rescue"], ["clean"]),
        echo("work", "{{cell}} {{upstream.a.value}}"),
        echo("rescue", "{{error.message}} {{upstream.work.value}}"),
        echo("clean"),
        echo("end", "{{upstream.work[0][1].value}}"),
    )
    assert plan.ancestors["work"] == ("outer", "inner", "guard")
    for owner in ("outer", "inner", "guard"):
        assert plan.stages[owner].reads == ("a",)
    assert plan.stages["outer"].needs == ("a",) and plan.stages["inner"].needs == ()
    assert plan.stages["end"].needs == ("outer",) and plan.stages["end"].reads == ("work",)
    assert plan.stages["rescue"].needs == ()  # the try has ended before a catch begins
    body = plan.stages["guard"].body
    assert isinstance(body, TryCatchBody)
    assert [body.attempt.last, body.rescue.last, body.cleanup.last] == ["work", "rescue", "clean"]


def test_a_stage_belongs_to_one_body() -> None:
    fault = only(refused(foreach("one", "s"), foreach("two", "s"), echo("s")))
    assert fault.pointer == "$.stages[1].config.loop_stages[0]" and "one body" in fault.reason
    assert "listed twice" in only(refused(foreach("one", "s", "s"), echo("s"))).reason
    fault = only(refused(trycatch("t", ["s"], ["s"]), echo("s")))
    assert fault.pointer == "$.stages[0].config.catch_stages[0]" and "two bodies" in fault.reason


def test_a_nested_body_is_not_listed_again() -> None:
    fault = only(refused(foreach("outer", "inner", "s"), foreach("inner", "s"), echo("s")))
    assert "listed by its owner alone" in fault.reason


def test_bodies_cannot_contain_themselves() -> None:
    assert "own body" in refused(foreach("each", "each"))[0].reason
    assert "a → b → a" in only(refused(foreach("a", "b"), foreach("b", "a"))).reason


def test_a_body_must_list_stages_that_exist() -> None:
    fault = only(refused(foreach("each", "summarise", "sumarise"), echo("summarise")))
    assert fault.pointer == "$.stages[0].config.loop_stages[1]" and fault.nearest == "summarise"
    assert "would do nothing" in only(refused(foreach("each"))).reason
    assert "would do nothing" in only(refused(trycatch("guard", []))).reason


def test_an_edge_through_a_body_can_close_a_ring() -> None:
    fault = only(refused(foreach("each", "s"), echo("s", "{{upstream.b.value}}"), echo("b", "{{upstream.s[0].value}}")))
    assert "each → b → each" in fault.reason
    assert "s, in the body of each, reads upstream.b" in fault.reason


def test_a_body_cannot_read_its_own_owner() -> None:
    fault = only(refused(foreach("each", "s"), echo("s", "{{upstream.each.results}}")))
    assert "cannot read its output" in fault.reason and "item and index" in fault.reason


def test_an_owner_cannot_read_its_own_body() -> None:
    fault = only(refused(foreach("each", "s", items="{{upstream.s}}"), echo("s")))
    assert "stands in the body of each" in fault.reason
    assert "begins before it" in only(refused(foreach("each", "s", depends_on=["s"]), echo("s"))).reason


def test_a_try_cannot_read_its_catch() -> None:
    faults = refused(
        trycatch("guard", ["a"], ["b"], ["c"]), echo("a", "{{upstream.c.value}}", "b"), echo("b"), echo("c")
    )
    assert [fault.pointer for fault in faults] == ["$.stages[1].config.value", "$.stages[1].depends_on[0]"]
    assert "runs after its try" in faults[0].reason


def test_a_catch_and_a_finally_may_read_the_try() -> None:
    plan = build(
        trycatch("guard", ["a"], ["b"], ["c"]),
        echo("a"),
        echo("b", "{{upstream.a.value}}"),
        echo("c", "{{upstream.a.value}}{{upstream.b.value}}", "a"),
    )
    assert plan.stages["b"].reads == ("a",) and plan.stages["c"].reads == ("a", "b")
    assert plan.stages["guard"].reads == () and plan.stages["c"].needs == ()


def test_a_catch_sees_the_error_and_asks_its_own_trycatch() -> None:
    plan = build(
        trycatch("guard", ["a"], ["each"], ["c"]),
        echo("a"),
        foreach("each", "b", items=[1]),
        echo("b", "{{error.message}} {{_error.type}} {{upstream.guard.error_type}}"),
        echo("c", "{{upstream.guard.error_occurred}} {{default(error.message, '')}}"),
    )
    assert plan.stages["b"].reads == ("guard",) and plan.stages["each"].reads == ("guard",)
    assert plan.stages["guard"].reads == () and plan.stages["each"].needs == ()


def test_the_error_is_known_nowhere_else() -> None:
    faults = refused(
        trycatch("guard", ["a"], ["b"]), echo("a", "{{error.message}}"), echo("b"), echo("c", "{{_error}}")
    )
    assert [fault.pointer for fault in faults] == ["$.stages[1].config.value", "$.stages[3].config.value"]


def test_a_catch_asks_its_trycatch_for_the_error_only() -> None:
    fault = only(refused(trycatch("guard", ["a"], ["b"]), echo("a"), echo("b", "{{upstream.guard.error_typ}}")))
    assert fault.nearest == "error_type"
    assert (
        "cannot read its output"
        in only(refused(trycatch("guard", ["a"]), echo("a", "{{upstream.guard.error_type}}"))).reason
    )


def test_loop_variables_have_many_spellings_and_one_form() -> None:
    spellings = [
        "{{item.id}}",
        "{{context.item.id}}",
        "{{context.loop_item.id}}",
        "{{upstream.each.current_item.id}}",
        "{{upstream.each.item.id}}",
        "{{stages.each.output.current_item['id']}}",
    ]
    plans = [build(foreach("each", "s"), echo("s", spelling)) for spelling in spellings]
    assert len({plan.id for plan in plans}) == 1
    assert plans[0].stages["s"].reads == ()
    positions = ["{{index}}", "{{context.loop_index}}", "{{upstream.each.current_index}}", "{{context.index}}"]
    assert len({build(foreach("each", "s"), echo("s", spelling)).id for spelling in positions}) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("loop_total", "only in the body of a foreach"),
        ("loop_remaining", "context.loop_total - context.loop_index - 1"),
        ("loop_results", "upstream.<foreach>.results"),
    ],
)
def test_what_of_a_loop_cannot_be_known_is_refused_with_what_to_write(name: str, reason: str) -> None:
    text = f"{{{{context.{name}}}}}"
    assert reason in only(refused(echo("s", text))).reason
    inside = [foreach("each", "s"), echo("s", text)]
    if name == "loop_total":
        assert build(*inside).stages["s"].reads == ()
    else:
        assert reason in only(refused(*inside)).reason


def test_named_loop_variables_of_every_loop_around_are_in_sight() -> None:
    plan = build(
        foreach("rows", "cells", item_variable="row", index_variable="y"),
        foreach("cells", "s", items="{{row}}", item_variable="cell", index_variable="x"),
        echo("s", "{{row}} {{cell}} {{y}} {{x}} {{upstream.rows.current_item}} {{item}}"),
    )
    paths = plan.stages["s"].inputs
    assert [part.root for part in paths.fields["value"].parts if not isinstance(part, str)] == [
        "row",
        "cell",
        "y",
        "x",
        "row",
        "cell",
    ]


def test_a_hidden_loop_variable_cannot_be_reached() -> None:
    fault = only(
        refused(
            foreach("outer", "inner"),
            foreach("inner", "s", items="{{item}}"),
            echo("s", "{{upstream.outer.current_item}}"),
        )
    )
    assert "hidden" in fault.reason and "item_variable" in fault.reason


def test_loop_variables_are_known_in_their_body_only() -> None:
    faults = refused(foreach("each", "s", items="{{item}}"), echo("s"), echo("after", "{{context.item}} {{index}}"))
    assert {fault.pointer for fault in faults} == {"$.stages[0].config.items", "$.stages[2].config.value"}
    assert len(faults) == 2


def test_names_of_loop_variables_must_be_usable() -> None:
    faults = refused(
        foreach("a", "s", item_variable="input"),
        foreach("b", "t", item_variable="two words"),
        foreach("c", "u", item_variable="x", index_variable="x"),
        foreach("d", "v", item_variable="{{input.name}}"),
        *(echo(name) for name in "stuv"),
    )
    assert [fault.pointer.partition(".config")[0] for fault in faults] == [f"$.stages[{n}]" for n in range(4)]


def test_bodies_do_not_nest_without_end() -> None:
    loops = [foreach(f"f{n}", f"f{n + 1}", items=[1]) for n in range(40)]
    assert "32 deep" in only(refused(*loops, echo("f40"))).reason
