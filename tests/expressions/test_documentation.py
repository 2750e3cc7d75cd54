"""Every example of docs/expressions.md is run, and every function is described there."""

import json
import re
from pathlib import Path as File

import pytest

from flowmason.errors import ExpressionError
from flowmason.expressions import (
    ABSENT,
    FUNCTION_ARITY,
    Names,
    evaluate,
    parse_condition,
    parse_expression,
    parse_template,
)

PAGE = (File(__file__).parents[2] / "docs" / "expressions.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
ROOTS = json.loads(next(body for kind, body in BLOCKS if kind == "json"))
ROOTS["upstream"]["maybe"] = ABSENT
NAMES = Names(frozenset(ROOTS["upstream"]), frozenset({"item", "index"}))
EXAMPLES = [
    (kind, *(part.strip() for part in line.rsplit(" => ", 1)))
    for kind, body in BLOCKS
    if kind in ("expressions", "templates", "conditions")
    for line in body.splitlines()
]


@pytest.mark.parametrize(("kind", "source", "expected"), EXAMPLES)
def test_the_examples_of_the_page_give_what_it_says(kind: str, source: str, expected: str) -> None:
    def run() -> object:
        if kind == "expressions":
            return evaluate(parse_expression(source, NAMES), ROOTS)
        parse = parse_template if kind == "templates" else parse_condition
        return evaluate(parse(json.loads(source), NAMES), ROOTS)

    if expected.startswith("error: "):
        with pytest.raises(ExpressionError, match=re.escape(expected.removeprefix("error: "))):
            run()
    else:
        result, wanted = run(), json.loads(expected)
        assert result == wanted and type(result) is type(wanted)


def test_the_page_has_examples_of_every_kind_and_names_every_function() -> None:
    assert {kind for kind, _, _ in EXAMPLES} == {"expressions", "templates", "conditions"} and len(EXAMPLES) > 60
    for name in FUNCTION_ARITY:
        assert f"`{name}(" in PAGE or f"`{name}`" in PAGE
        assert any(f"{name}(" in source for _, source, _ in EXAMPLES), name
