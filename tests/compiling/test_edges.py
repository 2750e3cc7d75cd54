"""References and `depends_on` become edges; rings and dangling names are refused."""

from __future__ import annotations

from compiling_kit import build, echo, only, refused, stage
from flowmason.compiler import explain
from flowmason.errors import Code


def test_a_reference_implies_a_dependency() -> None:
    plan = build(echo("b", "{{upstream.a.value}}"), echo("a"))
    b = plan.stages["b"]
    assert (b.needs, b.data, b.order, b.reads) == (("a",), ("a",), (), ("a",))
    assert [each.id for each in plan.scope.stages] == ["a", "b"]
    assert plan.scope.last == "a"  # the last of the file, whatever the order


def test_depends_on_without_data_is_order() -> None:
    b = build(echo("a"), echo("b", 1, "a")).stages["b"]
    assert (b.needs, b.data, b.order, b.reads) == (("a",), (), ("a",), ())


def test_a_dependency_that_is_read_is_data_only() -> None:
    b = build(echo("a"), echo("b", "{{upstream.a.value}}", "a")).stages["b"]
    assert (b.needs, b.data, b.order) == (("a",), ("a",), ())


def test_every_spelling_of_a_reference_counts() -> None:
    value = {"x": ["{{stages.a.output.value}}", "and {{ b.output['value'] }}"], "y": "{{default(upstream.c.value, 1)}}"}
    plan = build(echo("a"), echo("b"), echo("c"), echo("d", value))
    assert plan.stages["d"].data == ("a", "b", "c")


def test_file_order_breaks_ties() -> None:
    plan = build(echo("z"), echo("m", 1, "b"), echo("b"), echo("a"))
    assert [each.id for each in plan.scope.stages] == ["z", "b", "m", "a"]


def test_waves_for_drawing() -> None:
    plan = build(
        echo("d", "{{upstream.b.value}}{{upstream.c.value}}"), echo("c"), echo("b", "{{upstream.a.value}}"), echo("a")
    )
    assert explain(plan) == [["c", "a"], ["b"], ["d"]]


def test_a_ring_is_shown_with_what_made_each_edge() -> None:
    fault = only(
        refused(echo("a", "{{upstream.c.value}}"), echo("b", 1, "a"), echo("c", {"x": ["{{b.output.value}}"]}))
    )
    assert fault.pointer == "$.stages[0]"
    assert "a → c → b → a" in fault.reason
    assert "a reads upstream.c in config.value" in fault.reason
    assert "c reads upstream.b in config.value.x[0]" in fault.reason
    assert "b lists a in depends_on" in fault.reason


def test_every_ring_is_told() -> None:
    faults = refused(echo("a", 1, "b"), echo("b", 1, "a"), echo("c", 1, "d"), echo("d", 1, "c"), echo("e", 1, "a"))
    assert ["a → b → a" in faults[0].reason, "c → d → c" in faults[1].reason, len(faults)] == [True, True, 2]


def test_a_stage_cannot_read_or_await_itself() -> None:
    faults = refused(echo("a", "{{upstream.a.value}}"), echo("b", 1, "b"))
    assert [fault.pointer for fault in faults] == ["$.stages[0].config.value", "$.stages[1].depends_on[0]"]
    assert "itself" in faults[1].reason and "own output" in faults[0].reason


def test_dangling_names_come_with_the_nearest() -> None:
    faults = refused(echo("fetch"), echo("b", "{{upstream.fetsh.value}}", "fetchh"), echo("c", "{{fetcch.output}}"))
    assert [fault.nearest for fault in faults] == ["fetch", "fetch", "fetch"]
    assert [fault.pointer for fault in faults] == [
        "$.stages[1].config.value",
        "$.stages[1].depends_on[0]",
        "$.stages[2].config.value",
    ]


def test_upstream_must_name_its_stage() -> None:
    faults = refused(echo("a"), echo("b", "{{upstream[input.which]}}"), echo("c", "{{upstream}}"))
    assert [fault.pointer for fault in faults] == ["$.stages[1].config.value", "$.stages[2].config.value"]


def test_input_mapping_wins_over_config_and_is_where_the_fault_is() -> None:
    merged = stage("b", "echo", {"value": "{{upstream.nope.value}}"}, input_mapping={"value": "{{upstream.a.value}}"})
    assert build(echo("a"), merged).stages["b"].data == ("a",)
    merged["input_mapping"]["value"] = "{{upstream.nope.value}}"
    assert only(refused(echo("a"), merged)).pointer == "$.stages[1].input_mapping.value"


def test_everything_wrong_is_told_at_once_in_file_order() -> None:
    faults = refused(
        echo("a", "{{upstream.x.value}} {{1 +}}"),
        stage("b", "ecko"),
        echo("c", {"one": "{{", "two": "{{nope.x}}"}),
        echo("d", 1, "nothing"),
        output_stage_id="zzz",
    )
    places = [fault.pointer for fault in faults]
    assert places == [
        "$.stages[0].config.value",
        "$.stages[0].config.value",
        "$.stages[1].component_type",
        "$.stages[2].config.value.one",
        "$.stages[2].config.value.two",
        "$.stages[3].depends_on[0]",
        "$.output_stage_id",
    ]
    assert faults[2].nearest == "echo" and faults[2].code == Code.COMPONENT_MISSING
    assert "operator" in faults[2].reason


def test_very_many_faults_are_counted_not_listed() -> None:
    faults = refused(*(echo(f"s{number}", "{{nope.x}}") for number in range(500)))
    assert len(faults) == 201 and "at least 300 more" in faults[-1].reason
    faults = refused(*(echo(f"s{number}", "{{nope.x}}") for number in range(250)))
    assert len(faults) == 201 and faults[-1].reason.startswith("50 more")


def test_env_must_be_allowed_by_name() -> None:
    assert build(echo("a", "{{env.REGION}}"), env=["STAGE", "REGION"]).env == ("REGION", "STAGE")
    fault = only(refused(echo("a", "{{env.REGIO}}"), env=["REGION"]))
    assert fault.nearest == "REGION" and "flowmason.json" in fault.reason
    assert only(refused(echo("a", "{{env[input.name]}}"))).pointer == "$.stages[0].config.value"


def test_what_is_not_built_is_refused_by_name() -> None:
    faults = refused(
        stage("b", "echo", {"value": 1}, component_package="org/pkg@1.0.0"),
        stage("c", "abstract"),
        abstract=True,
    )
    assert {fault.code for fault in faults} == {Code.NOT_SUPPORTED}
    assert [fault.pointer for fault in faults] == [
        "$.stages[0].component_package",
        "$.stages[1].component_type",
        "$.abstract",
    ]


def test_inheritance_must_be_resolved_before() -> None:
    fault = only(refused(echo("a"), extends="base"))
    assert fault.pointer == "$.extends"


def test_an_empty_pipeline_is_refused() -> None:
    assert only(refused()).pointer == "$.stages"
