"""Trees as stored data: digests, decoding, references, and the door of the package."""

import hashlib
import pickle

import msgspec
import pytest

import flowmason.expressions as door
from flowmason.expressions import (
    ABSENT,
    Names,
    Path,
    Reference,
    Template,
    evaluate,
    parse_expression,
    parse_template,
    references,
)

NAMES = Names(frozenset({"fetch", "load"}), frozenset({"item"}))
VALUE = {
    "url": "{{ fetch.output.body[0]['a b'] }}?n={{ len(input.items) > 3 and -input.x[input.i] or 'no' }}",
    "list": ["{{ [1, {'k': not item}] }}", "{{ 1 if 1 < 2 <= 3 else default(input.q, null) }}", 1.5],
    "static": {"deep": [None, True, 2**40, "é"]},
}


@pytest.mark.parametrize("codec", [msgspec.msgpack, msgspec.json])
def test_trees_survive_storage(codec: object) -> None:
    tree = parse_template(VALUE, NAMES)
    encoded = codec.encode(tree)  # type: ignore[attr-defined]
    read = codec.decode(encoded, type=Template)  # type: ignore[attr-defined]
    assert read == tree
    roots = {"upstream": {"fetch": {"body": [{"a b": "u"}]}}, "input": {"items": [], "x": [1], "i": 0}, "item": 0}
    assert evaluate(read, roots) == evaluate(tree, roots)


def test_the_digest_does_not_depend_on_spelling_or_on_use() -> None:
    def digest(source: str, *, used: bool = False) -> str:
        tree = parse_expression(source, NAMES)
        if used:
            evaluate(tree, {"upstream": {"fetch": {"a": 1}}})
        return hashlib.sha256(msgspec.msgpack.encode(tree, order="deterministic")).hexdigest()

    same = {
        digest("upstream.fetch.a+1"),
        digest("  stages.fetch.output['a'] + 1", used=True),
        digest("(fetch.output.a) + 1"),
    }
    assert len(same) == 1
    assert digest("fetch.output.a + 1.0") not in same


def test_trees_and_absent_can_be_pickled() -> None:
    tree = parse_template(VALUE, NAMES)
    evaluate(parse_expression("1", NAMES), {})
    assert pickle.loads(pickle.dumps(tree)) == tree
    assert pickle.loads(pickle.dumps(ABSENT)) is ABSENT


def test_references_tell_what_is_read_and_where() -> None:
    tree = parse_template(
        {
            "a": "x {{ upstream.fetch.body.id }}",
            "b": ["{{ default(stages.load.output.n, input.n) + item }}"],
            "c": "{{ fetch.output.rows[input.i].name }}",
            "d": "{{ env.REGION if _error.type == 'x' else {'k': [input.a[0]]} }}",
        },
        NAMES,
    )
    assert references(tree) == (
        Reference("upstream", ("fetch", "body", "id"), False, 5, ("a",)),
        Reference("upstream", ("load", "n"), True, 11, ("b", 0)),
        Reference("input", ("n",), False, 33, ("b", 0)),
        Reference("item", (), False, 44, ("b", 0)),
        Reference("upstream", ("fetch", "rows"), False, 3, ("c",)),
        Reference("input", ("i",), False, 21, ("c",)),
        Reference("env", ("REGION",), False, 3, ("d",)),
        Reference("error", ("type",), False, 17, ("d",)),
        Reference("input", ("a", 0), False, 48, ("d",)),
    )


def test_everything_inside_the_first_argument_of_default_is_optional() -> None:
    found = references(parse_expression("default(len(input.a) + input.b[input.c], default(input.d, input.e))", NAMES))
    assert [(reference.path[0], reference.optional) for reference in found] == [
        ("a", True),
        ("b", True),
        ("c", True),
        ("d", True),
        ("e", False),
    ]


def test_a_tree_that_was_read_back_has_no_offsets() -> None:
    tree = parse_expression("1 + input.a", NAMES)
    assert references(tree)[0].offset == 4
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(tree), type=Template)
    assert references(read)[0].offset == -1 and Path("input", ("a",)).offset == -1


def test_the_door_exports_what_it_names_sorted() -> None:
    assert door.__all__ == sorted(door.__all__)
    assert all(hasattr(door, name) for name in door.__all__)
