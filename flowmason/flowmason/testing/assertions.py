"""Assertions: paths into a result, and the operators that are asked of what is there. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from flowmason.errors import did_you_mean
from flowmason.testing.files import Assertion, Check

Step = str | int

_TOKEN = re.compile(r"""\.?([^.\[\]]+)|\[(-?\d+)\]|\[("(?:[^"\\]|\\.)*"|'[^']*')\]""")
_NUMBER = re.compile(r"-?\d+\Z")
_SHOWN = 200

MISSING: Any = object()
"""What a path that leads nowhere gives."""


def parse_path(text: str) -> tuple[Step, ...]:
    """The steps of a path: `items.0.name`, `items[-1].name`, `["a.b"].c`. Raises `ValueError`."""
    steps: list[Step] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or (position > 0 and match[1] is not None and text[position] not in ".]"):
            raise ValueError(f"{text!r} is not a path such as output.items[0].name")
        name, index, quoted = match.groups()
        if name is not None:
            if position == 0 and text.startswith("."):
                raise ValueError(f"{text!r} begins with a dot")
            steps.append(name)
        elif index is not None:
            steps.append(int(index))
        else:
            steps.append(str(msgspec.json.decode(quoted)) if quoted[0] == '"' else quoted[1:-1])
        position = match.end()
    return tuple(steps)


def follow(steps: Sequence[Step], outcome: Mapping[str, Any]) -> tuple[Any, str]:
    """The value at a path, and where the path ends if it leads nowhere (the value is `MISSING` then).

    Paths go from the output, whether they begin with `output` or not; those that begin with `$` go from the whole
    outcome (`$.status`, `$.error.code`, `$.stages.draft.output`).
    """
    if steps[:1] == ("$",):
        here, rest = outcome, steps[1:]
    else:
        here, rest = outcome["output"], steps[1:] if steps[:1] == ("output",) else steps
    for position, step in enumerate(rest):
        found = _step(here, step)
        if found is MISSING:
            return MISSING, _nowhere(here, rest[:position], step)
        here = found
    return here, ""


def _step(here: Any, step: Step) -> Any:
    if isinstance(here, Mapping):
        return here.get(str(step), MISSING)
    if isinstance(here, str | list) and step == "length":
        return len(here)
    if isinstance(here, list) and (isinstance(step, int) or _NUMBER.match(step)):
        index = int(step)
        return here[index] if -len(here) <= index < len(here) else MISSING
    return MISSING


def _nowhere(here: Any, before: Sequence[Step], step: Step) -> str:
    where = ".".join(str(part) for part in before) or "the output"
    if isinstance(here, Mapping):
        near = did_you_mean(str(step), [str(key) for key in here])
        if near:
            return f"{where} has no {step!r}; did you mean {near!r}?"
        keys = ", ".join(str(key) for key in list(here)[:8]) or "no fields"
        return f"{where} has no {step!r}; it has {keys}"
    if isinstance(here, list):
        return f"{where} is a list of {len(here)}, there is no {step!r} in it"
    return f"{where} is {shown(here)}, there is no {step!r} in it"


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal: `true` is no number, 1 and 1.0 are the same, order of keys is nothing."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}
TYPES = tuple(_TYPES)


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    if isinstance(value, list):
        return any(same(item, wanted) for item in value)
    if isinstance(value, Mapping):
        if isinstance(wanted, str):
            return wanted in value
        if isinstance(wanted, Mapping):
            return all(key in value and same(value[key], item) for key, item in wanted.items())
    return False


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    number = _TYPES["number"]

    def check(value: Any, limit: Any) -> bool:
        if number(value) and number(limit):
            return compare(value, limit)
        return isinstance(value, str) and isinstance(limit, str) and compare(value, limit)

    return check


