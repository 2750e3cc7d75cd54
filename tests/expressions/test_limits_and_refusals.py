"""No expression runs code, hangs, or eats the memory."""

import time
from typing import Any

import pytest

from flowmason.errors import ExpressionError
from flowmason.expressions import Budget, Names, evaluate, parse_condition, parse_expression, parse_template

NAMES = Names(frozenset({"a"}), frozenset({"x", "y"}))

NOT_IN_THE_GRAMMAR = [
    "().__class__",
    "().__class__.__bases__[0].__subclasses__()",
    "''.join(['a'])",
    "''.__class__()",
    "x.__class__()",
    "x.__init__.__globals__['os'].system('id')",
    "'{0.__class__}'.format(x)",
    "f'{x}'",
    "b'x'",
    "r'x'",
    "u'x'",
    "'''x'''",
    "'a' 'b'",
    "lambda: 1",
    "(lambda y: y)(1)",
    "(x := 1)",
    "x = 1",
    "[y for y in x]",
    "{y for y in x}",
    "{y: 1 for y in x}",
    "{1, 2}",
    "{x: 1}",
    "{'a': 1, 'a': 2}",
    "{**x}",
    "[*x]",
    "len(*x)",
    "len(x=1)",
    "(1, 2)",
    "()",
    "x[0:1]",
    "x[::2]",
    "x[0, 1]",
    "x[]",
    "2 ** 99999999",
    "7 // 2",
    "1 @ 2",
    "1 << 99999999",
    "1 >> 1",
    "1 & 2",
    "1 | 2",
    "1 ^ 2",
    "~1",
    "+1",
    "!x",
    "x && y",
    "x || y",
    "x ? 1 : 2",
    "x is None",
    "x <> 1",
    "x === 1",
    "1 if x",
    "if x: 1",
    "not",
    "x not y",
    "1 + not x",
    "import os",
    "__import__('os')",
    "eval('1')",
    "exec('1')",
    "open('/etc/passwd')",
    "getattr(x, 'y')",
    "type(x)",
    "isinstance(x, y)",
    "globals()",
    "print(1)",
    "breakpoint()",
    "__builtins__",
    "os.environ",
    "self",
    "x.y()",
    "x['y']()",
    "x()",
    "len",
    "len(len)",
    "default",
    "yield x",
    "await x",
    "async",
    "del x",
    "assert x",
    "x; y",
    "x # comment",
    "x\\\ny",
    "`id`",
    "$x",
    "$(id)",
    "${x}",
    "@x",
    "x@y",
    "\x00",
    "x\x00",
    "'\n'",
    "'\\x41'",
    "'\\N{DASH}'",
    "'\\u12'",
    "'abc",
    "'abc\\'",
    "0x10",
    "0b1",
    "0o7",
    "1_000",
    "007",
    "1j",
    "1e999",
    "1.",
    ".5",
    "1.2.3",
    "12abc",
    "18446744073709551616",
    "-9223372036854775809",
    "9" * 5000,
    "x..y",
    "x.",
    ".x",
    "x.1",
    "x.'y'",
    "...",
    "1 +",
    "* 1",
    "(1",
    "1)",
    "[1",
    "{'a': 1",
    "{'a' 1}",
    "{% if x %}",
    "{{ x }}",
    "{# x #}",
    "x|safe",
    "",
    " ",
    "\u200b",
    "≤",
]


