from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.document import as_pipeline, located, parse_document
from flowmason.errors import Fault, RefusedError
from flowmason.inherit import chain, resolve, trace
from flowmason.pipeline import Pipeline, dump_pipeline, parse_pipeline


def parse(value: Any) -> Pipeline:
    faults: list[Fault] = []
    pipeline = parse_pipeline(value, faults)
    assert pipeline is not None, faults
    return pipeline


def library(*values: dict[str, Any]) -> Callable[[str], Pipeline]:
    found = {}
    for value in values:
        pipeline = parse(value)
        found[pipeline.name] = found[pipeline.reference] = pipeline
    return found.__getitem__


def resolved(child: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    return dump_pipeline(resolve(parse(child), library(*others)))


def faults_of(child: dict[str, Any], *others: dict[str, Any]) -> list[Fault]:
    with pytest.raises(RefusedError) as caught:
        resolve(parse(child), library(*others))
    return list(caught.value.faults)


BASE: dict[str, Any] = {
    "name": "base",
    "version": "2.0.0",
    "abstract": True,
    "description": "The base.",
    "category": "c",
    "tags": ["a", "b"],
    "input_schema": {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]},
    "stages": [
        {"id": "load", "component_type": "abstract"},
        {
            "id": "clean", "component_type": "logger", "timeout_ms": 500,
            "config": {"message": "m", "tags": {"x": 1, "y": 2}},
        },
        {"id": "gate", "component_type": "conditional", "config": {"condition": True, "true_branch_stages": ["clean"]}},
    ],
    "output_stage_id": "clean",
    "sample_input": {"a": "x"},
    "x-base": 1,
}  # fmt: skip


def test_a_pipeline_without_relations_stays_as_it_is() -> None:
    value = {"name": "p", "stages": [{"id": "a", "component_type": "logger"}], "x-a": 1}
    assert resolved(value) == value


def test_a_child_is_merged_over_its_base() -> None:
    child = {
        "name": "child",
        "extends": "base",
        "tags": ["c", "a"],
        "category": "d",
        "input_schema": {"properties": {"b": {"type": "null"}, "c": {}}, "required": ["c", "a"]},
        "overrides": {
            "load": {"component": "http-request", "config": {"url": "u"}},
            "clean": {"config": {"tags": {"y": 3, "z": 4}}, "timeout_ms": None},
            "gate": {"config": {"true_branch": "last"}},
        },
        "stages": [{"id": "last", "component_type": "logger"}],
        "x-child": 2,
    }
    assert resolved(child, BASE) == {
        "name": "child",
        "description": "The base.",
        "category": "d",
        "tags": ["a", "b", "c"],
        "input_schema": {
            "type": "object",
            "properties": {"a": {"type": "string"}, "b": {"type": "null"}, "c": {}},
            "required": ["a", "c"],
        },
        "sample_input": {"a": "x"},
        "stages": [
            {"id": "load", "component_type": "http_request", "config": {"url": "u"}},
            {"id": "clean", "component_type": "logger", "config": {"message": "m", "tags": {"x": 1, "y": 3, "z": 4}}},
            {
                "id": "gate",
                "component_type": "conditional",
                "config": {"condition": True, "true_branch_stages": ["last"]},
            },
            {"id": "last", "component_type": "logger"},
        ],
        "output_stage_id": "clean",
        "x-base": 1,
        "x-child": 2,
    }


def test_a_stage_of_the_same_id_replaces_the_inherited_one_in_its_place() -> None:
    child = {"name": "child", "extends": "base@2.0.0", "stages": [{"id": "load", "component_type": "logger"}]}
    found = resolved(child, BASE)["stages"]
    assert [stage["id"] for stage in found] == ["load", "clean", "gate"]
    assert found[0] == {"id": "load", "component_type": "logger"}


