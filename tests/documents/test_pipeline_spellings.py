import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.errors import Fault
from flowmason.pipeline import (
    LLMSettings,
    Pipeline,
    Stage,
    dump_pipeline,
    format_pointer,
    parse_pipeline,
    parse_pointer,
    unbuilt,
)
from flowmason.pipeline.keys import COMPOSITION, PIPELINE, STAGE
from flowmason.policy import Resources, RetryPolicy

EVERYTHING: dict[str, Any] = {
    "$schema": "https://flowmason.dev/schemas/pipeline.schema.json",
    "id": "p-1",
    "name": "triage",
    "version": "1.2.0-rc.1",
    "description": "Sorts tickets.",
    "extends": "base@1.0",
    "abstract": True,
    "category": "support",
    "tags": ["b", "a"],
    "status": "draft",
    "is_template": True,
    "input_schema": {
        "type": "object", "properties": {"text": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"type": "string"}},
    },
    "output_schema": {"type": "object"},
    "variables": {"v": 1},
    "sample_input": {},
    "max_concurrency": 4,
    "budget": {"max_cost": "0.50", "max_tokens": 1000},
    "stages": [
        {
            "id": "draft-1",
            "component_type": "http_request",
            "name": "Draft",
            "depends_on": ["clean"],
            "config": {"url": "https://example.org", "b": {"z": 1, "a": None}},
            "input_mapping": {"body": "{{input.text}}"},
            "llm_settings": {
                "provider": "mock", "model": "m", "temperature": 0,
                "max_tokens": 5, "top_p": 0.5, "stop_sequences": ["x"],
            },
            "provider": "mock",
            "timeout_ms": 20000,
            "retry_config": {
                "max_retries": 0, "initial_delay_ms": 100, "max_delay_ms": 1000, "backoff_multiplier": 1.5,
            },
            "resources": {
                "num_cpus": 0.5, "num_gpus": 1, "memory": 1024, "accelerator_type": "T4", "custom": {"disk": 2},
            },
            "budget": {"max_tokens": 10},
            "condition": "{{input.go}}",
            "skip_if": False,
            "skip_output": {"a": 1},
            "federation": {"strategy": "nearest", "regions": ["eu"], "aggregation": "merge"},
            "component_package": "org/pkg@1.0",
            "position": {"x": 1, "y": 2.5},
            "extra": {"k": [1]},
            "x-note": "kept",
        }
    ],
    "overrides": {"clean": {"timeout_ms": 100}},
    "compositions": [
        {
            "id": "inner", "pipeline": "other@2", "input_mapping": {"a": 1}, "output_mapping": {"b": "c.d"},
            "depends_on": ["draft-1"], "extra": {"q": 1}, "x-c": 1,
        }
    ],
    "output_stage_id": "draft-1",
    "output_config": {
        "destinations": [
            {
                "id": "d", "type": "webhook", "name": "D", "enabled": False,
                "config": {"url": "u"}, "error_types": ["TIMEOUT"],
            }
        ],
        "allow_caller_destinations": False,
    },
    "triggers": {"natural_language": {"patterns": ["sort {x}"], "entities": {}, "keywords": ["sort"]}},
    "schedule": "0 * * * *",
    "federation": {"enabled": False, "default_strategy": "parallel"},
    "extra": {"k": 1},
    "x-team": {"a": 1},
}  # fmt: skip


def parse(value: Any) -> Pipeline:
    faults: list[Fault] = []
    pipeline = parse_pipeline(value, faults)
    assert not faults
    assert pipeline is not None
    return pipeline


def stage(**keys: Any) -> Stage:
    return parse({"name": "p", "stages": [{"id": "s", **keys}]}).stages[0]


def test_every_key_survives_in_value_and_order() -> None:
    assert json.dumps(dump_pipeline(parse(EVERYTHING))) == json.dumps(EVERYTHING)


@pytest.mark.parametrize(("record", "example"), [(PIPELINE, EVERYTHING), (STAGE, EVERYTHING["stages"][0])])
def test_the_example_above_holds_every_key(record: Any, example: dict[str, Any]) -> None:
    assert [key for key in example if not key.startswith("x-")] == list(record.keys)
    assert list(COMPOSITION.keys) == [key for key in EVERYTHING["compositions"][0] if not key.startswith("x-")]


def test_keys_that_are_not_set_are_not_written() -> None:
    value = {"name": "p", "stages": [{"id": "s", "component": "logger", "config": {}, "timeout_ms": None}], "tags": []}
    assert dump_pipeline(parse(value)) == {"name": "p", "stages": [{"id": "s", "component_type": "logger"}]}


