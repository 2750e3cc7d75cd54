"""Where the pipeline's output comes from, and the stage that holds it against `output_schema`."""

from __future__ import annotations

from compiling_kit import build, echo, only, refused, stage
from flowmason.compiler import OUTPUT, explain
from flowmason.plan import Kind

SCHEMA = {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}


def test_without_an_output_schema_nothing_is_added() -> None:
    for schema in ({}, {"type": "object", "properties": {}, "required": []}, {"description": "anything"}):
        plan = build(echo("a"), echo("b"), output_schema=schema)
        assert plan.output_schema == {} and [each.id for each in plan.scope.stages] == ["a", "b"]


def test_an_output_schema_adds_a_last_stage_behind_the_ends() -> None:
    plan = build(echo("a"), echo("b", "{{upstream.a.value}}"), echo("c"), output_schema=SCHEMA)
    last = plan.scope.stages[-1]
    assert (last.id, last.kind, last.component) == (OUTPUT, Kind.OUTPUT, "$output")
    assert last.needs == last.data == last.reads == ("b", "c") == plan.terminals
    assert plan.scope.last == "c" and explain(plan) == [["a", "c"], ["b"]]


def test_a_named_output_stage_is_all_that_it_reads() -> None:
    plan = build(echo("a"), echo("b", "{{upstream.a.value}}"), output_schema=SCHEMA, output_stage_id="a")
    assert plan.output_stage == "a" and plan.scope.stages[-1].needs == ("a",)


def test_the_output_stage_must_stand_in_the_root() -> None:
    assert only(refused(echo("summary"), output_stage_id="sumary")).nearest == "summary"
    loop = stage("each", "foreach", {"items": [1], "loop_stages": ["s"]})
    fault = only(refused(loop, echo("s"), output_stage_id="s"))
    assert fault.pointer == "$.output_stage_id" and fault.nearest == "each"
