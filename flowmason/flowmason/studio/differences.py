"""What differs between two pipelines, as JSON paths. Pure; for people who wrote at the same time, and for deploys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from flowmason.pipeline import Path, format_pointer

MOST = 200
"""Differences that are listed."""


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One place where two documents differ."""

    pointer: str
    """JSON path; stages are named by their ids: `$.stages["fetch"].config.url`."""
    change: str
    """`added`, `removed` or `changed`, seen from the first document."""
    before: Any = None
    after: Any = None


def differences(before: Any, after: Any) -> list[Difference]:
    """What it takes to get from `before` to `after`, at most `MOST`, in the order of `before`."""
    found: list[Difference] = []
    for each in _compare(before, after, ()):
        if len(found) == MOST:
            break
        found.append(each)
    return found


def _compare(before: Any, after: Any, path: Path) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key, value in before.items():
            if key not in after:
                yield Difference(format_pointer((*path, key)), "removed", before=value)
            else:
                yield from _compare(value, after[key], (*path, key))
        for key, value in after.items():
            if key not in before:
                yield Difference(format_pointer((*path, key)), "added", after=value)
        return
    ours, theirs = _by_id(before), _by_id(after)
    if ours is not None and theirs is not None:
        yield from _compare(ours, theirs, path)
        if list(ours) != list(theirs) and ours.keys() == theirs.keys():
            yield Difference(format_pointer(path), "changed", before=list(ours), after=list(theirs))
        return
    if type(before) is not type(after) or before != after:
        yield Difference(format_pointer(path), "changed", before=before, after=after)


def _by_id(value: Any) -> dict[str, Any] | None:
    """A list of objects with ids of their own, by id."""
    if not isinstance(value, list) or not value:
        return None
    ids = [item.get("id") if isinstance(item, Mapping) else None for item in value]
    if any(not isinstance(each, str) for each in ids) or len(set(ids)) != len(ids):
        return None
    return dict(zip(ids, value, strict=True))  # type: ignore[arg-type]
