"""Limits of a rate, by the generic cell rate algorithm (GCRA, ITU-T I.371): the port, and the arithmetic.

A subject may do `rate.count` things in `rate.per_s` seconds, and `rate.burst` at once. All that is kept of it is one
time: when it would have caught up with what it did. Pure: time is passed in.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Rate(msgspec.Struct, frozen=True):
    """How often something may be done."""

    count: float
    per_s: float
    burst: int
    """How many of them at once, at least 1."""

    @property
    def interval_s(self) -> float:
        """The time that one takes."""
        return self.per_s / self.count

    @classmethod
    def window(cls, count: int, per_s: float) -> Rate:
        """No more than `count` in any `per_s` seconds, a tenth of them at once."""
        burst = max(1, count // 10)
        return cls(count - burst + 1, per_s, burst)

    def shared(self, parts: int) -> Rate:
        """The part of one of several that cannot ask each other: together they never allow more than this rate does.

        There are to be no more parts than `burst`: each part must be able to allow one.
        """
        burst = max(1, self.burst // parts)
        return Rate(self.count / parts, self.per_s, burst)


class Verdict(msgspec.Struct, frozen=True):
    """The answer of a limiter."""

    allowed: bool
    remaining: int
    """How many more would be allowed at once now."""
    wait_s: float
    """When it is worth asking again; 0 where it was allowed."""


class Limiter(Protocol):
    """Counts what subjects do."""

    async def take(self, subject: str, rate: Rate) -> Verdict:
        """Count one thing that a subject does, if it may. Raises `EngineUnavailableError` where nobody can tell."""
        ...


def decide(caught_up: float | None, now: float, rate: Rate) -> tuple[Verdict, float]:
    """Whether one more may be done at `now` (seconds), and the time to keep.

    `caught_up` is what was kept; None for a subject that is not known.
    """
    slack = rate.interval_s * rate.burst
    earliest = max(caught_up if caught_up is not None else now, now)
    after = earliest + rate.interval_s
    over = after - (now + slack)
    if over > 1e-9:
        return Verdict(False, 0, over), caught_up if caught_up is not None else now
    return Verdict(True, int((now + slack - after) / rate.interval_s + 1e-9), 0.0), after
