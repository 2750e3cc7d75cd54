"""Data sets: one case a line, `{"input": …, "expected": …, "id": …, "tags": […]}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flowmason.document import parse_document
from flowmason.errors import Code, Fault, RefusedError, UsageError, did_you_mean

MOST_CASES = 100_000
_KEYS = ("input", "expected", "id", "tags")


class Case(msgspec.Struct, frozen=True):
    """One input, and what is expected of it."""

    id: str
    """As written, else `case-<line>`."""
    input: dict[str, Any]
    expected: Any = None
    tags: tuple[str, ...] = ()


def read_cases(path: Path, *, shown: str | None = None) -> list[Case]:
    """The cases of a JSON Lines file; empty lines count for nothing.

    Raises `RefusedError` with every fault in its line, and `UsageError` where the file cannot be read.
    """
    file = shown or str(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        code = Code.NOT_FOUND if isinstance(error, FileNotFoundError) else Code.USAGE
        raise UsageError(f"cannot read {file}: {error.strerror or error}", code=code) from None
    except UnicodeDecodeError:
        raise RefusedError([Fault("not UTF-8", file=file)]) from None
    found: list[Case] = []
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        case = _case(line, number, file, faults)
        if case is None:
            continue
        if case.id in seen:
            faults.append(Fault(f"the id {case.id!r} is taken by line {seen[case.id]}", "$.id", number, 1, file=file))
        seen.setdefault(case.id, number)
        found.append(case)
        if len(found) > MOST_CASES:
            raise RefusedError([*faults, Fault(f"there are more than {MOST_CASES:,} cases", line=number, file=file)])
    if not found and not faults:
        faults.append(Fault("there are no cases in it", file=file))
    if faults:
        raise RefusedError(faults[:200])
    return found


def _case(line: str, number: int, file: str, faults: list[Fault]) -> Case | None:
    def fault(reason: str, pointer: str = "$", column: int = 1, nearest: str | None = None) -> None:
        faults.append(Fault(reason, pointer, number, column, nearest, file))

    try:
        value = parse_document(line, format="json").value
    except RefusedError as error:
        for each in error.faults:
            fault(each.reason, each.pointer, each.column or 1)
        return None
    if not isinstance(value, dict):
        fault("a case is an object with the key 'input'")
        return None
    before = len(faults)
    for key in value:
        if key not in _KEYS:
            fault(f"unknown key {key!r}", f"$.{key}", nearest=did_you_mean(key, _KEYS))
    if "input" not in value:
        fault("the key 'input' is missing")
    elif not isinstance(value["input"], dict):
        fault("the input of a run is an object", "$.input")
    name, tags = value.get("id"), value.get("tags")
    if name is not None and (not isinstance(name, str | int) or isinstance(name, bool) or name == ""):
        fault("an id is a text or a whole number", "$.id")
    if tags is not None and (not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags)):
        fault("tags are a list of texts", "$.tags")
    if len(faults) > before:
        return None
    shown = f"case-{number}" if name is None else str(name)
    return Case(shown, value["input"], value.get("expected"), tuple(tags or ()))
