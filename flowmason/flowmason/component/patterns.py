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
_WAYS = 12
"""So many choices one after the other, as in `a?a?a?…`, are as bad as a repeat of one."""
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
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
    """Whether choices multiply (a choice within a repeat, or many of them), and how many long repeats there are."""
    whole = _parser.parse(pattern)
    repeats = [argument for operation, argument in _walk(whole) if operation in _REPEATS]
    # A fixed repeat, as in `(a?){40}`, multiplies the ways through its body as well.
    nested = any(most > _FEW and _ways(body) for _, most, body in repeats)
    return nested or _ways(whole) > _WAYS, sum(most - least > _FEW for least, most, _ in repeats)


def _ways(body: Any) -> int:
    """How many operations of a body leave a choice."""
    return sum(
        operation is _constants.BRANCH or (operation in _REPEATS and argument[0] != argument[1])
        for operation, argument in _walk(body)
    )


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
