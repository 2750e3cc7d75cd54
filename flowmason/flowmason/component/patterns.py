"""Regular expressions of schemas held against texts of strangers, without hanging.

Python's `re` tries every way to cut a text: `^(a+)+$` takes years for forty letters, and nothing can interrupt it, no
timeout of a stage and no Ctrl-C. So a pattern that could do that is matched in a process of its own, which is ended
after a while; all others, nearly all there are, are matched here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from re import _constants, _parser
from typing import Any

from flowmason.errors import Code, StageError

SECONDS = 5.0
"""So long one text may take."""
_SHORT = 8
"""Texts up to this length are matched in a moment, whatever the pattern."""
_LONG = 2_000
"""Beyond this, a few repeats beside each other are slow as well."""
_BESIDE = 3
_FEW = 10
_CODE = "import json, re, sys; pattern, text = json.load(sys.stdin); print(int(re.search(pattern, text) is not None))"


def found_in(pattern: str, text: str) -> bool:
    """Whether `pattern` matches somewhere in `text`. Raises `StageError` where that takes more than 5 s, `re.error`."""
    nested, repeats = _shape(pattern)
    if len(text) <= _SHORT or not (nested or (repeats >= _BESIDE and len(text) > _LONG)):
        return re.search(pattern, text) is not None
    import subprocess
    import sys

    command = [sys.executable, "-I", "-S", "-c", _CODE]
    try:
        done = subprocess.run(
            command, input=json.dumps([pattern, text]), capture_output=True, text=True, check=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise StageError(
            f"the pattern {pattern[:100]!r} takes more than {SECONDS:g} s for a text of {len(text):,} characters",
            code=Code.INVALID_INPUT,
            help="A repeat within a repeat, as in (a+)+, tries every way to cut the text; write it as one repeat.",
        ) from None
    return done.stdout.strip() == "1"


@lru_cache(16)
def bounded(kind: Any) -> Any:
    """A class of validators of `jsonschema` whose keyword `pattern` does not hang; it raises as `found_in` does."""
    from jsonschema.validators import extend

    return extend(kind, {"pattern": _pattern})  # type: ignore[no-untyped-call]


def _pattern(validator: Any, pattern: str, text: Any, schema: Any) -> Iterator[Any]:
    """The keyword `pattern`."""
    from jsonschema.exceptions import ValidationError

    if validator.is_type(text, "string") and not found_in(pattern, text):
        yield ValidationError(f"{text!r} does not match {pattern!r}")


@lru_cache(512)
def _shape(pattern: str) -> tuple[bool, int]:
    """Whether a repeat stands within a repeat (or a choice within one), and how many repeats there are."""
    repeats = list(_repeats(_parser.parse(pattern)))
    return any(_steps(body) for body in repeats), len(repeats)


def _repeats(node: Any) -> Iterator[Any]:
    """The bodies of all repeats that can be taken many times."""
    for operation, argument in _walk(node):
        if operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT) and argument[1] - argument[0] > _FEW:
            yield argument[2]


def _steps(body: Any) -> bool:
    """Whether there is more than one way through a body."""
    ways = (_constants.BRANCH, _constants.MAX_REPEAT, _constants.MIN_REPEAT)
    return any(operation in ways for operation, _ in _walk(body))


def _walk(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every operation of a pattern and of what stands in it."""
    pending = [node]
    while pending:
        here = pending.pop()
        if isinstance(here, _parser.SubPattern):
            for operation, argument in here:
                yield operation, argument
                pending.append(argument)
        elif isinstance(here, tuple | list):
            pending.extend(here)


__all__ = ["SECONDS", "bounded", "found_in"]