def test_a_chain_is_resolved_from_its_base() -> None:
    middle = {"name": "middle", "extends": "base", "abstract": True, "overrides": {"clean": {"timeout_ms": 900}}}
    child = {
        "name": "child",
        "extends": "middle",
        "overrides": {"clean": {"config": {"message": "n"}}, "load": {"type": "x"}},
    }
    stages = resolved(child, middle, BASE)["stages"]
    assert stages[0]["component_type"] == "x"
    assert stages[1] == {
        "id": "clean",
        "component_type": "logger",
        "config": {"message": "n", "tags": {"x": 1, "y": 2}},
        "timeout_ms": 900,
    }
    ancestors = chain(parse(child), library(middle, BASE))
    assert [pipeline.name for pipeline in ancestors] == ["child", "middle", "base"]


def test_a_replaced_value_is_one_even_where_it_is_the_default() -> None:
    base = {
        "name": "base",
        "stages": [{"id": "a", "type": "c", "retry_config": {"max_retries": 5, "max_delay_ms": 2000}}],
    }
    child = {"name": "child", "extends": "base", "overrides": {"a": {"retry_config": {"max_retries": 3}}}}
    retry = resolve(parse(child), library(base)).stages[0].retry_config
    assert retry is not None
    assert (retry.max_retries, retry.max_delay_ms) == (3, 2000)


def test_an_override_of_an_unknown_stage_is_refused_with_the_nearest_name() -> None:
    child = {"name": "child", "extends": "base", "abstract": True, "overrides": {"claen": {"name": "x"}}}
    [fault] = faults_of(child, BASE)
    assert (fault.pointer, fault.nearest) == ("$.overrides.claen", "clean")


def test_an_override_is_checked_against_the_merged_stage() -> None:
    child = {
        "name": "child",
        "extends": "base",
        "abstract": True,
        "overrides": {
            "gate": {"config": {"true_branch": 5, "false_branch": "a", "false_stages": "b"}},
            "load": {"id": "x"},
        },
    }
    assert [fault.pointer for fault in faults_of(child, BASE)] == [
        "$.overrides.gate.config.true_branch",
        "$.overrides.gate.config.false_stages",
        "$.overrides.load.id",
    ]


@pytest.mark.parametrize(
    ("child", "pointer", "reason"),
    [
        ({"overrides": {"a": {}}}, "$.overrides.a", "extends no other"),
        ({"extends": "none"}, "$.extends", "no pipeline 'none'"),
        ({"extends": "child"}, "$.extends", "child → child"),
        ({"extends": "ring"}, "$.extends", "child → ring → child"),
        ({"extends": "base"}, "$.extends", "'load' is abstract"),
        (
            {"extends": "base", "overrides": {"load": {}}, "stages": [{"id": "load", "type": "c"}]},
            "$.overrides.load", "both overridden and replaced",
        ),
        ({"stages": [{"id": "a", "type": "abstract"}]}, "$.stages[0].component_type", "'a' is abstract"),
        ({"extends": "composed", "overrides": {"part": {}}}, "$.overrides.part", "is a composition"),
        ({"extends": "composed", "stages": [{"id": "part", "type": "c"}]}, "$.stages[0].id", "inherited composition"),
        ({"extends": "wrong"}, "$.extends", "(in 'wrong', $.overrides.x)"),
    ],
)  # fmt: skip
def test_wrong_relations_are_refused_in_their_place(child: dict[str, Any], pointer: str, reason: str) -> None:
    others = (
        BASE,
        {"name": "ring", "extends": "child"},
        {"name": "composed", "compositions": [{"id": "part", "pipeline": "x"}]},
        {"name": "wrong", "overrides": {"x": {}}},
    )
    value = {"name": "child", **child}
    [fault] = faults_of(value, *others, value)
    assert fault.pointer == pointer
    assert reason in fault.reason


