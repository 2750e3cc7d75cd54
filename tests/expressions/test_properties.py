"""Random trees, random values, random text."""

import math
import time
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowmason.errors import ExpressionError
from flowmason.expressions import (
    ABSENT,
    FUNCTION_ARITY,
    Access,
    Arithmetic,
    Call,
    Choose,
    Compare,
    Expr,
    Fields,
    Items,
    Literal,
    Logic,
    MakeList,
    MakeObject,
    Names,
    Negate,
    Not,
    Path,
    Static,
    Template,
    Text,
    evaluate,
    parse_condition,
    parse_expression,
    parse_template,
    references,
    unparse,
    unparse_template,
)

STAGES = ("fetch", "fetch-page", "skipped")
NAMES = Names(frozenset(STAGES), frozenset({"item", "index"}))
few = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

texts = st.one_of(
    st.sampled_from(["a", "b", "a-b", "output", "in", "1", "", "é", "{{", "}}", "'", "\\", "{{{"]), st.text(max_size=6)
)
keys = st.one_of(texts, st.sampled_from(["a", "b"]), st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
integers = st.one_of(st.integers(-5, 5), st.integers(-(2**63), 2**64 - 1))
floats = st.floats(allow_nan=False, allow_infinity=False)
literals = st.one_of(st.none(), st.booleans(), integers, floats, texts).map(Literal)
paths = st.one_of(
    st.builds(
        Path, st.sampled_from(["input", "context", "error", "item", "index"]), st.lists(keys, max_size=4).map(tuple)
    ),
    st.builds(
        lambda stage, rest: Path("upstream", (stage, *rest)), st.sampled_from(STAGES), st.lists(keys, max_size=3)
    ),
    st.builds(lambda name: Path("env", (name,)), texts),
)


def access(target: Expr, key: Expr) -> Expr:
    """As the parser makes it: static keys of a path belong to the path."""
    if isinstance(key, Literal) and (isinstance(key.value, bool) or not isinstance(key.value, int | str)):
        key = Literal(0)
    if isinstance(target, Path) and target.root != "env" and isinstance(key, Literal):
        assert isinstance(key.value, int | str)
        return Path(target.root, (*target.path, key.value))
    return target if isinstance(target, Path) and target.root == "env" else Access(target, key)


def call(name: str, arguments: list[Expr]) -> Expr:
    least, most = FUNCTION_ARITY[name]
    count = max(least, min(len(arguments), len(arguments) if most is None else most))
    return Call(name, tuple((arguments * 3)[:count]))


def chains(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    def pairs(ops: list[str]) -> st.SearchStrategy[list[tuple[str, Expr]]]:
        return st.lists(st.tuples(st.sampled_from(ops), inner), min_size=1, max_size=3)

    def make(kind: type[Arithmetic] | type[Compare], first: Expr, rest: list[tuple[str, Expr]]) -> Expr:
        return kind(first, tuple(op for op, _ in rest), tuple(operand for _, operand in rest))

    return st.one_of(
        st.builds(make, st.just(Arithmetic), inner, pairs(["+", "-"])),
        st.builds(make, st.just(Arithmetic), inner, pairs(["*", "/", "%"])),
        st.builds(make, st.just(Compare), inner, pairs(["==", "!=", "<", "<=", ">", ">=", "in", "not in"])),
    )


def grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        st.builds(access, inner, inner),
        st.builds(Not, inner),
        st.builds(Negate, inner),
        chains(inner),
        st.builds(Logic, st.sampled_from(["and", "or"]), several),
        st.builds(Choose, inner, inner, inner),
        st.builds(MakeList, st.lists(inner, max_size=3).map(tuple)),
        st.builds(lambda fields: MakeObject(tuple(fields.items())), st.dictionaries(texts, inner, max_size=3)),
        st.builds(call, st.sampled_from(sorted(FUNCTION_ARITY)), st.lists(inner, min_size=1, max_size=3)),
    )


trees: st.SearchStrategy[Expr] = st.recursive(st.one_of(literals, paths), grow, max_leaves=12)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, st.floats(), texts, st.binary(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
roots = st.fixed_dictionaries(
    {
        "input": plain,
        "upstream": st.fixed_dictionaries({"fetch": plain, "fetch-page": plain, "skipped": st.just(ABSENT)}),
        "context": plain,
        "env": st.dictionaries(texts, texts, max_size=2),
        "item": plain,
        "index": st.integers(-3, 3),
    }
)


def encoded(tree: Template) -> bytes:
    return msgspec.msgpack.encode(tree, order="deterministic")


@few
@given(trees)
@example(Negate(Literal(5)))
@example(Access(Literal(5), Literal("a")))
@example(Literal(-0.0))
@example(Path("input", ("{{{", "}}")))
def test_what_is_written_is_read_as_the_same_tree(tree: Expr) -> None:
    source = unparse(tree)
    read = parse_expression(source, NAMES)
    assert read == tree and encoded(read) == encoded(tree)
    assert unparse(read) == source
    assert encoded(parse_condition(source, NAMES)) in (encoded(tree), encoded(Static(getattr(tree, "value", None))))
    assert msgspec.json.decode(msgspec.json.encode(tree), type=Template) == tree


@few
@given(
    st.recursive(
        st.one_of(trees, texts),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
        max_leaves=5,
    )
)
def test_templates_are_written_back_and_read_as_the_same(value: Any) -> None:
    def source(part: Any) -> Any:
        if isinstance(part, str):
            return part.replace("{{", "{{{{")
        if isinstance(part, list):
            return [source(item) for item in part]
        return (
            {key: source(item) for key, item in part.items()}
            if isinstance(part, dict)
            else f"{{{{ {unparse(part)} }}}}"
        )

    template = parse_template(source(value), NAMES)
    again = parse_template(unparse_template(template), NAMES)
    assert again == template and encoded(again) == encoded(template)
    assert isinstance(template, Static | Fields | Items | Text) or template == value


@few
@given(trees, roots)
def test_evaluation_gives_plain_data_or_an_expression_error(tree: Expr, values: dict[str, Any]) -> None:
    started = time.process_time()
    try:
        result = evaluate(tree, values)
    except ExpressionError as error:
        assert error.failure.message
    else:
        assert result is not ABSENT
        if isinstance(tree, Arithmetic) and isinstance(result, float):
            assert math.isfinite(result)
    assert time.process_time() - started < 2


def outcome(tree: Expr, values: dict[str, Any]) -> str:
    try:
        return repr(evaluate(tree, values))
    except ExpressionError as error:
        return str(error)


@few
@given(trees, roots)
def test_nothing_is_read_that_is_not_among_the_references(tree: Expr, values: dict[str, Any]) -> None:
    read = references(tree)
    stages = {reference.path[0] for reference in read if reference.root == "upstream"}
    narrowed = {root: value for root, value in values.items() if any(reference.root == root for reference in read)}
    if "upstream" in narrowed:
        narrowed["upstream"] = {stage: value for stage, value in values["upstream"].items() if stage in stages}
    assert outcome(tree, narrowed) == outcome(tree, values)


WORDS = r"""( ) [ ] { } {{ }} {{{{ , . : + - * / % < <= > >= == != = and or not in if else true null input upstream
fetch fetch-page stages output item default len abs join range 0 1 -1 2.5 1e5 'a' "b" ' " \ \u00 __class__ lambda for
: := ** // | & ! ? @ # $ ~ é"""
soup = st.lists(st.sampled_from([*WORDS.split(), " ", "\n", "\x00"]), max_size=14)


@few
@given(st.one_of(st.text(max_size=40), soup.map(" ".join), soup.map("".join)))
def test_any_text_is_parsed_or_refused_with_its_place(source: str) -> None:
    for parse in (parse_expression, parse_condition, parse_template):
        try:
            tree = parse(source, NAMES)
        except ExpressionError as error:
            details = error.failure.details or {}
            assert 0 <= details["offset"] <= len(source) and details["reason"]
        else:
            if parse is parse_expression:
                assert parse_expression(unparse(tree), NAMES) == tree  # type: ignore[arg-type]
