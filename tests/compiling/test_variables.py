"""Variables flow along edges: who sees whose, and which readers are refused."""

from __future__ import annotations

from typing import Any

from compiling_kit import build, echo, only, refused, stage
from flowmason.errors import Code


def setter(id: str, name: str, value: Any = 1, *depends_on: str) -> dict[str, Any]:
    return stage(id, "variable_set", {"name": name, "value": value}, depends_on=list(depends_on))


def conditional(id: str, *yes: str) -> dict[str, Any]:
    return stage(id, "conditional", {"condition": "{{input.go}}", "true_branch_stages": list(yes)})


def test_a_stage_sees_the_variables_that_its_ancestors_set() -> None:
    plan = build(setter("s", "x"), echo("mid", 1, "s"), echo("r", "{{context.x}}", "mid"), echo("apart"))
    reader = plan.stages["r"]
    assert reader.variables == {"x": ("s",)} and reader.reads == ("s",)
    assert (reader.needs, reader.data) == (("mid",), ())
    assert plan.stages["mid"].variables == {"x": ("s",)} and plan.stages["mid"].reads == ()
    assert plan.stages["apart"].variables == {}


def test_the_latest_setter_comes_first_and_hides_the_others() -> None:
    plan = build(setter("one", "x"), setter("two", "x", 2, "one"), echo("r", "{{context.x}}", "two"))
    assert plan.stages["r"].variables == {"x": ("two",)}


def test_a_setter_that_may_be_skipped_leaves_the_one_before_it_in_sight() -> None:
    plan = build(
        setter("one", "x"),
        conditional("if", "two"),
        setter("two", "x", 2, "one"),
        echo("r", "{{context.x}}", "two", "one"),
    )
    assert plan.stages["r"].variables == {"x": ("two", "one")} and plan.stages["r"].reads == ("one", "two")


def test_a_reader_without_a_setter_upstream_is_refused() -> None:
    fault = only(refused(setter("s", "total"), echo("r", "{{context.total}}")))
    assert fault.pointer == "$.stages[1].config.value" and "does not come before r" in fault.reason
    fault = only(refused(setter("s", "total"), echo("r", "{{context.totl}}", "s")))
    assert fault.nearest == "total" and "no stage sets it" in fault.reason
    assert "no stage sets it" in only(refused(echo("r", "{{context.x}}"))).reason


def test_two_unordered_setters_are_refused_by_name() -> None:
    fault = only(refused(setter("a", "x"), setter("b", "x"), echo("r", "{{context.x}}", "a", "b")))
    assert "set by a and by b" in fault.reason


def test_unordered_setters_are_fine_behind_a_later_one() -> None:
    plan = build(setter("a", "x"), setter("b", "x"), setter("c", "x", 3, "a", "b"), echo("r", "{{context.x}}", "c"))
    assert plan.stages["r"].variables == {"x": ("c",)}


def test_unordered_setters_do_not_hurt_a_stage_that_does_not_read() -> None:
    plan = build(setter("a", "x"), setter("b", "x"), echo("r", 1, "a", "b"))
    assert plan.stages["r"].variables == {"x": ("b",)}  # the latest in topological order, never skipped


def test_bodies_see_outer_variables_and_keep_their_own() -> None:
    stages = [
        setter("s", "x"),
        stage("each", "foreach", {"items": [1], "loop_stages": ["own", "r"]}, depends_on=["s"]),
        setter("own", "y", "{{item}}"),
        echo("r", "{{context.x}} {{context.y}}", "own"),
    ]
    plan = build(*stages)
    assert plan.stages["r"].variables == {"x": ("s",), "y": ("own",)}
    assert plan.stages["each"].reads == ("s",) and plan.stages["each"].data == ()
    fault = only(refused(*stages, echo("after", "{{context.y}}", "each")))
    assert "in the body of each, and is known only there" in fault.reason


def test_an_inner_setter_hides_an_outer_one() -> None:
    plan = build(
        setter("s", "x"),
        stage("each", "foreach", {"items": [1], "loop_stages": ["own", "r"]}, depends_on=["s"]),
        setter("own", "x"),
        echo("r", "{{context.x}}", "own"),
    )
    assert plan.stages["r"].variables == {"x": ("own",)}


def test_a_catch_does_not_see_what_its_try_set() -> None:
    guard = stage("guard", "trycatch", {"try_stages": ["s"], "catch_stages": ["r"]})
    assert "known only there" not in only(refused(guard, setter("s", "x"), echo("r", "{{context.x}}"))).reason


def test_default_makes_a_variable_optional_if_some_stage_or_a_caller_may_set_it() -> None:
    build(setter("s", "x"), echo("r", "{{default(context.x, 0)}}"))
    build(setter("s", "x"), echo("r", "{{default(context.callers, 0)}}"))
    fault = only(refused(setter("s", "total"), echo("r", "{{default(context.totl, 0)}}")))
    assert "no stage sets it" in fault.reason and fault.nearest == "total"
    own = only(refused(echo("r", "{{default(context.x, 0)}}"), variables={"x": 1}))
    assert own.code == Code.NOT_SUPPORTED


def test_names_of_variables_are_written_out_and_free() -> None:
    faults = refused(
        setter("a", "{{input.name}}"),
        setter("b", "two words"),
        setter("c", "run_id"),
        stage("each", "foreach", {"items": [1], "loop_stages": ["d"]}),
        setter("d", "item"),
    )
    assert [fault.pointer for fault in faults] == [f"$.stages[{n}].config.name" for n in (0, 1, 2, 4)]


def test_fields_of_the_context_need_no_setter() -> None:
    build(echo("a", "{{context.run_id}} {{context.trace_id}} {{context.stage_id}}"))
    assert "is a string" in only(refused(echo("a", "{{context.run_id.x}}"))).reason


def test_the_pipelines_own_variables_are_refused_by_name() -> None:
    fault = only(refused(echo("a", "{{context.x}}"), variables={"x": 1}))
    assert fault.code == Code.NOT_SUPPORTED and "variable_set" in fault.reason


def test_without_variables_nothing_is_carried() -> None:
    assert build(echo("a"), echo("b", 1, "a")).stages["b"].variables == {}


def test_many_variables_along_a_long_chain_are_quick_or_refused() -> None:
    same = [setter(f"s{n}", "x", n, *([f"s{n - 1}"] if n else [])) for n in range(1500)]
    assert build(*same).stages["s1499"].variables == {"x": ("s1498",)}
    own = [setter(f"s{n}", f"x{n}", n, *([f"s{n - 1}"] if n else [])) for n in range(1500)]
    assert "more than" in only(refused(*own)).reason
