"""A file with many faults of every kind: each is told once, and nothing is told that only follows from another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiling_kit import BY_NAME, finder
from flowmason.compiler import compile_pipeline, survey_pipeline
from flowmason.errors import Fault
from flowmason.pipeline import parse_pipeline, sketch_pipeline

WHOLE: dict[str, Any] = {
    "name": "whole",
    "version": "1.2.0",
    "input_schema": {"type": "object", "properties": {"text": {"type": "string"}, "list": {"type": "array"}}},
    "output_stage_id": "report",
    "stages": [
        {"id": "fetch", "component_type": "shout", "timeout_ms": 5000, "config": {"text": "{{input.text}}"}},
        {"id": "remember", "component_type": "variable_set", "depends_on": ["fetch"],
         "config": {"name": "tone", "value": "{{upstream.fetch.text}}"}},
        {"id": "judge", "component_type": "conditional",
         "config": {"condition": "{{upstream.fetch.text}} == 'a'",
                    "true_branch": ["praise"], "false_branch": ["scold"]}},
        {"id": "praise", "component_type": "shout", "depends_on": ["remember"], "config": {"text": "{{context.tone}}"}},
        {"id": "scold", "component_type": "shout", "retry_config": {"max_retries": 1}, "config": {"text": "no"}},
        {"id": "sweep", "component_type": "foreach",
         "config": {"items": "{{input.list}}", "loop_stages": ["wash", "dry"]}},
        {"id": "wash", "component_type": "shout", "config": {"text": "{{item}} {{index}}"}},
        {"id": "dry", "component_type": "echo", "config": {"value": "{{upstream.wash.text}} {{item}}"}},
        {"id": "careful", "component_type": "trycatch",
         "config": {"try_stages": ["risky"], "catch_stages": ["mend"]}},
        {"id": "risky", "component_type": "shout", "config": {"text": "{{upstream.fetch.text}}"}},
        {"id": "mend", "component_type": "shout", "config": {"text": "{{error.message}} {{context.tone}}"},
         "depends_on": ["remember"]},
        {"id": "report", "component_type": "echo", "llm_settings": {"temperature": 1},
         "config": {"value": {"washed": "{{upstream.wash[0].text}}", "all": "{{upstream.sweep.results}}",
                              "praise": "{{upstream.praise.text}}", "tried": "{{upstream.careful.try_result}}"}}},
        {"id": "ping", "component_type": "echo", "config": {"value": 1}},
        {"id": "pong", "component_type": "echo", "config": {"value": "{{upstream.ping.value}}"}},
        {"id": "lonely", "component_type": "shout", "config": {"text": "alone", "times": 2}},
    ],
}  # fmt: skip
AT = {stage["id"]: index for index, stage in enumerate(WHOLE["stages"])}


def stage_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    stage = document["stages"][AT[name]]
    assert isinstance(stage, dict)
    return stage


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """A fault that puts a value at a path; a stage is named by its id."""

    def spoil(document: dict[str, Any]) -> None:
        here: Any = document
        steps = list(path)
        if steps[0] in AT:
            here = document["stages"]
            steps[0] = AT[str(steps[0])]
        for step in steps[:-1]:
            here = here[step]
        here[steps[-1]] = value

    return spoil


def rename(stage: str, old: str, new: str, *below: str) -> Callable[[dict[str, Any]], None]:
    def spoil(document: dict[str, Any]) -> None:
        here: Any = stage_of(document, stage) if stage else document
        for step in below:
            here = here[step]
        here[new] = here.pop(old)

    return spoil


def drop(stage: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: stage_of(document, stage).pop(key) and None


TYPE = "component_type"
Spoil = Callable[[dict[str, Any]], None]

FAULTS: list[tuple[str, str, str, Spoil]] = [
    # What it spoils (faults that spoil the same are not independent), where it is told, words of the reason, how.
    ("version", "$.version", "expected a version", put("version", value=1.0)),
    ("name", "$.nme", "unknown key 'nme'", rename("", "name", "nme")),
    ("input", "$.input_schema.type", "type must be one of", put("input_schema", "type", value="objct")),
    ("output dangling", "$.output_stage_id", "which is no stage", put("output_stage_id", value="reprot")),
    ("top", "$.wibble", "unknown key 'wibble'", put("wibble", value=1)),
    ("fetch nameless", "$.stages[0]", "expected a stage (an object), found 7", put("fetch", value=7)),
    ("fetch.id nameless", "$.stages[0].id", "expected a stage id", put("fetch", "id", value="no id")),
    ("fetch.id nameless", "$.stages[0]", "'id' is missing", drop("fetch", "id")),
    ("fetch.type", "$.stages[0].component_type", "name of a component", put("fetch", TYPE, value=1)),
    ("fetch.type", "$.stages[0].component_type", "no component", put("fetch", TYPE, value="shuot")),
    ("fetch.type", "$.stages[0]", "'component_type'", drop("fetch", "component_type")),
    ("fetch.timeout", "$.stages[0].timeout_ms", "from 100", put("fetch", "timeout_ms", value=1)),
    ("fetch.config", "$.stages[0].config", "an object", put("fetch", "config", value=[])),
    ("fetch.config", "$.stages[0].confg", "unknown key", rename("fetch", "config", "confg")),
    ("fetch.config fetch.type", "$.stages[0].config.txt", "no input 'txt'", rename("fetch", "text", "txt", "config")),
    ("fetch.config", "$.stages[0].config.text", "not closed", put("fetch", "config", "text", value="{{input.text")),
    ("fetch.config input", "$.stages[0].config.text", "txet", put("fetch", "config", "text", value="{{input.txet}}")),
    ("remember nameless", "$.stages[1]", "expected a stage", put("remember", value=None)),
    ("remember.type", "$.stages[1].component_type", "no component",
     put("remember", TYPE, value="variable_sett")),
    ("remember.config", "$.stages[1].config", "an object", put("remember", "config", value="x")),
    ("remember.config remember.type", "$.stages[1].config.name", "cannot be the name",
     put("remember", "config", "name", value="a b")),
    ("remember.config remember.type", "$.stages[1].config.naem", "no input",
     rename("remember", "name", "naem", "config")),
    ("remember.needs fetch.id dangling", "$.stages[1].depends_on[0]", "which is no stage",
     put("remember", "depends_on", 0, value="fecth")),
    ("judge", "$.stages[2].config.true_branch[0]", "the id of a stage",
     put("judge", "config", "true_branch", 0, value=1)),
    ("judge", "$.stages[2].config.true_branch", "a stage id or a list", put("judge", "config", "true_branch", value=1)),
    ("judge dangling", "$.stages[2].config.false_branch_stages[0]", "no stage",
     put("judge", "config", "false_branch", 0, value="scodl")),
    ("judge", "$.stages[2].config.condition", "", put("judge", "config", "condition", value="{{1 1}}")),
    ("praise.needs", "$.stages[3].depends_on", "a list of stage ids", put("praise", "depends_on", value="remember")),
    ("praise.needs", "$.stages[3].dependson", "unknown key", rename("praise", "depends_on", "dependson")),
    ("praise.text remember", "$.stages[3].config.text", "context.tine",
     put("praise", "config", "text", value="{{context.tine}}")),
    ("scold", "$.stages[4].retry_config.max_retries", "0 to 10", put("scold", "retry_config", "max_retries", value=99)),
    ("sweep nameless", "$.stages[5]", "expected a stage", put("sweep", value=[])),
    ("sweep.type", "$.stages[5].component_type", "no component", put("sweep", TYPE, value="forech")),
    ("sweep.config", "$.stages[5].config", "an object", put("sweep", "config", value=7)),
    ("sweep.config", "$.stages[5].config.loop_stages", "a stage id or", put("sweep", "config", "loop_stages", value=7)),
    ("sweep.config sweep.type", "$.stages[5].config.loop_stages", "lists no stage",
     put("sweep", "config", "loop_stages", value=[])),
    ("sweep.config wash.id dangling", "$.stages[5].config.loop_stages[0]", "which is no stage",
     put("sweep", "config", "loop_stages", 0, value="wahs")),
    ("sweep.config sweep.type", "$.stages[5].config.lop_stages", "no input",
     rename("sweep", "loop_stages", "lop_stages", "config")),
    ("wash nameless", "$.stages[6]", "expected a stage", put("wash", value="wash")),
    ("wash.id fetch.id nameless", "$.stages[6].id", "taken by", put("wash", "id", value="fetch")),
    ("wash.text wash.id sweep", "$.stages[6].config.text", "unknown name",
     put("wash", "config", "text", value="{{itm}}")),
    ("dry.id nameless", "$.stages[7]", "'id' is missing", drop("dry", "id")),
    ("careful", "$.stages[8].config.try_stages", "a stage id or a list",
     put("careful", "config", "try_stages", value=1)),
    ("careful dangling", "$.stages[8].config.catch_stages[0]", "which is no stage",
     put("careful", "config", "catch_stages", 0, value="mned")),
    ("careful nameless", "$.stages[8]", "expected a stage", put("careful", value=0)),
    ("mend", "$.stages[10].config", "an object", put("mend", "config", value=0)),
    ("report", "$.stages[11].llm_settings.temperature", "0 to 2",
     put("report", "llm_settings", "temperature", value=9)),
    ("ping", "$.stages[12]", "wait for each other", put("ping", "depends_on", value=["pong"])),
    ("lonely.times", "$.stages[14].config.times", "", put("lonely", "config", "times", value="many")),
    ("lonely.text fetch.id dangling", "$.stages[14].config.text", "no stage",
     put("lonely", "config", "text", value="{{upstream.fetc.text}}")),
    ("lonely.text", "$.stages[14].config.text", "txt", put("lonely", "config", "text", value="{{upstream.risky.txt}}")),
]  # fmt: skip


def independent(some: list[int]) -> list[int]:
    """Those faults that spoil nothing which one before them spoils."""
    kept: list[int] = []
    spoilt: list[str] = []
    for number in some:
        tags = [tag for tag in FAULTS[number][0].split() if tag not in ("nameless", "dangling")]
        if not any(f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") for a in tags for b in spoilt):
            kept.append(number)
            spoilt += tags
    return kept


def told(document: Any) -> list[Fault]:
    return survey_pipeline(sketch_pipeline(document), BY_NAME, written=finder([]), find=finder([]))


def test_the_sound_file_has_no_fault() -> None:
    assert told(WHOLE) == []
    faults: list[Fault] = []
    pipeline = parse_pipeline(WHOLE, faults)
    assert pipeline is not None
    compile_pipeline(pipeline, BY_NAME)


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_one_fault_is_told_once_and_nothing_beside_it(number: int) -> None:
    _, pointer, words, spoil = FAULTS[number]
    document = copy.deepcopy(WHOLE)
    spoil(document)
    faults = told(document)
    assert [fault.pointer for fault in faults] == [pointer], "\n".join(map(str, faults))
    assert words in faults[0].reason


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, len(FAULTS) - 1), min_size=2, max_size=12, unique=True).map(independent))
def test_independent_faults_are_all_told_and_nothing_beside_them(numbers: list[int]) -> None:
    document = copy.deepcopy(WHOLE)
    for number in sorted(numbers, key=lambda number: FAULTS[number][1], reverse=True):
        FAULTS[number][3](document)
    faults = told(document)
    found = sorted(fault.pointer for fault in faults)
    wanted = sorted(FAULTS[number][1] for number in numbers)
    shown = "\n".join(map(str, faults))
    if any("nameless" in FAULTS[number][0] for number in numbers):
        # A name that no stage has may be the one of a stage that has none: it need not be told.
        doubtful = {FAULTS[number][1] for number in numbers if "dangling" in FAULTS[number][0]}
        assert set(wanted) - doubtful <= set(found) <= set(wanted), shown
    else:
        assert found == wanted, shown