@pytest.mark.parametrize("key", ["component", "component_type", "type"])
@pytest.mark.parametrize("name", ["http-request", "http_request"])
def test_components_are_spelled_in_many_ways(key: str, name: str) -> None:
    assert stage(**{key: name}).component == "http_request"


@pytest.mark.parametrize("which", ["input", "output"])
def test_schemas_are_spelled_in_two_ways(which: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert parse({"name": "p", which: schema}) == parse({"name": "p", f"{which}_schema": schema})


@pytest.mark.parametrize("place", ["config", "input_mapping"])
@pytest.mark.parametrize(
    ("component", "written", "canonical"),
    [
        ("conditional", {"true_branch": "a"}, {"true_branch_stages": ["a"]}),
        ("conditional", {"true_branch": ["a", "b"]}, {"true_branch_stages": ["a", "b"]}),
        ("conditional", {"false_branch": "a"}, {"false_branch_stages": ["a"]}),
        ("conditional", {"true_stages": ["a"]}, {"true_branch_stages": ["a"]}),
        ("conditional", {"false_stages": ["a"]}, {"false_branch_stages": ["a"]}),
        ("conditional", {"true_branch": None}, {"true_branch_stages": []}),
        ("router", {"routes": {"x": "a", "y": ["b"]}}, {"routes": {"x": ["a"], "y": ["b"]}}),
        ("router", {"default": "a"}, {"default_route": ["a"]}),
        ("foreach", {"stages": ["a"]}, {"loop_stages": ["a"]}),
        ("foreach", {"max_concurrency": 3}, {"max_parallel": 3}),
        ("trycatch", {"on_error": "continue"}, {"error_scope": "continue"}),
        ("trycatch", {"try_stages": "a"}, {"try_stages": ["a"]}),
        ("subpipeline", {"pipeline": "x"}, {"pipeline_id": "x"}),
        ("subpipeline", {"input": {"a": 1}}, {"input_data": {"a": 1}}),
        ("subpipeline", {"on_error": "ignore"}, {"on_error": "ignore"}),
        ("return", {"value": 1}, {"return_value": 1}),
        ("logger", {"value": 1, "stages": "x"}, {"value": 1, "stages": "x"}),
    ],
)
def test_control_flow_inputs_have_one_spelling(place: str, component: str, written: Any, canonical: Any) -> None:
    found = stage(component=component, **{place: written})
    assert getattr(found, place) == canonical
    assert found.inputs == canonical
    assert stage(component=component, **{place: canonical}) == found


def test_the_mapping_wins_over_the_config_and_both_survive() -> None:
    found = stage(component="foreach", config={"stages": "a", "parallel": True}, input_mapping={"loop_stages": ["b"]})
    assert found.inputs == {"loop_stages": ["b"], "parallel": True}
    assert found.config == {"loop_stages": ["a"], "parallel": True}
    assert (found.input_key("loop_stages"), found.input_key("parallel")) == ("input_mapping", "config")


def test_a_retry_config_has_its_documented_defaults() -> None:
    assert stage(component="c", retry_config={}).retry_config == RetryPolicy(max_retries=3)
    assert stage(component="c", retry_config={"max_retries": 0}).retry_config == RetryPolicy(max_retries=0)
    assert stage(component="c").retry_config is None
    assert stage(component="c", resources={}).resources == Resources()


def test_the_older_provider_key_is_part_of_the_llm_settings() -> None:
    assert stage(component="c", provider="mock").llm == LLMSettings(provider="mock")
    assert stage(component="c", provider="mock", llm_settings={"model": "m"}).llm == LLMSettings("mock", "m")
    assert stage(component="c").llm is None


def test_unbuilt_features_are_named() -> None:
    value = {
        "name": "p",
        "federation": {"enabled": True},
        "output_config": {
            "destinations": [{"id": "a", "type": "email", "enabled": False}, {"id": "b", "type": "email"}]
        },
        "triggers": {},
        "schedule": {"cron": "0 * * * *"},
        "stages": [
            {"id": "a", "component": "c"},
            {"id": "b", "component": "c", "condition": "x", "skip_if": False, "skip_output": 0},
            {"id": "d", "component": "c", "federation": {}, "component_package": "o/p@1"},
        ],
    }
    assert {fault.pointer for fault in unbuilt(parse(value))} == {
        "$.federation.enabled",
        "$.output_config.destinations[1]",
        "$.stages[1].condition",
        "$.stages[1].skip_if",
        "$.stages[1].skip_output",
        "$.stages[2].federation",
        "$.stages[2].component_package",
    }
    assert {fault.code for fault in unbuilt(parse(value))} == {"NOT_SUPPORTED"}
    quiet = {**value, "federation": {"enabled": False}, "output_config": None}
    quiet["stages"] = [{"id": "a", "component": "c", "federation": {"regions": ["eu"]}}]
    assert unbuilt(parse(quiet)) == ()


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, plain, max_size=3)


