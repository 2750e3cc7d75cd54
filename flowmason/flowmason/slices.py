"""What an org may spend a day, and the slices of it that conductors hold: data, and the one rule. Pure.

    spent today + free in slices + reserved by runs  ≤  the org's budget

A conductor takes a *slice* under the lock of the org's budget, and then reserves out of it alone: in the commit that
starts an attempt its allowance moves from the slice to the run, in the commit that ends it what was not spent moves
back. A conductor that dies loses its slice; what its runs have reserved stays with them, and whoever adopts them
settles it into a slice of its own.
"""

from __future__ import annotations

import msgspec

from flowmason.usage import Amount, Limit

PART = 16
"""A slice is at least such a part of the budget, where that is left."""


class Day(msgspec.Struct, frozen=True):
    """How an org's budget of one day stands."""

    limit: Limit
    spent: Amount = Amount()
    free: Amount = Amount()
    """In the slices of conductors."""
    reserved: Amount = Amount()
    """By attempts under way."""

    @property
    def taken(self) -> Amount:
        """All that is not to be had any more."""
        return self.spent + self.free + self.reserved


class Taken(msgspec.Struct, frozen=True):
    """What a conductor got of a slice that it asked for."""

    day: Day
    """With what it got."""
    got: Amount | None
    """None: what it needs is not left."""
    may_come: bool = False
    """Whether more may be left once others settle, or give their slices back."""


class Moves(msgspec.Struct, frozen=True):
    """What one commit of a run moves between its conductor's slice, the run's reservations and what is spent."""

    day: str
    free: Amount
    """Added to the slice."""
    spent: Amount
    """Added to what is spent."""
    reserved: Amount
    """All that the run has reserved from now on."""


def take(day: Day, need: Amount, own_free: Amount) -> Taken:
    """A slice for a conductor that needs at least `need` more; `own_free` of `day.free` is its own already."""
    limit = day.limit
    left = limit.less(day.taken)
    if not left.fits(need):
        # What others hold, and what is reserved, may come back.
        back = day.free - own_free + day.reserved
        return Taken(day, None, limit.less(day.taken - back).fits(need))
    part = Amount(-(-(limit.nanodollars or 0) // PART), -(-(limit.tokens or 0) // PART)).most(need)
    got = Amount(
        part.nanodollars if left.nanodollars is None else min(part.nanodollars, left.nanodollars),
        part.tokens if left.tokens is None else min(part.tokens, left.tokens),
    )
    return Taken(msgspec.structs.replace(day, free=day.free + got), got)
