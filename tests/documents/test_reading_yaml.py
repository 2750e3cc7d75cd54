import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flowmason.document import parse_document, read_document
from flowmason.errors import Fault, RefusedError

texts = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], max_codepoint=0xFFFF), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)


def read(text: str) -> object:
    return parse_document(text, format="yaml").value


def faults_of(text: str) -> list[Fault]:
    with pytest.raises(RefusedError) as caught:
        parse_document(text, format="yaml")
    return list(caught.value.faults)


@given(values)
def test_json_is_yaml(value: object) -> None:
    """YAML 1.2 holds JSON: both readers agree."""
    text = json.dumps(value)
    assert read(text) == parse_document(text).value


@given(values)
def test_block_style_gives_the_same_values(value: object) -> None:
    class Quoting(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
    assert read(yaml.dump(value, Dumper=Quoting, default_flow_style=False)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("~", None), ("", None), ("NULL", None), ("nUll", "nUll"),
        ("true", True), ("False", False), ("tRue", "tRue"), ("012", 12), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"),
        ("+3", 3), ("-3", -3), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0),
        ("12:30:45", "12:30:45"), ("2024-01-01", "2024-01-01"),
        ("'1'", "1"), ("-", [None]), ("+", "+"), (".", "."), ("0b1", "0b1"), ("|\n  no\n", "no\n"), ("1.0.0", "1.0.0"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = read(f"a: {text}\n") if text != "-" else {"a": read("- \n")}
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "reason", "place"),
    [
        ("a: 1\nb: 2\na: 3", "given twice", (3, 1)),
        ("a:\n  1: x", "quote it: '1'", (2, 3)),
        ("true: x", "quote it", (1, 1)),
        ("a: {{input.x}}", "must be quoted", (1, 5)),
        ("a: !!python/object:os.system x", "tags are not allowed", (1, 4)),
        ("a: !mine [1]", "tags are not allowed", (1, 4)),
        ("base: &b {x: 1}\nc:\n  <<: *b", "merge keys", (3, 3)),
        ("a: 1\n---\nb: 2", "one document", (2, 1)),
        ("a: .nan", "no JSON number", (1, 4)),
        ("a: -.inf", "no JSON number", (1, 4)),
        ("a: 1e999", "too large", (1, 4)),
        ("a: 99999999999999999999999", "64 bits", (1, 4)),
        ("a: &x [*x]", "stands inside", (1, 8)),
        ("a: *x", "undefined alias|no anchor", (1, 4)),
        ("a: &x k\n*x : 1", "alias cannot be a key", (2, 1)),
        ("? [1]\n: 2", "cannot be a key", (1, 3)),
        ("a: [1\nb: 2", "not valid YAML", (2, 2)),
        ("a: 'x\nb: y", "the text that begins here is not closed", (1, 4)),
        ("a:\n\t- x", "a tab cannot indent", (2, 1)),
        ("a: @x", "starts with '@' must be quoted", (1, 4)),
        ("a: b: c", "with ': ' in it must be quoted", (1, 5)),
        ("a:\n  - b\n c: d", "indented as its neighbours", (3, 2)),
        ("a: x\nb: \a", "control characters", (2, 4)),
    ],
)
def test_what_is_refused_has_its_place(text: str, reason: str, place: tuple[int, int]) -> None:
    [fault] = faults_of(text)
    import re

    assert re.search(reason, fault.reason)
    assert (fault.line, fault.column) == place


def test_all_faults_are_found_at_once() -> None:
    assert [fault.pointer for fault in faults_of("a: .nan\nb:\n  - .inf\n  - {c: 1, c: 2}\n")] == [
        "$.a",
        "$.b[0]",
        "$.b[1].c",
    ]


def test_an_alias_stands_for_its_value() -> None:
    document = parse_document("a: &x {k: [1]}\nb: *x\n", format="yaml")
    assert document.value == {"a": {"k": [1]}, "b": {"k": [1]}}
    assert document.position(("b", "k", 0)) == (2, 1)


def test_positions_are_those_of_the_keys() -> None:
    document = parse_document("a:\n  b:\n    - x\n    - y: 1\n", format="yaml")
    assert document.position(("a", "b")) == (2, 3)
    assert document.value_position(("a", "b")) == (3, 5)
    assert document.position(("a", "b", 1)) == (4, 7)
    assert document.position(("a", "b", 1, "y")) == (4, 7)


def test_the_format_goes_by_the_name(tmp_path: object) -> None:
    for name in ("a.pipeline.yaml", "b.yml"):
        path = f"{tmp_path}/{name}"
        with open(path, "w") as stream:
            stream.write("a: no\n")
        assert read_document(path).value == {"a": "no"}


@given(st.text(alphabet="ab:-[]{}&*!'\"|>#%@,? \n\t0.", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        json.dumps(read(text), allow_nan=False)
    except RefusedError as error:
        assert error.faults