def some_of(**keys: Any) -> Any:
    return st.fixed_dictionaries({}, optional=keys)


controls = {
    "conditional": st.fixed_dictionaries(
        {"condition": plain},
        optional={"true_branch": names | st.lists(names, max_size=2), "false_stages": st.lists(names)},
    ),
    "router": st.fixed_dictionaries(
        {"routes": st.dictionaries(texts, names | st.lists(names, max_size=2), max_size=2)}, optional={"default": names}
    ),
    "foreach": st.fixed_dictionaries({"items": plain, "stages": st.lists(names, max_size=2)}),
    "trycatch": st.fixed_dictionaries({"try_stages": names}, optional={"on_error": st.sampled_from(["continue"])}),
    "subpipeline": st.fixed_dictionaries({"pipeline": names}, optional={"input": objects}),
    "return": st.fixed_dictionaries({"value": plain}),
}
optional_keys = {
    "name": texts,
    "depends_on": st.lists(names, max_size=3, unique=True),
    "input_mapping": objects,
    "timeout_ms": st.integers(100, 10**6),
    "retry_config": some_of(max_retries=st.integers(0, 10), backoff_multiplier=st.floats(1, 5)),
    "resources": some_of(num_cpus=st.floats(0, 8), custom=st.dictionaries(texts, st.integers(0, 3))),
    "llm_settings": some_of(model=texts, temperature=st.floats(0, 2), stop_sequences=st.lists(texts)),
    "position": st.fixed_dictionaries({"x": st.integers(), "y": st.floats(-1e6, 1e6)}),
    "condition": plain,
    "extra": objects,
    "x-mine": plain,
}  # fmt: skip
spelling = st.sampled_from(["component", "component_type", "type"])


@st.composite
def stages(draw: st.DrawFn) -> dict[str, Any]:
    chosen = draw(st.sampled_from(["logger", "http-request", *controls]))
    config = draw(controls[chosen]) if chosen in controls else draw(objects)
    return {
        "id": "s",
        draw(spelling): chosen,
        "config": config,
        **draw(st.fixed_dictionaries({}, optional=optional_keys)),
    }


@st.composite
def pipelines(draw: st.DrawFn) -> dict[str, Any]:
    listed = draw(st.lists(stages(), max_size=4))
    value: dict[str, Any] = {"stages": [{**item, "id": f"s{index}"} for index, item in enumerate(listed)], "name": "p"}
    value |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "tags": st.lists(texts, max_size=3),
                "sample_input": objects,
                "max_concurrency": st.integers(1, 9),
                "input": st.just({"type": "object", "properties": {"a": {"type": "string"}}}),
                "overrides": st.dictionaries(names, st.fixed_dictionaries({}, optional=optional_keys), max_size=2),
                "x-mine": plain,
            },
        )
    )
    return value


@given(pipelines())
def test_what_is_written_is_read_as_the_same(value: dict[str, Any]) -> None:
    pipeline = parse(value)
    written = dump_pipeline(pipeline)
    assert parse(written) == pipeline
    assert json.dumps(dump_pipeline(parse(written))) == json.dumps(written)


@given(pipelines())
def test_the_json_schema_accepts_what_the_parser_accepts(value: dict[str, Any]) -> None:
    assert not list(itertools.islice(validator().iter_errors(value), 1))
    assert not list(itertools.islice(validator().iter_errors(dump_pipeline(parse(value))), 1))


_validators: list[Any] = []


def validator() -> Any:
    if not _validators:
        import jsonschema

        from flowmason.pipeline import pipeline_json_schema

        jsonschema.Draft202012Validator.check_schema(pipeline_json_schema())
        _validators.append(jsonschema.Draft202012Validator(pipeline_json_schema()))
    return _validators[0]


@given(st.lists(st.integers(0, 99) | st.text(max_size=5)))
def test_pointers_are_read_back(path: list[str | int]) -> None:
    assert parse_pointer(format_pointer(tuple(path))) == tuple(path)
