"""Documents made to exhaust a reader are answered in under a second."""

import gc
import json
import time
from collections.abc import Callable

import pytest

from flowmason.document import parse_document, parse_pipeline_text
from flowmason.errors import RefusedError
from flowmason.pipeline import parse_pipeline

MIB = 1024 * 1024


def laughs(width: int, steps: int) -> str:
    lines = ["a0: &a0 [" + ", ".join("x" * width) + "]"]
    lines += [f"a{step}: &a{step} [" + ", ".join([f"*a{step - 1}"] * width) + "]" for step in range(1, steps)]
    return "\n".join(lines)


def nested(depth: int) -> str:
    return "\n".join([f"a{0}: &a0 [x]", *(f"a{step}: &a{step} [[[[*a{step - 1}]]]]" for step in range(1, depth))])


def big_pipeline(**stage: object) -> dict[str, object]:
    return {"name": "bomb", "stages": [{"id": f"s{n}", "component": "logger", **stage} for n in range(20_000)]}


BOMBS: dict[str, tuple[str, Callable[[], str], str]] = {
    "json: open brackets": ("json", lambda: "[" * 16 * MIB, "deeper|more than"),
    "json: nested objects": ("json", lambda: '{"a":' * 200_000 + "1" + "}" * 200_000, "deeper"),
    "json: 2,000 levels": ("json", lambda: "[" * 2_000 + "]" * 2_000, "deeper"),
    "json: empty lists": ("json", lambda: "[" + "[]," * 5_000_000 + "1]", "values"),
    "json: zeros": ("json", lambda: "[" + "0," * 8_000_000 + "0]", "values"),
    "json: keys": ("json", lambda: "{" + ",".join(f'"k{n}":0' for n in range(450_000)) + "}", "values"),
    "json: digits": ("json", lambda: "[" + "9" * 16_000_000 + "]", "64 bits"),
    "json: decimals": ("json", lambda: "[0." + "9" * 16_000_000 + "]", "digits"),
    "json: 17 MiB": ("json", lambda: '"' + "x" * 17 * MIB + '"', "16 MiB"),
    "json: 17 MiB of wide characters": ("json", lambda: '"' + "é" * 9 * MIB + '"', "16 MiB"),
    "yaml: laughs": ("yaml", lambda: laughs(10, 20), "values"),
    "yaml: 100 MB through aliases": ("yaml", lambda: "- &s " + "x" * 100_000 + "\n" + "- *s\n" * 1_000, "16 MiB"),
    "yaml: depth through aliases": ("yaml", lambda: nested(40), "deeper"),
    "yaml: open brackets": ("yaml", lambda: "[" * 1_000_000, "deeper"),
    "yaml: dashes": ("yaml", lambda: "- " * 100_000, "deeper"),
    "yaml: digits": ("yaml", lambda: "a: " + "9" * 5_000_000, "64 bits"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_answered_in_under_a_second(name: str) -> None:
    format, make, reason = BOMBS[name]
    text = make()
    gc.collect()
    started = time.process_time()
    with pytest.raises(RefusedError, match=reason):
        parse_document(text, format=format)  # type: ignore[arg-type]
    assert time.process_time() - started < 1


def test_too_many_stages_are_refused_before_any_is_read() -> None:
    stages = [{"id": f"s{n}", "component": "logger"} for n in range(20_001)]
    text = json.dumps({"name": "bomb", "stages": stages})
    started = time.process_time()
    with pytest.raises(RefusedError, match="more than 20,000 stages"):
        parse_pipeline_text(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("stage", [{"confg": {}}, {"timeout_ms": "1"}, {"x" * 5_000: 1}])
def test_twenty_thousand_wrong_stages_are_answered_in_under_a_second(stage: dict[str, object]) -> None:
    value = big_pipeline(**stage)
    started = time.process_time()
    faults: list[object] = []
    assert parse_pipeline(value, faults) is None  # type: ignore[arg-type]
    assert time.process_time() - started < 1
    assert len(faults) == 201
    assert "more than 200" in str(faults[-1])


def test_a_schema_of_many_patterns_is_answered_in_under_a_second() -> None:
    value = {"name": "x", "input_schema": {"allOf": [{"pattern": "(a|b)" * 300 + str(n)} for n in range(5_000)]}}
    started = time.process_time()
    faults: list[object] = []
    assert parse_pipeline(value, faults) is None  # type: ignore[arg-type]
    assert time.process_time() - started < 1
    assert "patterns" in str(faults)


def test_ten_thousand_stages_are_read_in_under_a_second() -> None:
    stages = [
        {
            "id": f"s{n}",
            "component": "json-transform",
            "depends_on": [f"s{n - 1}"] if n else [],
            "config": {"data": "{{input}}", "mapping": {"a": "b", "c": f"d{n}"}},
            "position": {"x": n, "y": 0.5},
        }
        for n in range(10_000)
    ]
    text = json.dumps({"name": "long", "stages": stages}, indent=1)
    started = time.process_time()
    pipeline, _ = parse_pipeline_text(text)
    assert time.process_time() - started < 1
    assert len(pipeline.stages) == 10_000
