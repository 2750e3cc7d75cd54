"""Graders: what judges an output. Each gives a `Grade`; the judge is asked by whoever makes runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from flowmason.errors import ExpressionError, Fault, RefusedError, UsageError
from flowmason.expressions import Names, Template, evaluate, parse_condition, parse_template, references
from flowmason.pipeline.schemas import check_schema

ROOTS = ("input", "output", "expected")
"""What expressions of graders may read."""
KINDS = ("exact", "schema", "expression", "judge")
VERDICT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "pass": {"type": "boolean"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "reason": {"type": "string"},
    },
    "required": ["pass", "score", "reason"],
    "additionalProperties": False,
}
"""The JSON Schema of what a judge says."""


class Grade(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a grader says of one output."""

    passed: bool
    score: float
    """0 to 1."""
    reason: str = ""


class Grader(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """One grader as it is declared."""

    type: str
    name: str = ""
    """Its column in the table; default: its type."""
    of: str = "output"
    """Expression: what is judged (exact, schema)."""
    expected: str = "expected"
    """Expression: what it is compared with (exact)."""
    schema: dict[str, Any] | None = None
    expression: str | None = None
    """Gives true or false, or a score of 0 to 1 that `threshold` is held against."""
    threshold: float = 0.5
    """From this score on an expression passes."""
    prompt: Any = None
    """Of a judge: a template that may read `input`, `output` and `expected`, or a prompt by reference."""
    model: str | None = None
    provider: str | None = None

    @property
    def title(self) -> str:
        """Its name, or its type."""
        return self.name or self.type


def check_grader(grader: Grader, pointer: str, *, file: str | None = None) -> list[Fault]:
    """Everything that is wrong with a grader."""
    from flowmason.errors import did_you_mean

    found: list[Fault] = []

    def fault(key: str, reason: str, nearest: str | None = None) -> None:
        found.append(Fault(reason, f"{pointer}.{key}" if key else pointer, nearest=nearest, file=file))

    if grader.type not in KINDS:
        near = did_you_mean(grader.type, KINDS)
        fault("type", f"there is no grader {grader.type!r}; there are {', '.join(KINDS)}", near)
        return found
    needed = {"schema": "schema", "expression": "expression", "judge": "prompt"}.get(grader.type)
    if needed is not None and getattr(grader, needed) is None:
        fault("", f"a grader of type {grader.type!r} needs {needed!r}")
    if grader.schema is not None:
        found += [Fault(reason, f"{pointer}.schema", file=file) for _, reason in check_schema(grader.schema)]
    for key in ("of", "expected", "expression"):
        text = getattr(grader, key)
        if text is not None:
            for reason in _wrong(lambda text=text: parse_condition(text, _NAMES)):
                fault(key, reason)
    if grader.prompt is not None:
        given = grader.prompt.get("variables", {}) if isinstance(grader.prompt, dict) else grader.prompt
        for reason in _wrong(lambda: parse_template(given, _NAMES)):
            fault("prompt", reason)
    return found


_NAMES = Names(variables=frozenset(ROOTS))


def _wrong(parse: Any) -> list[str]:
    try:
        tree = parse()
    except ExpressionError as error:
        return [error.failure.message]
    strange = {reference.root for reference in references(tree)} - set(ROOTS)
    return [f"a grader reads input, output and expected, not {root}" for root in sorted(strange)]


def grade(grader: Grader, roots: Mapping[str, Any]) -> Grade:
    """Judge one output by a grader that needs no model."""
    try:
        if grader.type == "exact":
            given, wanted = _value(grader.of, roots), _value(grader.expected, roots)
            return (
                Grade(True, 1.0) if _same(given, wanted) else Grade(False, 0.0, f"{_short(given)} ≠ {_short(wanted)}")
            )
        if grader.type == "schema":
            return _fits(grader.schema or {}, _value(grader.of, roots))
        return _scored(_value(grader.expression or "", roots), grader.threshold)
    except ExpressionError as error:
        return Grade(False, 0.0, error.failure.message)


def filled(template: Any, roots: Mapping[str, Any]) -> Any:
    """A judge's prompt (or its variables) with a case's values in it. Raises `ExpressionError`."""
    tree: Template = parse_template(template, _NAMES)
    return evaluate(tree, dict(roots))


def verdict(data: Any) -> Grade:
    """What a judge said. Raises `ValueError` where it is no verdict."""
    if not isinstance(data, dict) or not isinstance(data.get("pass"), bool):
        raise ValueError("the judge gave no verdict")
    score = data.get("score")
    number = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else float(data["pass"])
    return Grade(data["pass"], min(1.0, max(0.0, number)), str(data.get("reason", "")))


def from_flag(text: str, read: Any) -> Grader:
    """`exact[:OF]`, `schema:FILE`, `expression:EXPR`, `judge:PROMPT`. `read` gives the JSON of a file.

    Raises `UsageError` and `RefusedError`.
    """
    kind, _, rest = text.partition(":")
    if kind in ("schema", "expression", "judge") and not rest:
        raise UsageError(f"--grade {kind} needs something after a colon: {kind}:…")
    fields: dict[str, Any] = {"type": kind}
    if kind == "exact" and rest:
        fields["of"] = rest
    elif kind == "schema":
        fields["schema"] = read(rest)
    elif kind == "expression":
        fields["expression"] = rest
    elif kind == "judge":
        fields["prompt"] = {"$prompt": rest, "variables": {name: f"{{{{{name}}}}}" for name in ROOTS}}
    grader = Grader(**fields)
    faults = check_grader(grader, "--grade")
    if faults:
        raise RefusedError(faults)
    return grader


def _value(expression: str, roots: Mapping[str, Any]) -> Any:
    return evaluate(parse_condition(expression, _NAMES), dict(roots))


def _scored(value: Any, threshold: float) -> Grade:
    if isinstance(value, bool):
        return Grade(value, float(value))
    if isinstance(value, int | float) and 0 <= value <= 1:
        low = value < threshold
        return Grade(not low, float(value), f"{value:g} is less than {threshold:g}" if low else "")
    return Grade(False, 0.0, f"the expression gave {_short(value)}, neither true, false nor a score of 0 to 1")


def _fits(schema: dict[str, Any], value: Any) -> Grade:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(value):
        return Grade(False, 0.0, f"{error.json_path}: {error.message[:200]}")
    return Grade(True, 1.0)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:79] + "…"
