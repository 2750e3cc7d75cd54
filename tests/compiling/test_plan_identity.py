"""The same file gives the same Plan on every machine; what only people see is no part of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from compiling_kit import build, echo, stage
from flowmason.plan import decode

DOCUMENT = [
    echo("a", {"z": "{{input.x}}", "b": [1, {"k": "{{input.y + 1}}"}]}),
    stage("each", "foreach", {"items": "{{upstream.a.value.b}}", "loop_stages": ["s", "guard"]}),
    stage("guard", "trycatch", {"try_stages": ["w"], "catch_stages": ["r"], "finally_stages": ["f"]}),
    stage("s", "variable_set", {"name": "v", "value": "{{item}}"}),
    echo("w", "{{context.v}}", "s"),
    stage("r", "generator", {"prompt": "{{error.message}}"}, llm_settings={"stop_sequences": ["."]}),
    echo("f"),
    stage("by", "router", {"value": "{{upstream.a.value}}", "routes": {"x": ["p"], "y": ["p", "q"]}}),
    *(echo(name, "{{upstream.w}}") for name in "pq"),
]
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from compiling_kit import build
plan = build(*json.load(sys.stdin), output_schema={"type": "object", "required": ["p"]}, env=["B", "A"])
print(plan.id)
"""


def test_the_digest_does_not_depend_on_hashing() -> None:
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(Path(__file__).parent.parent)],
            input=json.dumps(DOCUMENT),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=60,
        )
        found.add(done.stdout.strip())
    here = build(*DOCUMENT, output_schema={"type": "object", "required": ["p"]}, env=["B", "A"])
    assert found == {here.id}
    again = decode(here.encoded)
    assert again == here and again.id == here.id


def test_what_only_people_see_is_no_part_of_the_plan() -> None:
    plain = build(stage("a", "echo", {"value": 1}))
    drawn = build(
        stage("a", "echo", {"value": 1}, position={"x": 3, "y": 4}, name="First"),
        description="Says so.",
        tags=["x"],
        category="y",
        sample_input={"q": 1},
    )
    assert plain.id == drawn.id


def test_two_spellings_of_one_thing_are_one_plan() -> None:
    one = build(echo("a"), stage("b", "echo", {"value": "{{ stages.a.output.value+1 }}"}))
    two = build(echo("a"), stage("b", "echo", input_mapping={"value": "{{upstream.a['value'] + 1}}"}))
    assert one.id == two.id


def test_what_matters_changes_the_digest() -> None:
    base = build(echo("a"), echo("b"))
    others = [
        build(echo("a"), echo("b", 2)),
        build(echo("a"), echo("b", 1, "a")),
        build(echo("b"), echo("a")),
        build(echo("a"), echo("b"), name="other"),
        build(echo("a"), echo("b"), version="1.0.1"),
        build(echo("a"), echo("b"), env=["X"]),
        build(echo("a"), {**echo("b"), "timeout_ms": 500}),
    ]
    assert len({base.id, *(other.id for other in others)}) == len(others) + 1
