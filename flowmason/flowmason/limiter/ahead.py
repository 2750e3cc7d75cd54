"""Places in a line that are let in ahead of the calls that take them: a busy process need not ask for each. Pure.

Whoever keeps the line lets in some more with a call, where there are plenty; they count as under way from then on. What
is not taken soon goes back. So no limit is passed by it; only who asked to be left alone may still be called for as
long as a place keeps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from flowmason.limiter.lines import Terms, Ticket

AHEAD_S = 1.0
"""For so long such a place keeps."""
MOST = 8
"""So many of them at most, with one call."""
_PART = 4
"""Of what is free, and of what a process has called within `AHEAD_S`."""

Key = tuple[str, str, Terms]
"""Whom, for which group, under which limits."""


@dataclass(slots=True)
class _Places:
    called: deque[float] = field(default_factory=deque)
    free: deque[tuple[float, Ticket]] = field(default_factory=deque)


class Ahead:
    """The places that one process has."""

    def __init__(self) -> None:
        self._places: dict[Key, _Places] = {}

    def wanted(self, key: Key, now: float) -> int:
        """Somebody calls: how many places to ask for with it."""
        if key[2].tokens_per_minute is not None:
            return 0  # what the next call may use, nobody knows
        called = self._places.setdefault(key, _Places()).called
        called.append(now)
        while called[0] <= now - AHEAD_S or len(called) > MOST * _PART:
            called.popleft()
        return min(MOST, len(called) // _PART)

    def take(self, key: Key, now: float) -> Ticket | None:
        """A place for a call, if there is one."""
        places = self._places.get(key)
        if places is None or not places.free or places.free[0][0] <= now:
            return None
        places.called.append(now)
        return places.free.popleft()[1]

    def put(self, key: Key, tickets: list[Ticket], asked_at: float) -> None:
        """Places that were let in with a call that was asked for at a moment."""
        self._places.setdefault(key, _Places()).free.extend((asked_at + AHEAD_S, each) for each in tickets)

    def over(self, now: float, subject: str | None = None) -> list[tuple[str, Ticket]]:
        """What goes back by now, each with its subject; `subject`: all places of that one."""
        found: list[tuple[str, Ticket]] = []
        for key in list(self._places):
            places = self._places[key]
            while places.free and (places.free[0][0] <= now or key[0] == subject):
                found.append((key[0], places.free.popleft()[1]))
            if not places.free and (not places.called or places.called[-1] <= now - AHEAD_S):
                del self._places[key]
        return found

    @property
    def free(self) -> list[tuple[str, Ticket]]:
        """All places that are there, each with its subject."""
        return [(key[0], ticket) for key, places in self._places.items() for _, ticket in places.free]


def room(wanted: int, free: int | None) -> int:
    """How many of `wanted` are let in ahead where `free` are left (None: any number)."""
    return wanted if free is None else max(0, min(wanted, free // _PART))


def names(ticket: Ticket, count: int) -> list[str]:
    """What the places are called that are let in with a ticket."""
    return [f"{ticket.id}+{n}" for n in range(1, count + 1)]
