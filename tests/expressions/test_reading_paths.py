"""Which spellings of a path are understood, what they read, and what is said where they do not."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from flowmason.errors import Code, ExpressionError, Phase, StageError
from flowmason.expressions import ABSENT, Names, Path, evaluate, parse_expression

NAMES = Names(frozenset({"fetch", "fetch-page", "skipped", "input", "error", "item"}), frozenset({"item", "index"}))
ROOTS = {
    "input": {"a": [10, 20, {"b": "x"}], "text": "hé", "null": None, "i": 1, "key": "b", "in": 1, "1st": 2, "größe": 3},
    "upstream": {
        "fetch": {"output": {"body": 1}, "body": 2},
        "fetch-page": {"count-1": 5, "count": 9},
        "skipped": ABSENT,
        "input": "a stage",
    },
    "context": {"run_id": "r"},
    "env": {"REGION": "eu"},
    "error": {"type": "Boom"},
    "item": {"n": 3},
    "index": 7,
}


def read(source: str, roots: Mapping[str, Any] = ROOTS) -> Any:
    return evaluate(parse_expression(source, NAMES), roots)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("upstream.fetch.body", Path("upstream", ("fetch", "body"))),
        ("upstream.fetch", Path("upstream", ("fetch",))),
        ("upstream['fetch'].body", Path("upstream", ("fetch", "body"))),
        ("fetch.output.body", Path("upstream", ("fetch", "body"))),
        ("fetch.output", Path("upstream", ("fetch",))),
        ("fetch['output']", Path("upstream", ("fetch",))),
        ("stages.fetch.output.body", Path("upstream", ("fetch", "body"))),
        ("stages.fetch.output", Path("upstream", ("fetch",))),
        ("upstream.fetch.output.body", Path("upstream", ("fetch", "output", "body"))),
        ("(fetch.output).output", Path("upstream", ("fetch", "output"))),
        ("fetch.output.output", Path("upstream", ("fetch", "output"))),
        ("upstream.fetch-page.count-1", Path("upstream", ("fetch-page", "count-1"))),
        ("fetch-page.output['count']", Path("upstream", ("fetch-page", "count"))),
        ("_error.type", Path("error", ("type",))),
        ("error.type", Path("error", ("type",))),
        ("item.output", Path("item", ("output",))),
        ("input.output", Path("input", ("output",))),
        ("input . a [ -1 ] . b", Path("input", ("a", -1, "b"))),
        ("context.run_id", Path("context", ("run_id",))),
        ("env.REGION", Path("env", ("REGION",))),
    ],
)
def test_every_spelling_of_a_path_has_one_form(source: str, path: Path) -> None:
    assert parse_expression(source, NAMES) == path


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("input.a[0]", 10),
        ("input.a[-1].b", "x"),
        ("input['a'][2]['b']", "x"),
        ("input.a[input.i]", 20),
        ("input.a[input.i + 1][input.key]", "x"),
        ("input.text[1]", "é"),
        ("input.in", 1),
        ("input.1st", 2),
        ("input.größe", 3),
        ("index", 7),
        ("item.n", 3),
        ("upstream.input", "a stage"),
        ("upstream.fetch-page.count-1", 5),
        ("upstream.fetch-page.count - 1", 8),
        ("upstream.fetch-page.count -1", 8),
        ("input.a[0]-1", 9),
        ("5-3", 2),
        ("env.REGION", "eu"),
        ("{'a': {'b': 4}}.a.b", 4),
        ("[1, [2]][1][0]", 2),
    ],
)
def test_paths_read_values(source: str, value: object) -> None:
    assert read(source) == value


@pytest.mark.parametrize(
    "source",
    [
        "upstream.skipped",
        "upstream.skipped.a.b[3].c",
        "skipped.output.x",
        "upstream.skipped[input.i]",
        "upstream.skipped[input.i].x['y']",
    ],
)
def test_a_stage_that_did_not_run_is_null_and_so_is_every_path_below(source: str) -> None:
    assert read(source) is None


def test_absence_ends_where_the_path_ends() -> None:
    with pytest.raises(ExpressionError, match="is null"):
        read("(upstream.skipped or upstream.skipped).x")
    assert read("[upstream.skipped]") == [None]


@pytest.mark.parametrize(
    ("source", "message", "nearest"),
    [
        ("upstream.fetch.bodi", r"upstream\.fetch has no field 'bodi' \(did you mean 'body'\?\)", "body"),
        ("upstream.fetch.output.x", r"upstream\.fetch\.output has no field 'x'", None),
        ("input.a[3]", r"input\.a has 3 elements, none at 3", None),
        ("input.a[-4]", r"input\.a has 3 elements, none at -4", None),
        ("input.null.x", r"input\.null is null: null has no field 'x'", None),
        ("input.null[0]", r"null has no element 0", None),
        ("input.a[0].x", r"input\.a\[0\] is a number: it has no field 'x'", None),
        ("input.a.b", r"input\.a is a list", None),
        ("input.text.b", r"input\.text is a string", None),
        ("input[0]", r"input has no field 0", None),
        ("input.a[input.text]", r"input\.a is a list", None),
        ("input[input.null]", r"its keys are strings, not null", None),
        ("input.a[true or 1]", r"input\.a is a list", None),
        ("env.HOME", r"env has no field 'HOME'", None),
        ("{'a': 1}.b", r"\{'a': 1\} has no field 'b'", None),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest_key(source: str, message: str, nearest: str | None) -> None:
    with pytest.raises(ExpressionError, match=message) as caught:
        read(source)
    failure = caught.value.failure
    assert (failure.details or {}).get("nearest") == nearest
    assert failure.code == Code.EXPRESSION and failure.phase == Phase.RUN


def test_a_root_that_this_place_does_not_have_is_an_error() -> None:
    with pytest.raises(ExpressionError, match="error has no value here"):
        read("error.type", {"input": {}})


def test_a_hyphen_mistaken_for_a_minus_is_explained() -> None:
    with pytest.raises(ExpressionError) as caught:
        read("input.i-1")
    assert "put spaces around it" in str(caught.value.failure.help)


@pytest.mark.parametrize(
    ("source", "offset", "nearest"),
    [
        ("inputs.a", 0, "input"),
        ("1 + upstream.fetsh.body", 4, "fetch"),
        ("fetsh.output", 0, "fetch"),
        ("1 + lenn(input.a)", 4, "len"),
        ("index-1", 0, "index"),
        ("zzzzzzzz", 0, None),
        ("fetch", 0, None),
        ("fetch.body", 0, None),
        ("stages.fetch", 0, None),
        ("stages.fetch.body", 0, None),
        ("upstream", 0, None),
        ("upstream[input.key]", 0, None),
        ("upstream[0]", 0, None),
        ("env", 0, None),
        ("env[input.key]", 0, None),
        ("env.A.b", 0, None),
        ("input.a.0", 8, None),
        ("input.", 6, None),
        ("input.a[1.5]", 8, None),
        ("input.a[true]", 8, None),
        ("input.a[1:2]", 9, None),
        ("input.a[:2]", 8, None),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused_at_its_place(source: str, offset: int, nearest: str | None) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(source, NAMES)
    details = caught.value.failure.details or {}
    assert (details["offset"], details.get("nearest")) == (offset, nearest)
    assert details["reason"] and details["reason"] in str(caught.value)
    assert caught.value.failure.phase == Phase.COMPILE


def test_the_nearest_of_very_many_stages_is_found() -> None:
    names = Names(frozenset(f"stage_{number}" for number in range(20_000)))
    with pytest.raises(ExpressionError) as caught:
        parse_expression("upstream.stage_19o99.x", names)
    assert str((caught.value.failure.details or {})["nearest"]).startswith("stage_19")


class Lazy(Mapping[str, Any]):
    """A mapping that says what was read of it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.read: list[str] = []

    def __getitem__(self, key: str) -> Any:
        self.read.append(key)
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


def test_a_mapping_is_read_only_at_the_keys_that_are_asked_for() -> None:
    upstream = Lazy({"fetch": Lazy({"body": {"n": 1}}), "skipped": ABSENT, "input": 5})
    roots = {"upstream": upstream}
    assert read("upstream.fetch.body.n", roots) == 1
    assert read("upstream.skipped.x", roots) is None
    assert set(upstream.read) == {"fetch", "skipped"}
    with pytest.raises(ExpressionError, match="did you mean 'body'"):
        read("upstream.fetch.bodi", roots)


def test_an_error_of_a_loading_mapping_passes_unchanged() -> None:
    class Broken(Lazy):
        def __getitem__(self, key: str) -> Any:
            raise StageError("the value is gone", code=Code.VALUE_MISSING)

    with pytest.raises(StageError, match="the value is gone"):
        read("default(upstream.fetch.body, 1)", {"upstream": Broken({})})
