"""conditional and router steer stages of their own scope."""

from __future__ import annotations

from typing import Any

from compiling_kit import arm, build, echo, only, refused, stage
from flowmason.plan import Kind


def conditional(id: str, yes: Any = (), no: Any = (), condition: Any = "{{input.go}}", **more: Any) -> Any:
    return stage(
        id,
        "conditional",
        {"condition": condition, "true_branch_stages": yes or [], "false_branch_stages": no or []},
        **more,
    )


def router(id: str, routes: dict[str, Any], default: Any = (), value: Any = "{{input.kind}}") -> Any:
    return stage(id, "router", {"value": value, "routes": routes, "default_route": default or []})


def test_a_listed_stage_has_an_arm_and_needs_its_guard() -> None:
    plan = build(conditional("if", ["yes"], "no"), echo("yes"), echo("no"), echo("always"))
    yes, no = plan.stages["yes"], plan.stages["no"]
    assert yes.arms == (arm("if", "true"),) and no.arms == (arm("if", "false"),)
    assert (yes.needs, yes.data, yes.order, yes.reads) == (("if",), (), (), ())
    assert plan.stages["always"].needs == () and plan.stages["if"].is_guard


def test_a_guard_in_depends_on_stays_order_and_a_read_guard_is_data() -> None:
    plan = build(conditional("if", ["yes"]), echo("yes", "{{upstream.if.data}}"), echo("other", 1, "if"))
    assert plan.stages["yes"].data == ("if",) and plan.stages["other"].order == ("if",)


def test_a_stage_under_several_routes_has_one_arm() -> None:
    plan = build(router("by", {"a": "x", "b": ["x", "y"], "c": []}, "x"), echo("x"), echo("y"))
    assert plan.stages["x"].arms == (arm("by", "a", "b", "default"),)
    assert plan.stages["y"].arms == (arm("by", "b"),)


def test_a_stage_may_stand_under_several_guards() -> None:
    plan = build(conditional("one", ["x"]), conditional("two", [], ["x"]), echo("x"))
    assert plan.stages["x"].arms == (arm("one", "true"), arm("two", "false"))


def test_a_stage_behind_a_branch_may_be_read_from_outside() -> None:
    plan = build(
        conditional("if", ["yes"], ["no"]), echo("yes"), echo("no"), echo("join", "{{yes.output}}{{no.output}}")
    )
    assert plan.stages["join"].needs == ("yes", "no")


def test_a_listed_stage_must_exist() -> None:
    fault = only(refused(router("by", {"big deal": ["vipp"]}), echo("vip")))
    assert (fault.pointer, fault.nearest) == ('$.stages[0].config.routes["big deal"][0]', "vip")


def test_a_guard_cannot_choose_itself_or_what_it_waits_for() -> None:
    assert "itself" in refused(conditional("if", ["if"]))[0].reason
    fault = only(refused(conditional("if", ["a"], condition="{{upstream.a.value}}"), echo("a")))
    assert "if → a → if" in fault.reason and "a is listed by if" in fault.reason


def test_a_guard_lists_stages_of_its_own_scope() -> None:
    each = stage("each", "foreach", {"items": [1], "loop_stages": ["inner", "s"]})
    fine = build(each, conditional("inner", ["s"]), echo("s"))
    assert fine.stages["s"].arms == (arm("inner", "true"),)
    fault = only(refused(conditional("if", ["s"]), each, conditional("inner", ["s"]), echo("s")))
    assert fault.nearest == "each" and "list each instead" in fault.reason
    fault = only(refused(each, conditional("inner", ["out"]), echo("s"), echo("out")))
    assert "not in the body of each" in fault.reason


def test_a_route_called_default_needs_no_default_route_beside_it() -> None:
    assert build(router("by", {"default": "x"}), echo("x")).stages["x"].arms == (arm("by", "default"),)
    assert "default" in only(refused(router("by", {"default": "x"}, "x"), echo("x"))).reason


def test_a_condition_is_one_expression_whatever_stands_around_its_braces() -> None:
    spellings = [
        "{{upstream.a.status_code}} == 200",
        "{{upstream.a.status_code == 200}}",
        "upstream.a.status_code == 200",
    ]
    fetch = stage("a", "http_request", {"url": "https://example.org"})
    plans = [build(fetch, conditional("if", ["yes"], condition=spelling), echo("yes")) for spelling in spellings]
    assert len({plan.id for plan in plans}) == 1 and plans[0].stages["if"].data == ("a",)
    assert build(conditional("if", ["yes"], condition=True), echo("yes")).stages["if"].kind is Kind.CONDITIONAL
    done = stage(
        "done", "return", {"condition": "{{upstream.a.status_code}} >= 500", "return_value": "{{upstream.a.body}}"}
    )
    assert build(fetch, done).stages["done"].data == ("a",)


def test_expressions_that_a_component_evaluates_stay_text() -> None:
    plan = build(stage("f", "filter", {"data": "{{input.rows}}", "condition": "item.age > 3 and {{index}} < 5"}))
    assert plan.stages["f"].inputs.fields["condition"].value == "item.age > 3 and {{index}} < 5"


def test_expressions_that_a_component_evaluates_are_checked() -> None:
    faults = refused(
        stage("f", "filter", {"data": 1, "condition": "item.age >"}),
        stage("g", "filter", {"data": 1, "condition": "data.x > {{upstream.f.data.limit}}"}),
        stage(
            "each",
            "foreach",
            {"items": [1], "loop_stages": ["s"], "item_variable": "row", "filter_expression": "row > x"},
        ),
        echo("s"),
    )
    assert [fault.pointer for fault in faults] == [
        "$.stages[0].config.condition",
        "$.stages[1].config.condition",
        "$.stages[2].config.filter_expression",
    ]
    assert "sees only data, index, item, not upstream" in faults[1].reason
