"""Collecting everything that is wrong with a pipeline, so that it is all told at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from flowmason.errors import Code, Fault, RefusedError, did_you_mean

LAST = 1 << 30
"""Where a fault stands that belongs to no stage."""
_LISTED = 200
_MOST = 500
_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*\Z")


class Known(Enum):
    """What a check takes as known. Where a fault that is told already leaves it open, the check tells nothing."""

    BODIES = "which stages stand in which body"
    EDGES = "which stage comes before which"
    SETTERS = "which stage sets which variable"


class _Found(NamedTuple):
    stage: int
    fault: Fault
    rests: Known | None
    missing: str | None


class Faults:
    """The faults found so far, each under the position of its stage in the file.

    `nameless` stages have no id that could be used: as many names that no stage has may mean them, and are not told.
    """

    def __init__(self, nameless: float = 0) -> None:
        self._found: list[_Found] = []
        self._seen: set[tuple[str, str]] = set()
        self._nameless = nameless
        self.open: set[Known] = set()
        """What faults have left open."""

    def add(
        self,
        pointer: str,
        reason: str,
        *,
        stage: int = LAST,
        wrong: str | None = None,
        known: Iterable[str] = (),
        nearest: str | None = None,
        code: str = Code.INVALID_DOCUMENT,
        rests: Known | None = None,
        missing: str | None = None,
    ) -> None:
        """Note one fault. With `wrong`, the nearest of `known` is suggested; `stage` is its position in the file.

        It is told only where what it `rests` on is known; `missing` is the id of a stage that there is not. Raises
        `RefusedError` with what was found where there are too many to go on.
        """
        if (pointer, reason) in self._seen:
            return
        self._seen.add((pointer, reason))
        if nearest is None and wrong is not None:
            nearest = close_to(wrong, known)
        fault = Fault(reason=reason, pointer=pointer, nearest=nearest, code=code)
        self._found.append(_Found(stage, fault, rests, missing))
        if len(self._found) == _MOST:
            # Looking for the nearest names costs; who has this many faults needs no more of them.
            self.raise_if_any()

    def take(self, fault: Fault, *, stage: int = LAST) -> None:
        """Note a fault that somebody else put into words."""
        self.add(fault.pointer, fault.reason, stage=stage, nearest=fault.nearest, code=fault.code)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def listed(self) -> list[Fault]:
        """In file order; of very many the first 200, and one that says that there are more."""
        ordered = [entry.fault for entry in sorted(self._told(), key=lambda entry: entry.stage)]
        if len(ordered) <= _LISTED:
            return ordered
        least = "at least " if len(ordered) == _MOST else ""
        return [*ordered[:_LISTED], Fault(f"{least}{len(ordered) - _LISTED} more faults are not listed", "$")]

    def _told(self) -> list[_Found]:
        found = [entry for entry in self._found if entry.rests not in self.open]
        # Names that are like no other are the likelier ones of stages without a name.
        missing = {entry.missing: entry.fault.nearest is not None for entry in found if entry.missing}
        ordered = sorted(missing, key=lambda name: missing[name])
        excused = set(ordered if self._nameless >= len(ordered) else ordered[: int(self._nameless)])
        return [entry for entry in found if entry.missing not in excused]

    def raise_if_any(self) -> None:
        """Raise `RefusedError` with all of them in file order, if there are any."""
        if self._found:
            raise RefusedError(self.listed or [entry.fault for entry in self._found])


def close_to(wrong: str, known: Iterable[str]) -> str | None:
    """The nearest of `known`; looks only at names of a like length, so that it stays quick in a large file."""
    if len(wrong) > 100:
        return None
    known = list(known)
    longer = [name for name in known if name.startswith(wrong)] if len(wrong) > 2 else []
    if len(longer) == 1:
        return longer[0]
    plausible = [name for name in known if abs(len(name) - len(wrong)) <= 4]
    if len(plausible) > 500:
        plausible = [name for name in plausible if name[:1].lower() == wrong[:1].lower()][:500]
    return did_you_mean(wrong, plausible)


def below(pointer: str, key: str | int) -> str:
    """The JSON path one step further: `$.a` and `b` give `$.a.b`."""
    if isinstance(key, int):
        return f"{pointer}[{key}]"
    return f"{pointer}.{key}" if _PLAIN.match(key) else f"{pointer}[{json.dumps(key)}]"


def some(names: Iterable[str], limit: int = 8) -> str:
    """A few names for a message."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
