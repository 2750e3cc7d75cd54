"""What the three decorators make of a class, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import flowmason
from flowmason import ControlFlowInput, ControlFlowOutput, NodeInput, NodeOutput, OperatorInput, OperatorOutput
from flowmason.component import (
    ComponentSpec,
    EffectBy,
    control_flow,
    is_component,
    node,
    operator,
    spec_of,
    version_key,
)
from flowmason.errors import RefusedError
from flowmason.policy import Effect, OnLost, Placement, Resources, RetryPolicy


class In(OperatorInput):
    text: str
    method: str = "GET"


class Out(OperatorOutput):
    text: str


def make_operator(config: type | None = None, **options: Any) -> ComponentSpec:
    class Sample:
        Input = In
        Output = Out

        async def execute(self, input: Any, context: Any) -> Any: ...

    if config is not None:
        Sample.Config = config  # type: ignore[attr-defined]
    given = {"name": "sample", "description": "d", "category": "c", **options}
    return spec_of(operator(**given)(Sample))


def make_node(**options: Any) -> ComponentSpec:
    class Sample:
        class Input(NodeInput):
            prompt: str

        class Output(NodeOutput):
            content: str

        async def execute(self, input: Any, context: Any) -> Any: ...

    given = {"name": "sample", "description": "d", "category": "c", **options}
    return spec_of(node(**given)(Sample))


def test_an_operator_is_pure_runs_as_a_task_and_is_not_retried() -> None:
    spec = make_operator()
    assert (spec.effect, spec.placement, spec.on_lost) == (Effect.PURE, Placement.TASK, OnLost.RERUN)
    assert (spec.retry.max_retries, spec.timeout_ms, spec.requires_llm) == (0, 30_000, False)
    assert (spec.icon, spec.color, spec.version, spec.kind) == ("zap", "#3B82F6", "1.0.0", "operator")


def test_an_operator_that_is_not_deterministic_is_idempotent() -> None:
    assert make_operator(deterministic=False).effect is Effect.IDEMPOTENT
    assert make_operator(deterministic=False, effect="pure").effect is Effect.PURE


def test_a_node_is_idempotent_runs_on_a_host_and_is_retried_three_times() -> None:
    spec = make_node()
    assert (spec.effect, spec.placement, spec.on_lost) == (Effect.IDEMPOTENT, Placement.HOST, OnLost.RERUN)
    assert (spec.retry.max_retries, spec.timeout_ms, spec.requires_llm) == (3, 60_000, True)
    assert (spec.icon, spec.color) == ("box", "#6B7280")


def test_resources_make_a_task_of_an_effect() -> None:
    spec = make_node(resources={"num_gpus": 1})
    assert spec.placement is Placement.TASK
    assert spec.resources == Resources(num_gpus=1)
    assert make_node(resources={"num_gpus": 1}, placement="host").placement is Placement.HOST


def test_an_unsafe_component_is_not_run_again_when_lost() -> None:
    assert make_operator(effect="unsafe").on_lost is OnLost.UNKNOWN
    assert make_operator(effect="unsafe", on_lost="rerun").on_lost is OnLost.RERUN


def test_control_flow_is_pure_and_says_its_type() -> None:
    @control_flow(name="my-branch", description="d", control_flow_type="conditional", category="control-flow")
    class Branch:
        class Input(ControlFlowInput):
            condition: bool

        class Output(ControlFlowOutput):
            branch_taken: str

        async def execute(self, input: Any, context: Any) -> Any: ...

    spec = spec_of(Branch)
    assert (spec.name, spec.category, spec.control_flow_type) == ("my_branch", "control_flow", "conditional")
    assert (spec.effect, spec.placement) == (Effect.PURE, Placement.TASK)


@pytest.mark.parametrize("spelling", [{"timeout": 5}, {"timeout_seconds": 5.0}])
def test_timeouts_are_seconds_in_either_spelling(spelling: dict[str, Any]) -> None:
    assert make_operator(**spelling).timeout_ms == 5000


def test_the_nested_config_counts_like_keywords() -> None:
    class Config:
        timeout_seconds = 7
        max_retries = 2
        deterministic = False

    spec = make_operator(Config)
    assert (spec.timeout_ms, spec.retry.max_retries, spec.effect) == (7000, 2, Effect.IDEMPOTENT)


def test_retry_takes_a_whole_policy() -> None:
    assert make_node(retry={"max_retries": 1, "initial_delay_ms": 10}).retry == RetryPolicy(1, 10)
    assert make_node(max_retries=0).retry.max_retries == 0


def test_everything_that_is_wrong_is_listed_at_once() -> None:
    class Broken:
        class Config:
            max_retrys = 2

        def execute(self, input: Any) -> Any: ...

    with pytest.raises(ValueError) as caught:
        node(name="1st", description=" ", category="c", placement="hots", timeout=1, timeout_seconds=2)(Broken)
    text = str(caught.value)
    assert "Broken cannot be a node component" in text
    for part in (
        "class Input(NodeInput)",
        "class Output(NodeOutput)",
        "not `async def`",
        "did you mean 'max_retries'?",
        "description must be",
        "the same thing",
        "task, host",
        "'1st'",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_retries": 11}, "0 to 10"),
        ({"max_retries": True}, "whole number"),
        ({"timeout": 0.01}, "seconds from"),
        ({"timeout": "5"}, "seconds from"),
        ({"effect": "harmless"}, "pure, idempotent, unsafe"),
        ({"resources": {"num_gpu": 1}}, "did you mean 'num_gpus'?"),
        ({"retry": {"max_retries": 1}, "max_retries": 2}, "give one of them"),
        ({"secrets": "KEY"}, "list of texts"),
        ({"version": "new"}, "1.2.3"),
        ({"name": "abstract"}, "meaning of its own"),
        ({"effect_by": {"field": "methd", "map": {}}}, "no field of Input"),
        ({"effect_by": {"field": "method", "map": {}}, "effect": "pure"}, "beside it"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_operator(**options)


def test_input_and_output_must_have_the_base_of_their_kind() -> None:
    class Mixed:
        Input = In
        Output = Out

        async def execute(self, input: Any, context: Any) -> Any: ...

    with pytest.raises(ValueError, match="Input does not derive from NodeInput"):
        node(name="mixed", description="d", category="c")(Mixed)


def test_components_are_made_without_arguments() -> None:
    class Needy:
        Input = In
        Output = Out

        def __init__(self, url: str) -> None: ...

        async def execute(self, input: Any, context: Any) -> Any: ...

    with pytest.raises(ValueError, match="without arguments"):
        operator(name="needy", description="d", category="c")(Needy)


def test_the_effect_may_depend_on_a_literal_field() -> None:
    spec = make_operator(effect_by={"field": "method", "map": {"GET": "idempotent"}, "default": "unsafe"})
    assert spec.effect is Effect.UNSAFE
    cases: list[tuple[dict[str, Any], Effect]] = [
        ({}, Effect.IDEMPOTENT),  # the field's default is GET
        ({"method": "get"}, Effect.IDEMPOTENT),
        ({"method": "POST"}, Effect.UNSAFE),
        ({"method": "{{input.method}}"}, Effect.UNSAFE),
        ({"method": 3}, Effect.UNSAFE),
    ]
    for inputs, effect in cases:
        assert spec.settle(inputs).effect is effect
    assert spec.settle({}).on_lost is OnLost.RERUN
    assert spec.on_lost is OnLost.UNKNOWN


def test_a_subclass_of_a_component_is_none_until_it_is_decorated() -> None:
    @operator(name="base", description="d", category="c")
    class Base:
        Input = In
        Output = Out

        async def execute(self, input: Any, context: Any) -> Any: ...

    class Derived(Base): ...

    assert is_component(Base)
    assert not is_component(Derived)
    with pytest.raises(ValueError, match="not a component"):
        spec_of(Derived)


def test_a_spec_survives_its_manifest() -> None:
    spec = make_operator(
        effect_by=EffectBy("method", {"GET": Effect.IDEMPOTENT}), secrets=["KEY"], tags=["a"], resources={"num_cpus": 2}
    )
    assert ComponentSpec.from_manifest(spec.manifest()) == spec


@pytest.mark.parametrize("data", [None, {}, {"name": "x"}, {"name": "x", "kind": "node", "target": "a:b", "oops": 1}])
def test_a_manifest_that_is_none_is_refused(data: Any) -> None:
    with pytest.raises(RefusedError):
        ComponentSpec.from_manifest(data)


def test_versions_sort_by_number_and_pre_releases_first() -> None:
    versions = ["1.10.0", "1.2.0", "2.0.0-rc2", "1.2", "2.0.0", "2.0.0-rc10", "2.0.0-alpha"]
    assert sorted(versions, key=version_key) == [
        "1.2.0",
        "1.2",
        "1.10.0",
        "2.0.0-alpha",
        "2.0.0-rc2",
        "2.0.0-rc10",
        "2.0.0",
    ]


def test_the_door_is_sorted_complete_and_lazy() -> None:
    assert flowmason.__all__ == sorted(flowmason.__all__)
    for name in flowmason.__all__:
        assert getattr(flowmason, name) is not None
    code = "import sys, flowmason; from flowmason import node; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nodes'"):
        flowmason.nodes  # noqa: B018