@pytest.mark.parametrize("source", NOT_IN_THE_GRAMMAR)
def test_other_languages_are_refused(source: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(source, NAMES)
    offset = (caught.value.failure.details or {})["offset"]
    assert 0 <= offset <= len(source)
    with pytest.raises(ExpressionError):
        parse_template("{{" + source + "}}" if source != "{{ x }}" else "{{ {{ x }} }}", NAMES)


class Innocent:
    secret = "leaked"

    def __getitem__(self, key: object) -> str:
        return "leaked"

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize("value", [{}, [], "", 1, 1.5, True, None, b"x", Innocent(), print, Innocent, object()])
@pytest.mark.parametrize(
    "source",
    [
        "x.__class__",
        "x['__class__']",
        "x.__class__.__mro__",
        "x.__init__.__globals__",
        "x.secret",
        "x.real",
        "x.format",
        "x.upper",
        "x.keys",
        "x['secret']",
        "x.__dict__",
    ],
)
def test_no_attribute_of_any_object_can_be_read(source: str, value: object) -> None:
    tree = parse_expression(source, NAMES)
    with pytest.raises(ExpressionError):
        evaluate(tree, {"x": value})


@pytest.mark.parametrize(
    "source", ["len(x)", "str(x)", "json([x])", "'a' + x", "x + 1", "x < 1", "1 in x", "x[0]", "sum([x])", "join([x])"]
)
def test_a_strange_object_is_not_worked_with(source: str) -> None:
    tree = parse_expression(source, NAMES)
    with pytest.raises(ExpressionError):
        evaluate(tree, {"x": Innocent()})


def test_what_an_expression_gives_is_never_evaluated_again() -> None:
    template = parse_template({"a": "{{x}}", "b": "<{{x}}>", "c": "{{ x + '}}' }}"}, NAMES)
    assert evaluate(template, {"x": "{{ y }}", "y": "leaked"}) == {"a": "{{ y }}", "b": "<{{ y }}>", "c": "{{ y }}}}"}


def nested(depth: int, width: int = 1) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] * width
    return value


BIG = "z" * 900_000
BOMBS: list[tuple[str, dict[str, Any]]] = [
    ("range(1000000001)", {}),
    ("range(-9223372036854775808, 18446744073709551615)", {}),
    ("range(0, 18446744073709551615, 1)[0]", {}),
    ("x + x", {"x": BIG}),
    ("upper(x)", {"x": BIG * 2}),
    ("replace(x, 'z', x)", {"x": BIG}),
    ("replace(x, 'z', 'zz')", {"x": BIG}),
    ("join(x, y)", {"x": [""] * 1000, "y": BIG}),
    ("join(x)", {"x": [BIG] * 3}),
    ("split(x, 'z')", {"x": BIG * 2}),
    ("split(x)", {"x": "a " * 3_000_000}),
    ("x + x + x + x", {"x": [0] * 300_000}),
    ("json(x)", {"x": [BIG, BIG]}),
    ("json(x)", {"x": [0] * 1_000_000}),
    ("json(x)", {"x": nested(40, 2)}),
    ("json(x)", {"x": nested(70)}),
    ("str(x)", {"x": nested(5000)}),
    ("x == y", {"x": nested(40, 2), "y": nested(40, 2)}),
    ("x in y", {"x": nested(40, 2), "y": [nested(40, 2)]}),
    ("sorted(x)", {"x": list(range(900_000))}),
    ("sum(x)", {"x": [0] * 3_000_000}),
    ("-1 in x", {"x": [0] * 3_000_000}),
    ("int(x)", {"x": "9" * 5000}),
    ("int(x)", {"x": "9" * 10_000_000}),
    ("float(x)", {"x": "9" * 10_000_000}),
    ("float(x)", {"x": 10**400}),
    ("str(x)", {"x": 10**5000}),
    ("x * x", {"x": 10**1200}),
    ("x * 1.5", {"x": 10**400}),
    ("x / 1", {"x": 10**400}),
    ("round(1, 1000000000)", {}),
    ("round(1, -1000000000)", {}),
    ("*".join(["18446744073709551615"] * 70), {}),
    (" + ".join(["range(1000000)"] * 100), {}),
    ("[" + ", ".join(["range(900000)"] * 1000) + "]", {}),
    ("[" + ", ".join(["x + 'a'"] * 2000) + "]", {"x": BIG}),
    (" and ".join(["x != y"] * 1500), {"x": [1] * 100_000, "y": [1] * 99_999 + [2]}),
    ("[" + ", ".join(["'q' in x"] * 2000) + "]", {"x": BIG * 10}),
    ("default(" * 60 + "x.y" + ", range(1000000000))" * 60, {"x": {}}),
]


