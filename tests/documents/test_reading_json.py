import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.document import parse_document, read_document
from flowmason.errors import Fault, RefusedError, UsageError

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def faults_of(text: str | bytes, file: str | None = None) -> list[Fault]:
    with pytest.raises(RefusedError) as caught:
        parse_document(text, file=file)
    return list(caught.value.faults)


def places(faults: list[Fault]) -> list[tuple[str, int | None, int | None]]:
    return [(fault.pointer, fault.line, fault.column) for fault in faults]


@given(values, st.sampled_from([None, 2]))
def test_values_and_order_survive(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert json.dumps(parse_document(text).value) == json.dumps(value)


@given(values)
def test_every_value_has_a_place(value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    document = parse_document(text)
    lines = text.split("\n")

    def look(part: object, path: tuple[str | int, ...]) -> None:
        place = document.value_position(path)
        assert place is not None
        rest = lines[place[0] - 1][place[1] - 1 :]
        opening = (
            "{" if isinstance(part, dict) else "[" if isinstance(part, list) else json.dumps(part, ensure_ascii=False)
        )
        assert rest.startswith(opening)
        if isinstance(part, dict):
            for key, inner in part.items():
                where = document.position((*path, key))
                assert where is not None
                assert lines[where[0] - 1][where[1] - 1 :].startswith(json.dumps(key, ensure_ascii=False))
                look(inner, (*path, key))
        elif isinstance(part, list):
            for index, inner in enumerate(part):
                look(inner, (*path, index))

    look(value, ())


def test_a_path_that_leads_nowhere_has_the_place_above_it() -> None:
    document = parse_document('{\n "a": {"b": [1]}\n}')
    assert document.position(("a", "c")) == (2, 2)
    assert document.position(("a", "b", 7, "x")) == (2, 8)
    assert document.position(()) == (1, 1)


def test_syntax_errors_have_their_place() -> None:
    [fault] = faults_of('{\n  "a": 1,\n}', "x.json")
    assert (fault.line, fault.column, fault.file) == (3, 1, "x.json")
    assert "not valid JSON" in fault.reason


def test_duplicate_keys_are_all_found() -> None:
    faults = faults_of('{"a": 1,\n "b": {"c": 1, "c": 2},\n "a": 3}')
    assert places(faults) == [("$.b.c", 2, 16), ("$.a", 3, 2)]


def test_keys_spelled_with_escapes_are_duplicates_too() -> None:
    assert places(faults_of('{"a": 1, "\\u0061": 2}')) == [("$.a", 1, 10)]


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", str(2**64), str(-(2**63) - 1), "9" * 5000, "1." + "1" * 500],
)
def test_numbers_that_no_journal_could_hold_are_refused(number: str) -> None:
    faults = faults_of('{"a": [0,\n ' + number + "]}")
    assert places(faults) == [("$.a[1]", 2, 2)]


def test_the_largest_numbers_are_kept() -> None:
    assert parse_document(f"[{2**64 - 1}, {-(2**63)}, 1e308]").value == [2**64 - 1, -(2**63), 1e308]


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_is_not() -> None:
    assert parse_document('"\\ud83d\\ude00"').value == "😀"
    assert places(faults_of('{"a": "\\ud83d",\n "\\udc00": 1}')) == [("$.a", 1, 7), ("$", 2, 2)]
    assert places(faults_of('["\ud800"]')) == [("$[0]", 1, 2)]


def test_bytes_must_be_utf_8() -> None:
    assert parse_document("\ufeff[1]".encode()).value == [1]
    [fault] = faults_of(b'["ok",\n "\xff"]')
    assert (fault.line, fault.column, fault.reason) == (2, 3, "not UTF-8: the byte 0xff; save it as UTF-8")
    [fault] = faults_of('["ok"]'.encode("utf-16"))
    assert (fault.line, fault.reason) == (None, "not UTF-8 but UTF-16; save it as UTF-8")


@pytest.mark.parametrize(
    ("text", "reason", "place"),
    [
        (" \n", "the file is empty", (2, 1)),
        ('{"a": 1,\n}', "a comma too many before '}'", (2, 1)),
        ('{"a": [1, ]}', "a comma too many before ']'", (1, 11)),
        ('// why\n{"a": 1}', "JSON has no comments", (1, 1)),
        ('{"a": // why\n 1}', "JSON has no comments", (1, 7)),
        ("{'a': 1}", "double quotes", (1, 2)),
        ('{"a": True}', "JSON writes true, not True", (1, 7)),
        ('{"a": yes}', "'yes' must stand in double quotes", (1, 7)),
        ('{"a": {{input.x}}}', "a template is a text", (1, 8)),
        ('{"a": "x', "is not closed", (1, 7)),
        ('{"a": "x\ny"}', "control character", (1, 9)),
        ('{"a": [1', "ends before", (1, 9)),
        ('{"a": 1} {"b": 2}', "a file holds one", (1, 10)),
        ('{"a": 1 "b": 2}', "expecting ',' delimiter", (1, 9)),
    ],
)
def test_what_is_no_json_is_told_in_words(text: str, reason: str, place: tuple[int, int]) -> None:
    [fault] = faults_of(text.encode())
    assert fault.reason.startswith("not valid JSON: ") and reason in fault.reason, fault.reason
    assert (fault.line, fault.column) == place


def test_depth_is_limited_and_placed() -> None:
    assert parse_document("[" * 64 + "]" * 64).value
    [fault] = faults_of("[" * 65 + "]" * 65)
    assert (fault.line, fault.column) == (1, 65)
    assert "64" in fault.reason


def test_an_unreadable_file_is_a_usage_error(tmp_path: object) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_document(f"{tmp_path}/none.json")
    with pytest.raises(UsageError, match="directory"):
        read_document(f"{tmp_path}")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = parse_document(text).value
    except RefusedError as error:
        assert error.faults
    else:
        assert not isinstance(value, float) or math.isfinite(value)
