from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.document import load_pipeline, located, parse_document, parse_pipeline_text
from flowmason.errors import Fault, RefusedError
from flowmason.pipeline import parse_pipeline, pipeline_json_schema
from flowmason.pipeline.json_schema import schema_text
from flowmason.pipeline.schemas import check_schema

pytestmark = pytest.mark.wheel


def faults_of(value: Any) -> list[Fault]:
    faults: list[Fault] = []
    assert parse_pipeline(value, faults) is None
    assert faults
    return faults


def with_stage(**keys: Any) -> dict[str, Any]:
    return {"name": "p", "stages": [{"id": "s", "component": "logger", **keys}]}


@pytest.mark.parametrize(
    ("value", "pointer", "reason", "nearest"),
    [
        ([], "$", "expected a pipeline", None),
        (None, "$", "expected a pipeline", None),
        ({}, "$", "'name' is missing", None),
        ({"name": ""}, "$.name", "expected a name", None),
        ({"name": "a@1"}, "$.name", "without '@'", None),
        ({"name": 5}, "$.name", "found 5", None),
        ({"name": "p", "stage": []}, "$.stage", "unknown key 'stage'", "stages"),
        ({"name": "p", "outputSchema": {}}, "$.outputSchema", "unknown key", "output_schema"),
        ({"name": "p", "version": 1.0}, "$.version", "a string", None),
        ({"name": "p", "stages": {}}, "$.stages", "a list of stages, found an object", None),
        ({"name": "p", "status": "publish"}, "$.status", "draft, published", "published"),
        ({"name": "p", "max_concurrency": 0}, "$.max_concurrency", "at least 1", None),
        ({"name": "p", "max_concurrency": True}, "$.max_concurrency", "whole number", None),
        ({"name": "p", "budget": {"max_cost": 0.5}}, "$.budget.max_cost", "decimal string", None),
        ({"name": "p", "extends": "a@@1"}, "$.extends", "name@version", None),
        ({"name": "p", "input": {}, "input_schema": {}}, "$.input_schema", "two spellings", None),
        ({"name": "p", "input_schema": {"type": "strin"}}, "$.input_schema.type", "type must be one of", None),
        ({"name": "p", "output": {"required": "a"}}, "$.output.required", "list of names", None),
        ({"name": "p", "overrides": {"a": {"timeout": 5}}}, "$.overrides.a.timeout", "unknown key", "timeout_ms"),
        ({"name": "p", "compositions": [{"id": "a"}]}, "$.compositions[0]", "'pipeline' is missing", None),
        (
            {"name": "p", "output_config": {"destinations": [{"id": "a", "type": "web"}]}},
            "$.output_config.destinations[0].type", "webhook", "webhook",
        ),
        (with_stage(id="a.b"), "$.stages[0].id", "expected a stage id", None),
        (with_stage(id="1a"), "$.stages[0].id", "expected a stage id", None),
        (with_stage(id="upstream"), "$.stages[0].id", "meaning of its own", None),
        (with_stage(type="x"), "$.stages[0].type", "two spellings", None),
        (with_stage(dependsOn=[]), "$.stages[0].dependsOn", "unknown key", "depends_on"),
        (with_stage(depends_on="a"), "$.stages[0].depends_on", "a list of stage ids, found 'a'", None),
        (with_stage(depends_on=["a", 1]), "$.stages[0].depends_on[1]", "found 1", None),
        (with_stage(depends_on=["a", "a"]), "$.stages[0].depends_on[1]", "listed twice", None),
        (with_stage(config=[]), "$.stages[0].config", "an object, found a list", None),
        (with_stage(timeout_ms=99), "$.stages[0].timeout_ms", "from 100", None),
        (with_stage(timeout_ms=7 * 24 * 3600 * 1000 + 1), "$.stages[0].timeout_ms", "from 100", None),
        (with_stage(timeout_ms="100"), "$.stages[0].timeout_ms", "whole number", None),
        (with_stage(retry_config={"max_retries": 11}), "$.stages[0].retry_config.max_retries", "0 to 10", None),
        (with_stage(resources={"gpus": 1}), "$.stages[0].resources.gpus", "unknown key", "num_gpus"),
        (with_stage(resources={"num_gpus": -1}), "$.stages[0].resources.num_gpus", "at least 0", None),
        (with_stage(llm_settings={"temperature": 3}), "$.stages[0].llm_settings.temperature", "0 to 2", None),
        (with_stage(position={"x": 1}), "$.stages[0].position", "'y' is missing", None),
        (with_stage(provider="a", llm_settings={"provider": "b"}), "$.stages[0].provider", "says 'b'", None),
        (
            with_stage(component="foreach", config={"stages": ["a"], "loop_stages": ["a"]}),
            "$.stages[0].config.loop_stages", "two spellings of one input", None,
        ),
        (
            with_stage(component="router", input_mapping={"routes": {"a": 5}}),
            "$.stages[0].input_mapping.routes.a", "a stage id or a list", None,
        ),
        (
            with_stage(component="conditional", config={"true_branch": ["a", "{{x}}"]}),
            "$.stages[0].config.true_branch[1]", "the id of a stage", None,
        ),
        (
            {"name": "p", "stages": [{"id": "a", "type": "c"}, {"id": "a", "type": "c"}]},
            "$.stages[1].id", "taken by $.stages[0]", None,
        ),
        (
            {"name": "p", "stages": [{"id": "a", "type": "c"}], "compositions": [{"id": "a", "pipeline": "x"}]},
            "$.compositions[0].id", "taken by $.stages[0]", None,
        ),
    ],
)  # fmt: skip
def test_a_fault_has_place_reason_and_nearest_name(value: Any, pointer: str, reason: str, nearest: str | None) -> None:
    [fault] = faults_of(value)
    assert (fault.pointer, fault.nearest) == (pointer, nearest)
    assert reason in fault.reason