def _length(compare: Callable[[int, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, limit: isinstance(value, str | list | Mapping) and compare(len(value), limit)


def _affix(method: str) -> Callable[[Any, Any], bool]:
    return lambda value, wanted: isinstance(value, str) and getattr(value, method)(wanted)


_less, _more = _ordered(lambda a, b: a < b), _ordered(lambda a, b: a > b)
_shorter, _longer = _length(lambda size, limit: size < limit), _length(lambda size, limit: size > limit)
_as_long = _length(lambda size, limit: size == limit)

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "exists": lambda value, wanted: (value is not None) is bool(wanted),
    "notExists": lambda value, wanted: (value is None) is bool(wanted),
    "type": lambda value, wanted: _TYPES[wanted](value),
    "equals": same,
    "deepEquals": same,
    "notEquals": lambda value, wanted: not same(value, wanted),
    "contains": _contains,
    "includes": _contains,
    "notContains": lambda value, wanted: isinstance(value, str | list | Mapping) and not _contains(value, wanted),
    "includesAll": lambda value, wanted: all(_contains(value, item) for item in wanted),
    "startsWith": _affix("startswith"),
    "endsWith": _affix("endswith"),
    "matches": lambda value, wanted: isinstance(value, str) and re.search(wanted, value) is not None,
    "lessThan": _less,
    "greaterThan": _more,
    "lessThanOrEqual": _ordered(lambda a, b: a <= b),
    "greaterThanOrEqual": _ordered(lambda a, b: a >= b),
    "hasLength": _as_long,
    "lengthEquals": _as_long,
    "hasMinLength": _length(lambda size, limit: size >= limit),
    "hasMaxLength": _length(lambda size, limit: size <= limit),
    "lengthLessThan": _shorter,
    "lengthGreaterThan": _longer,
}
_LENGTHS = frozenset(name for name in OPERATORS if "ength" in name)
_WORDS = {
    "equals": "equal",
    "deepEquals": "equal",
    "notEquals": "differ from",
    "contains": "contain",
    "includes": "include",
    "includesAll": "include all of",
    "notContains": "not contain",
    "startsWith": "start with",
    "endsWith": "end with",
    "matches": "match",
    "lessThan": "be less than",
    "greaterThan": "be greater than",
    "lessThanOrEqual": "be at most",
    "greaterThanOrEqual": "be at least",
    "hasLength": "have length",
    "lengthEquals": "have length",
    "hasMinLength": "have a length of at least",
    "hasMaxLength": "have a length of at most",
    "lengthLessThan": "be shorter than",
    "lengthGreaterThan": "be longer than",
}


def wrong_expectation(check: Check) -> str | None:
    """Why nothing could ever fulfil a check, as a sentence; None: it makes sense."""
    name, wanted = check.operator, check.expected
    if name in ("exists", "notExists") and not isinstance(wanted, bool):
        return "true or false is expected"
    if name == "type" and wanted not in TYPES:
        near = did_you_mean(wanted, TYPES) if isinstance(wanted, str) else None
        return f"the types are {', '.join(TYPES)}" + (f"; did you mean {near!r}?" if near else "")
    if name in _LENGTHS and not (_TYPES["integer"](wanted) and wanted >= 0):
        return "a length is a whole number"
    if name in ("startsWith", "endsWith", "matches") and not isinstance(wanted, str):
        return "a text is expected"
    if name == "includesAll" and not isinstance(wanted, list):
        return "a list is expected"
    if "Than" in name and name not in _LENGTHS and not isinstance(wanted, str) and not _TYPES["number"](wanted):
        return "a number (or a text) is expected"
    if name == "matches":
        try:
            re.compile(wanted)
        except re.error as error:
            return f"not a regular expression: {error}"
    return None


class AssertionResult(msgspec.Struct, frozen=True):
    """How one assertion went."""

    path: str
    passed: bool
    message: str
    """What was wanted; for a failure also what was there."""
    expected: Any = None
    actual: Any = None


def judge(assertion: Assertion, outcome: Mapping[str, Any]) -> AssertionResult:
    """Hold an assertion against an outcome: `output`, `status`, `error`, `stages` as plain data."""
    value, lost = follow(parse_path(assertion.path), outcome)
    expected = assertion.checks[0].expected if len(assertion.checks) == 1 else _expectations(assertion)
    for check in assertion.checks:
        if value is MISSING:
            passed = check.operator == "notExists" and check.expected is True
            passed = passed or (check.operator == "exists" and check.expected is False)
        else:
            passed = OPERATORS[check.operator](value, check.expected)
        if not passed:
            reason = lost or f"it is {shown(value)}"
            said = f"{assertion.message}: " if assertion.message else ""
            actual = None if value is MISSING else value
            return AssertionResult(
                assertion.path, False, f"{said}{assertion.path} should {_words(check)}; {reason}", expected, actual
            )
    wanted = " and ".join(_words(check) for check in assertion.checks)
    return AssertionResult(
        assertion.path, True, f"{assertion.path} should {wanted}", expected, None if value is MISSING else value
    )


def _expectations(assertion: Assertion) -> dict[str, Any]:
    return {check.operator: check.expected for check in assertion.checks}


def _words(check: Check) -> str:
    if check.operator in ("exists", "notExists"):
        return "be there" if (check.operator == "exists") is bool(check.expected) else "not be there"
    if check.operator == "type":
        return f"be of type {check.expected}"
    return f"{_WORDS[check.operator]} {shown(check.expected)}"


def shown(value: Any) -> str:
    """A value as JSON, shortened for people."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
