"""Any graph without a ring compiles to a valid order; ten thousand stages do so in seconds."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from compiling_kit import BY_NAME, build, echo, only, read, refused
from flowmason.compiler import compile_pipeline, explain


@st.composite
def graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Stages in shuffled file order, each reading or awaiting some of those before it in another order."""
    count = draw(st.integers(1, 14))
    names = draw(st.permutations([f"s{number}" for number in range(count)]))
    stages = []
    for position, name in enumerate(names):
        before = st.lists(st.sampled_from(names[:position]), unique=True, max_size=3) if position else st.just([])
        read_, awaited = draw(before), draw(before)
        stages.append(echo(name, [f"{{{{upstream.{other}.value}}}}" for other in read_], *awaited))
    return draw(st.permutations(stages))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graphs())
def test_a_graph_without_a_ring_gives_a_topological_order(stages: list[dict[str, Any]]) -> None:
    plan = build(*stages)
    seen: set[str] = set()
    for each in plan.scope.stages:
        assert set(each.needs) <= seen
        assert set(each.needs) == set(each.data) | set(each.order) and not set(each.data) & set(each.order)
        seen.add(each.id)
    assert seen == {each["id"] for each in stages}
    assert sorted(name for wave in explain(plan) for name in wave) == sorted(seen)
    assert build(*stages).id == plan.id


@settings(max_examples=40, deadline=None, derandomize=True)
@given(graphs(), st.data())
def test_a_ring_is_always_found_and_shown(stages: list[dict[str, Any]], data: st.DataObject) -> None:
    plan = build(*stages)
    order = [each.id for each in plan.scope.stages]
    first = data.draw(st.integers(0, len(order) - 1))
    last = data.draw(st.integers(first, len(order) - 1))
    a, b = order[first], order[last]
    closed = [{**each, "depends_on": [*each["depends_on"], b]} if each["id"] == a else each for each in stages]
    linked = [
        {**each, "depends_on": [*each["depends_on"], a]} if each["id"] == b and a != b else each for each in closed
    ]
    linked = [{**each, "depends_on": list(dict.fromkeys(each["depends_on"]))} for each in linked]
    faults = refused(*linked)
    if a == b:
        assert "itself" in only(faults).reason
    else:
        ring = next(fault.reason for fault in faults).split(": ")[1].split(" (")[0].split(" → ")
        assert ring[0] == ring[-1] and len(set(ring)) == len(ring) - 1 >= 2


def timed(stages: list[dict[str, Any]]) -> float:
    pipeline = read({"stages": stages})
    start = time.process_time()
    plan = compile_pipeline(pipeline, BY_NAME)
    assert plan.id
    took = time.process_time() - start
    assert len(plan.stages) == len(stages)
    return took


def test_ten_thousand_stages_in_a_chain() -> None:
    chain = [echo(f"s{n}", f"{{{{upstream.s{n - 1}.value}}}}" if n else 1) for n in range(10_000)]
    assert timed(list(reversed(chain))) < 4


def test_ten_thousand_stages_side_by_side() -> None:
    wide = [echo("first"), *(echo(f"s{n}", "{{upstream.first.value}} {{input.x}}") for n in range(9_998))]
    joined = echo("last", 1, *(f"s{n}" for n in range(9_998)))
    assert timed([*wide, joined]) < 4


def test_ten_thousand_stages_in_a_ring_are_refused_shortly() -> None:
    ring = [echo(f"s{n}", 1, f"s{(n - 1) % 10_000}") for n in range(10_000)]
    assert len(only(refused(*ring)).reason) < 2_000