def test_all_faults_are_found_at_once_in_file_order(tmp_path: Path) -> None:
    file = tmp_path / "bad.pipeline.json"
    file.write_text(
        """{
  "nme": "p",
  "stages": [
    {"id": "a", "component": "logger", "confg": {}},
    {"id": "a", "component": "router",
     "config": {"routes": {"x": 1}}, "timeout_ms": 1},
    7
  ],
  "input": {"type": "text"}
}"""
    )
    with pytest.raises(RefusedError) as caught:
        load_pipeline(file)
    assert [(fault.pointer, fault.line, fault.column) for fault in caught.value.faults] == [
        ("$.nme", 2, 3),
        ("$.stages[0].confg", 4, 40),
        ("$.stages[1].id", 5, 6),
        ("$.stages[1].config.routes.x", 6, 28),
        ("$.stages[1].timeout_ms", 6, 38),
        ("$.stages[2]", 7, 5),
        ("$.input.type", 9, 13),
    ]
    assert {fault.file for fault in caught.value.faults} == {str(file)}


def test_faults_in_yaml_have_places_too() -> None:
    with pytest.raises(RefusedError) as caught:
        parse_pipeline_text(
            "name: p\nversion: 1.0\nstages:\n  - id: a\n    type: c\n    timeout_ms: no\n", format="yaml"
        )
    assert [(fault.pointer, fault.line, fault.column) for fault in caught.value.faults] == [
        ("$.version", 2, 1),
        ("$.stages[0].timeout_ms", 6, 5),
    ]


