"""Finding the JSON in what a model wrote."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason.component import parse_json
from flowmason.errors import Code, StageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (' {"a": 1} ', {"a": 1}),
        ("3", 3),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ("Sure!\n```\n[1, 2]\n```\nAnything else?", [1, 2]),
        ('Here it is: {"a": {"b": "}"}} I hope it helps {x}', {"a": {"b": "}"}}),
        ("a set {1, 2} and then [1, 2]", [1, 2]),
        ('quote " before {"a": "say \\"}\\""}', {"a": 'say "}"'}),
    ],
)
def test_json_is_found(text: str, expected: Any) -> None:
    assert parse_json(text) == expected


@pytest.mark.parametrize(
    "text", ["", "no json here", "{'a': 1}", "{" * 1000, '{"a": 1', "\ud800", '{"a": {"b": 1}, "c']
)
def test_an_answer_without_json_is_a_bad_answer(text: str) -> None:
    with pytest.raises(StageError) as caught:
        parse_json(text)
    assert caught.value.failure.code == Code.BAD_ANSWER


def test_a_hostile_answer_does_not_take_long() -> None:
    started = time.process_time()
    with pytest.raises(StageError):
        parse_json("[{" * 200_000 + "```" * 50_000)
    assert time.process_time() - started < 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.dictionaries(st.text(max_size=4), json_values, max_size=3), st.sampled_from(["", "Well: ", "ok\n"]))
def test_any_object_is_found_amid_prose(value: dict[str, Any], before: str) -> None:
    assert parse_json(before + json.dumps(value) + " done.") == value