@pytest.mark.parametrize(("source", "roots"), BOMBS, ids=[source[:40] for source, _ in BOMBS])
def test_bombs_end_quickly_in_an_error(source: str, roots: dict[str, Any]) -> None:
    tree = parse_expression(source, NAMES)
    started = time.process_time()
    with pytest.raises(ExpressionError):
        evaluate(tree, roots)
    assert time.process_time() - started < 2


def test_a_template_may_not_make_a_huge_text_either() -> None:
    with pytest.raises(ExpressionError, match="string of"):
        evaluate(parse_template("{{x}}" * 10, NAMES), {"x": BIG})


def test_a_value_that_is_only_passed_on_may_be_larger() -> None:
    roots = {"x": {"text": BIG * 2, "list": [0] * 2_000_000}}
    assert evaluate(parse_template("{{x.text}}", NAMES), roots) is roots["x"]["text"]
    assert evaluate(parse_expression("len(x.list) + len(x.text)", NAMES), roots) == 3_800_000


def test_a_value_that_contains_itself_is_an_error() -> None:
    ring: list[Any] = []
    ring.append(ring)
    other: list[Any] = []
    other.append(other)
    for source in ("json(x)", "x == y", "x in y"):
        with pytest.raises(ExpressionError):
            evaluate(parse_expression(source, NAMES), {"x": ring, "y": other})


@pytest.mark.parametrize(
    "source",
    [
        "(" * 5000,
        "(" * 70 + "1" + ")" * 70,
        "[" * 5000,
        "{'a':" * 3000,
        "-" * 5000 + "1",
        "not " * 4000 + "1",
        "abs(" * 4000,
        "x" + "[x" * 5000,
        "x" + "[x]" * 5000,
        "1 if 1 else " * 1600 + "1",
        "1 + " * 4990 + "1 +" + " 2" * 100,
        "x" * 30_000,
        "'" + "x" * 30_000,
        "1" + " " * 30_000,
        "x.y" * 6000 + "(",
        "1+2*-(" * 3000,
    ],
    ids=lambda source: source[:10],
)
def test_sources_made_to_hurt_are_refused_quickly(source: str) -> None:
    started = time.process_time()
    for parse in (parse_expression, parse_condition):
        with pytest.raises(ExpressionError):
            parse(source, NAMES)
    with pytest.raises(ExpressionError):
        parse_template("{{" + source + "}}", NAMES)
    assert time.process_time() - started < 1


def test_long_flat_expressions_are_fine() -> None:
    assert evaluate(parse_expression(" + ".join(["1"] * 4000), NAMES), {}) == 4000
    assert evaluate(parse_expression(" and ".join(["true"] * 2000), NAMES), {}) is True
    assert evaluate(parse_expression("(" * 64 + "1" + ")" * 64, NAMES), {}) == 1


@pytest.mark.parametrize(
    ("source", "budget"),
    [
        ("1 + 1 + 1 + 1", Budget(steps=2)),
        ("-(-(-(-(1))))", Budget(depth=3)),
        ("json([[[[1]]]])", Budget(depth=3)),
        ("'ab' + 'cd'", Budget(string=3)),
        ("[1] + [2]", Budget(items=1)),
        ("range(2)", Budget(items=1)),
        ("255 * 255", Budget(integer_bits=8)),
        ("255 + 1", Budget(integer_bits=8)),
    ],
)
def test_a_smaller_budget_is_kept(source: str, budget: Budget) -> None:
    tree = parse_expression(source, NAMES)
    evaluate(tree, {})
    with pytest.raises(ExpressionError):
        evaluate(tree, {}, budget)


def test_each_evaluation_has_its_whole_budget() -> None:
    tree = parse_expression("x + 1", NAMES)
    for number in range(50):
        assert evaluate(tree, {"x": number}, Budget(steps=2)) == number + 1