@pytest.mark.parametrize(
    ("canonical", "written"),
    [
        ("$.stages[0].component_type", "$.stages[0].type"),
        ("$.stages[0].component", "$.stages[0].type"),
        ("$.stages[0].config.loop_stages[1]", "$.stages[0].input_mapping.stages[1]"),
        ("$.input_schema.properties", "$.input.properties"),
    ],
)
def test_a_canonical_pointer_finds_what_the_file_spells_otherwise(canonical: str, written: str) -> None:
    text = """{"name": "p", "input": {"properties": {}},
 "stages": [{"id": "a", "type": "foreach", "config": {"items": []}, "input_mapping": {"stages": ["x", "y"]}}]}"""
    fault = located(Fault("wrong", canonical), parse_document(text, file="f.json"))
    assert fault.pointer == written
    assert fault.line == (1 if "input." in written else 2)
    assert fault.file == "f.json"


def test_a_fault_with_a_place_is_left_alone() -> None:
    fault = Fault("wrong", "$.a", line=3, column=4)
    assert located(fault, parse_document('{"a": 1}')) == fault


def test_the_committed_schema_is_that_of_the_code() -> None:
    import flowmason.pipeline

    committed = Path(flowmason.pipeline.__file__).parent / "pipeline.schema.json"
    assert committed.read_text() == schema_text()


@pytest.mark.parametrize(
    "value",
    [
        {"name": "p", "stage": []},
        with_stage(timeout_ms=1),
        with_stage(type="x"),
        with_stage(retry_config={"retries": 1}),
        {"name": "p", "stages": [{"id": "a"}]},
        {"name": "p", "input": {}, "input_schema": {}},
        {"name": "p", "status": "x"},
        {"name": "p", "overrides": {"a": {"timeout": 1}}},
    ],
)
def test_the_json_schema_refuses_what_the_parser_refuses(value: dict[str, Any]) -> None:
    import jsonschema

    assert faults_of(value)
    assert not jsonschema.Draft202012Validator(pipeline_json_schema()).is_valid(value)


keywords = st.sampled_from(
    ["type", "properties", "items", "required", "enum", "anyOf", "minLength", "minimum", "multipleOf", "uniqueItems",
     "additionalProperties", "patternProperties", "dependentRequired", "$defs", "title", "not", "prefixItems", "const"]
)  # fmt: skip
parts = st.recursive(
    st.sampled_from(["string", "object", "a", "text", 0, 1, -1, 1.5, True, None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keywords, parts, max_size=4))
def test_schemas_are_judged_as_the_standard_judges_them(schema: dict[str, Any]) -> None:
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        sound = True
    except jsonschema.SchemaError:
        sound = False
    assert (not list(check_schema(schema))) == sound


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/none"}}, "$defs": {}}, ("properties", "a", "$ref")),
        ({"$ref": "https://example.org/schema"}, ("$ref",)),
        ({"$ref": "#nowhere"}, ("$ref",)),
        ({"$ref": "#/title", "title": "x"}, ("$ref",)),
        ({"properties": {"a": {"pattern": "("}}}, ("properties", "a", "pattern")),
        ({"patternProperties": {"[": {}}}, ("patternProperties", "[")),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, ("$schema",)),
    ],
)
def test_schemas_that_would_fail_later_are_refused_now(schema: dict[str, Any], place: tuple[str, ...]) -> None:
    [(found, _)] = check_schema(schema)
    assert found == place


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a~1b/items", "$defs": {"a/b": {"items": {"type": "string"}}}},
        {"$ref": "#here", "$defs": {"x": {"$anchor": "here"}}},
        {"properties": {"child": {"$ref": "#"}}},
        {"items": True, "contains": False, "discriminator": {"propertyName": "x"}},
    ],
)
def test_references_into_the_schema_are_followed(schema: dict[str, Any]) -> None:
    assert not list(check_schema(schema))


def test_reading_a_pipeline_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, flowmason.document as d;"
        'd.parse_pipeline_text(\'{"name": "p", "input": {"properties": {"a": {"type": "string"}}}}\');'
        "print(sorted(set(sys.modules) & {'ray', 'pydantic', 'jsonschema', 'yaml', 'sqlalchemy', 'rich', 'typer'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
