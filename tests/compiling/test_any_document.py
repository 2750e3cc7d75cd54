"""Whatever stages a file holds: a sound Plan comes out, or a refusal with places; nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiling_kit import BY_NAME, finder, read
from flowmason.compiler import compile_pipeline
from flowmason.errors import RefusedError
from flowmason.pipeline import parse_pointer
from flowmason.plan import Plan, Scope, decode

IDS = [f"s{number}" for number in range(7)]
ROLES = {"foreach": ["loop_stages"], "trycatch": ["try_stages", "catch_stages", "finally_stages"]}
NOISE = st.sampled_from(
    [
        *("{{item}}", "{{context.v}}", "{{error.message}}", "{{upstream.s0.value}}", "{{upstream.s1[0].value}}"),
        *("{{upstream.s0.current_item}}", "{{upstream.nobody}}", "{{", "{{upstream.s6}}", "{{context.item.x}}"),
    ]
)


def stage(id: str, component: str, config: Any, depends_on: list[str]) -> dict[str, Any]:
    return {"id": id, "component_type": component, "config": config, "depends_on": depends_on}


@st.composite
def documents(draw: st.DrawFn, noisy: bool) -> list[dict[str, Any]]:
    """Stages that read and steer those before them; `noisy` ones also what they may not."""
    ids = IDS[: draw(st.integers(1, 7))]
    owned: set[str] = set()
    stages = []
    for position, id in enumerate(ids):
        before, after = ids[:position], [other for other in ids[position + 1 :] if other not in owned]
        texts = st.sampled_from(["{{input.x}}", "x", *(f"{{{{upstream.{other}}}}} and" for other in before)])
        some: Any = st.one_of(texts, NOISE) if noisy else texts
        kind = draw(
            st.sampled_from(
                ["echo", "echo", "shout", "set", "sub", *(["foreach", "trycatch", "if", "by"] * bool(after))]
            )
        )
        value: Any = draw(some)
        config: dict[str, Any] = {"value": [value, {"deep": draw(some)}]}
        if kind in ROLES:
            config = {"items": [1, value]} if kind == "foreach" else {}
            for at, role in enumerate(ROLES[kind]):
                pool = ids if noisy and draw(st.booleans()) else after
                listed = draw(st.lists(st.sampled_from(pool), unique=True, min_size=not at, max_size=3)) if pool else []
                after = [other for other in after if other not in listed]
                owned.update(listed)
                config[role] = listed
        elif kind in ("if", "by"):
            listed = draw(st.lists(st.sampled_from(after), unique=True, max_size=2))
            lists = {"true_branch_stages": listed} if kind == "if" else {"routes": {"a": listed, "b c": listed[:1]}}
            config = {("condition" if kind == "if" else "value"): value if kind == "by" else True, **lists}
            kind = "conditional" if kind == "if" else "router"
        elif kind == "set":
            kind, config = "variable_set", {"name": "v", "value": value}
        elif kind == "sub":
            kind, config = "subpipeline", {"pipeline_id": draw(st.sampled_from(["other", "x{{input.y}}"]))}
        elif kind == "shout":
            config = {"text": value, "times": draw(st.sampled_from([1, "2", "{{input.n}}"]))}
        waits = st.lists(st.sampled_from(before or ids), unique=True, max_size=2)
        stages.append(stage(id, kind, config, draw(waits) if before or noisy else []))
    return draw(st.permutations(stages))


def check_scope(plan: Plan, scope: Scope) -> None:
    here = {each.id for each in scope.stages}
    seen: set[str] = set()
    for each in scope.stages:
        assert set(each.needs) <= seen and set(each.data) | set(each.order) <= set(each.needs)
        assert {arm.guard for arm in each.arms} <= set(each.needs)
        assert not {*plan.ancestors[each.id]} & set(each.needs)
        for name in each.reads:
            assert name in plan.stages and name != each.id
        for inner in each.scopes:
            check_scope(plan, inner)
        seen.add(each.id)
    assert scope.last is None or scope.last in here


@pytest.mark.parametrize("noisy", [False, True])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_document_gives_a_sound_plan_or_a_refusal_with_places(noisy: bool, data: st.DataObject) -> None:
    stages = data.draw(documents(noisy))
    find = finder([{"name": "other", "stages": [stage("only", "echo", {"value": 1}, [])]}])
    try:
        plan = compile_pipeline(read({"stages": stages}), BY_NAME, find=find)
    except RefusedError as refused:
        assert refused.faults
        for fault in refused.faults:
            path = parse_pointer(fault.pointer)
            assert path[0] == "stages" and path[1] in range(len(stages)) and fault.reason
        return
    assert set(plan.stages) == {each["id"] for each in stages}
    check_scope(plan, plan.scope)
    assert decode(plan.encoded) == plan
