"""Dotted paths into plain data: `orders[0].total`, as field mappings and `extract_path` write them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from flowmason.errors import Code, StageError

_STEP = re.compile(r"\[(-?\d+)\]|\[(?:'([^']*)'|\"([^\"]*)\")\]|\.([^.\[\]]+)")


class _Missing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""What `pick` returns where a path leads nowhere; `None` is a value."""


@lru_cache(maxsize=1024)
def parse_dotted(text: str) -> tuple[str | int, ...]:
    """Read `a.b[0]['c.d']` as `("a", "b", 0, "c.d")`; `""` and `"$"` are the value itself.

    Raises `StageError` (`INVALID_INPUT`) for a path that cannot be read.
    """
    stripped = text.strip()
    if stripped in ("", "$"):
        return ()
    rest = stripped.removeprefix("$") if stripped.startswith(("$.", "$[")) else stripped
    if rest[0] not in ".[":
        rest = "." + rest
    elif rest[0] == "." and not stripped.startswith("$"):
        raise _unreadable(text)
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        match = _STEP.match(rest, at)
        if match is None:
            raise _unreadable(text)
        if match[1] is not None:
            steps.append(int(match[1]))
        else:
            steps.append(next(group for group in match.groups()[1:] if group is not None))
        at = match.end()
    return tuple(steps)


def _unreadable(text: str) -> StageError:
    return StageError(f"{text!r} is not a path such as 'orders[0].total'", code=Code.INVALID_INPUT)


def pick(value: Any, path: str) -> Any:
    """The value at `path` in plain data, or `MISSING`.

    A number after a dot (`items.0`) also indexes a list. A key that holds dots is found whole
    before it is taken apart.
    """
    if isinstance(value, Mapping) and path in value:
        return value[path]
    for step in parse_dotted(path):
        if isinstance(value, Mapping):
            key = step if step in value else str(step)
            if key not in value:
                return MISSING
            value = value[key]
        elif isinstance(value, list | tuple):
            index = step if isinstance(step, int) else int(step) if step.lstrip("-").isdecimal() else None
            if index is None or not -len(value) <= index < len(value):
                return MISSING
            value = value[index]
        else:
            return MISSING
    return value


def dead_end(value: Any, path: str) -> tuple[str, list[str]]:
    """Where a path that leads nowhere ends: the step that is not there, and the names that are."""
    for step in parse_dotted(path):
        found = pick(value, written([step]))
        if found is MISSING:
            return str(step), sorted(map(str, value)) if isinstance(value, Mapping) else []
        value = found
    return path, []


def written(steps: Sequence[str | int]) -> str:
    """The steps of `parse_dotted` as a path again."""
    return "".join(f"[{step}]" if isinstance(step, int) else f"[{_quoted(step)}]" for step in steps) or "$"


def _quoted(step: str) -> str:
    return f'"{step}"' if "'" in step else f"'{step}'"