def test_compositions_become_stages() -> None:
    base = {"name": "base", "compositions": [{"id": "one", "pipeline": "x"}, {"id": "two", "pipeline": "y"}]}
    child = {
        "name": "child",
        "extends": "base",
        "stages": [{"id": "first", "component_type": "logger"}],
        "compositions": [
            {
                "id": "one", "pipeline": "z@2", "depends_on": ["first"],
                "input_mapping": {"a": "{{input}}"}, "output_mapping": {"b": "c"},
            }
        ],
    }  # fmt: skip
    assert resolved(child, base) == {
        "name": "child",
        "stages": [
            {"id": "first", "component_type": "logger"},
            {
                "id": "one",
                "component_type": "subpipeline",
                "depends_on": ["first"],
                "config": {"pipeline_id": "z@2", "input_data": {"a": "{{input}}"}, "output_mapping": {"b": "c"}},
            },
            {"id": "two", "component_type": "subpipeline", "config": {"pipeline_id": "y", "input_data": {}}},
        ],
    }


@pytest.mark.parametrize(
    ("stage", "rest", "pointer", "line"),
    [
        ("load", "component_type", "$.overrides.load.type", 3),
        ("clean", "config.message", "$.overrides.clean.config.message", 4),
        ("clean", "timeout_ms", "$.extends", 2),
        ("gate", "config.condition", "$.extends", 2),
        ("own", "config.url", "$.stages[0].config.url", 5),
        ("part", "config.input_data.a", "$.compositions[0].input_mapping.a", 6),
        ("part", "config.pipeline_id", "$.compositions[0].pipeline", 6),
    ],
)
def test_a_later_fault_is_placed_in_the_file_at_hand(stage: str, rest: str, pointer: str, line: int) -> None:
    document = parse_document(
        """{"name": "child",
 "extends": "base",
 "overrides": {"load": {"type": "c"},
   "clean": {"config": {"message": "n"}}},
 "stages": [{"id": "own", "type": "c", "config": {"url": "u"}}],
 "compositions": [{"id": "part", "pipeline": "x", "input_mapping": {"a": 1}}]}"""
    )
    found = trace(as_pipeline(document), library(BASE))
    index = [each.id for each in found.pipeline.stages].index(stage)  # type: ignore[arg-type]
    fault = located(found.relocate(Fault("wrong", f"$.stages[{index}].{rest}")), document)
    assert (fault.pointer, fault.line) == (pointer, line)
    assert ("inherited from 'base'" in fault.reason) == (pointer == "$.extends")


def test_endless_chains_are_refused() -> None:
    def find(name: str) -> Pipeline:
        return parse({"name": f"p{int(name[1:]) + 1}", "extends": f"p{int(name[1:]) + 1}"})

    with pytest.raises(RefusedError, match="more than 20"):
        resolve(parse({"name": "p0", "extends": "p0"}), find)


ids = st.sampled_from(["a", "b", "c", "d"])
stage_lists = st.lists(ids, unique=True, max_size=4)


@given(st.lists(stage_lists, min_size=1, max_size=4), st.data())
def test_inherited_stages_keep_their_order_and_nothing_is_lost(levels: list[list[str]], data: st.DataObject) -> None:
    values = []
    for number, listed in enumerate(levels):
        value: dict[str, Any] = {"name": f"p{number}", "tags": [f"t{number}", "t"]}
        value["stages"] = [{"id": name, "type": "c", "config": {"level": number}} for name in listed]
        if number:
            value["extends"] = f"p{number - 1}"
            inherited = sorted({name for level in levels[:number] for name in level} - set(listed))
            chosen = data.draw(st.lists(st.sampled_from(inherited), unique=True)) if inherited else []
            value["overrides"] = {name: {"config": {"by": number}} for name in chosen}
        values.append(value)
    found = resolve(parse(values[-1]), library(*values))
    assert [stage.id for stage in found.stages] == list(dict.fromkeys(name for level in levels for name in level))
    for stage in found.stages:
        level = max(number for number, listed in enumerate(levels) if stage.id in listed)
        overriding = [n for n, value in enumerate(values) if n > level and stage.id in value.get("overrides", {})]
        assert stage.config == {"level": level, **({"by": overriding[-1]} if overriding else {})}
    assert found.tags == ("t0", "t", *(f"t{number}" for number in range(1, len(levels))))
    assert resolve(found, library()) == found
