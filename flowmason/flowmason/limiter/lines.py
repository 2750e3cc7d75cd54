"""The line before somebody who is called: who may go in, who waits, who is turned away. Pure: time is passed in.

Calls wait in the order in which they came, the groups (orgs) among them by turns. Who was asked to come back later, or
has not been reached several times in a row, is left alone for a while.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import StrEnum
from typing import Protocol

import msgspec

from flowmason.limiter.rates import Rate, decide
from flowmason.limiter.windows import Window

LEASE_S = 30.0
"""A holder that has shown no sign of life for so long has died; its places are free again."""
_EPSILON = 1e-6


class Breaker(msgspec.Struct, frozen=True):
    """When somebody who cannot be reached is left alone."""

    failures: int = 5
    """After so many calls in a row that did not reach them."""
    open_s: float = 30.0
    """For so long; then one call tries."""


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """The limits that a call keeps to."""

    concurrency: int | None = None
    """At most so many at once."""
    rate: Rate | None = None
    breaker: Breaker | None = None
    tokens_per_minute: int | None = None
    """At most so many by the calls that begin in any minute."""

    @property
    def shared(self) -> bool:
        """Whether they can only be kept together with everybody else."""
        return self.concurrency is not None or self.rate is not None or self.tokens_per_minute is not None


class Cause(StrEnum):
    """Why a call may not be made now."""

    CONCURRENCY = "concurrency"
    RATE = "rate"
    TOKENS = "tokens"
    ASKED = "asked"
    """They asked us to come back later."""
    BROKEN = "broken"
    """They have not been reached several times in a row."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of somebody who came: in, or turned away because of `refused`."""

    refused: Cause | None = None
    wait_s: float = 0.0
    """Where turned away: when it is worth coming back."""
    ahead: int = 0
    """So many more places were let in with it (`ahead.names`)."""


class Ticket(msgspec.Struct, frozen=True):
    """Somebody who wants to call."""

    id: str
    holder: str
    """Whose signs of life count for it (a process); empty: none are needed."""
    group: str
    """Groups take turns."""
    terms: Terms
    patience_s: float = 0.0
    """How long it waits where they asked us to come back later; more than that, and it is turned away."""
    tokens: int = 0
    """How many it is likely to use at most."""


class Finish(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a call went, as far as it matters for those that follow."""

    reached: bool | None = None
    """Whether they were reached; None: nobody knows, it was given up."""
    come_back_s: float | None = None
    """They asked us to come back after so long."""
    tokens: int | None = None
    """How many it used; None: nobody knows, so what it was likely to use stands."""


class CallLimiter(Protocol):
    """Lets calls to somebody in, one line for each `subject`."""

    async def enter(self, subject: str, ticket: Ticket) -> Entry:
        """Wait until the call may be made, or is turned away. Who cancels has left the line."""
        ...

    async def leave(self, subject: str, ticket: Ticket, finish: Finish) -> None:
        """The call is over."""
        ...


class Line:
    """One line. Call `look` after every change, and at the time that it says."""

    def __init__(self) -> None:
        self.held: dict[str, Ticket] = {}
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._seen: dict[str, float] = {}
        self._caught_up: float | None = None
        self._asked_until = float("-inf")
        self._failures = 0
        self._open_until = float("-inf")
        self._probe: str | None = None
        self._tokens = Window()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(each) for each in self._waiting.values())

    def idle(self, now: float) -> bool:
        """Whether a new line would do as well."""
        at_rest = self._caught_up is None or self._caught_up <= now
        fresh = not self._failures and max(self._asked_until, self._open_until) <= now
        return at_rest and fresh and not self.held and not self._waiting and self._tokens.idle(now)

    def arrive(self, ticket: Ticket, now: float) -> None:
        """Somebody lines up. One that is known already changes nothing."""
        self.beat(ticket.holder, now)
        group = self._waiting.setdefault(ticket.group, deque())
        if ticket.id not in self.held and all(each.id != ticket.id for each in group):
            group.append(ticket)

    def withdraw(self, ticket: Ticket) -> None:
        """Somebody who waited has gone. Who had just been let in goes out again."""
        group = self._waiting.get(ticket.group)
        if group is not None and ticket in group:
            group.remove(ticket)
            if not group:
                del self._waiting[ticket.group]
        self.leave(ticket, Finish(tokens=0), float("-inf"))

    def leave(self, ticket: Ticket, finish: Finish, now: float) -> None:
        """A call is over. What one says that was not let in counts all the same: its place was given up for dead."""
        self.held.pop(ticket.id, None)
        if finish.tokens is not None:
            self._tokens.settle(ticket.id, finish.tokens)
        if finish.come_back_s is not None:
            self._asked_until = max(self._asked_until, now + finish.come_back_s)
        if ticket.id == self._probe:
            self._probe = None
        if finish.reached:
            self._failures, self._open_until = 0, float("-inf")
        elif finish.reached is False:
            self._failures += 1
            breaker = ticket.terms.breaker
            if breaker is not None and self._failures >= breaker.failures:
                self._open_until = now + breaker.open_s

    def beat(self, holder: str, now: float, holds: tuple[Ticket, ...] = ()) -> None:
        """A sign of life. `holds` are let in already: whoever keeps the line may be new."""
        if holder:
            self._seen[holder] = now
        for ticket in holds:
            if ticket.id not in self.held:
                self.held[ticket.id] = ticket
                self._count(ticket, now)

    def look(self, now: float) -> tuple[dict[str, Entry], float | None]:
        """Who is let in or turned away now, and when to look again at the latest (None: after the next change)."""
        self._bury(now)
        settled: dict[str, Entry] = {}
        while self._waiting:
            group, tickets = next(iter(self._waiting.items()))
            ticket = tickets[0]
            cause, until = self._hindrance(ticket, now)
            turned_away = cause is Cause.BROKEN or (cause is Cause.ASKED and until - now > ticket.patience_s)
            if cause is not None and not turned_away:
                return settled, min(until, self._next_death())
            tickets.popleft()
            if tickets:
                self._waiting.move_to_end(group)
            else:
                del self._waiting[group]
            if cause is not None:
                settled[ticket.id] = Entry(cause, max(0.0, until - now))
                continue
            settled[ticket.id] = Entry()
            self._let_in(ticket, now)
        return settled, None

    def free(self, ticket: Ticket, now: float) -> int | None:
        """How many more calls like this one could go in at once, beside those who wait; None: any number."""
        if self._waiting or self._failures or self._asked_until > now + _EPSILON:
            return 0
        terms, found = ticket.terms, []
        if terms.concurrency is not None:
            found.append(terms.concurrency - len(self.held))
        if terms.rate is not None:
            verdict, _ = decide(self._caught_up, now, terms.rate)
            found.append(verdict.remaining + 1 if verdict.allowed else 0)
        return min(found) if found else None

    def let_in(self, ticket: Ticket, now: float) -> None:
        """Somebody goes in without having waited: `free` says that there is room."""
        self._let_in(ticket, now)

    def why(self, ticket: Ticket, now: float) -> Cause | None:
        """What hinders the first in the line, for who waits in it."""
        return self._hindrance(ticket, now)[0]

    def _let_in(self, ticket: Ticket, now: float) -> None:
        self.held[ticket.id] = ticket
        self._count(ticket, now)
        if ticket.terms.rate is not None:
            _, self._caught_up = decide(self._caught_up, now, ticket.terms.rate)
        if ticket.terms.breaker is not None and self._failures >= ticket.terms.breaker.failures:
            self._probe = ticket.id

    def _count(self, ticket: Ticket, now: float) -> None:
        most = ticket.terms.tokens_per_minute
        if most is not None:
            self._tokens.take(ticket.id, min(ticket.tokens, most), now)

    def _hindrance(self, ticket: Ticket, now: float) -> tuple[Cause | None, float]:
        """Why it cannot go in, and until when; that is for ever where only a change can help."""
        terms = ticket.terms
        if terms.breaker is not None and self._failures >= terms.breaker.failures:
            if self._open_until > now:
                return Cause.BROKEN, self._open_until
            if self._probe is not None:
                return Cause.BROKEN, now + 1.0
        if self._asked_until > now + _EPSILON:
            return Cause.ASKED, self._asked_until
        if terms.concurrency is not None and len(self.held) >= terms.concurrency:
            return Cause.CONCURRENCY, float("inf")
        if terms.rate is not None:
            verdict, _ = decide(self._caught_up, now, terms.rate)
            if not verdict.allowed:
                return Cause.RATE, now + verdict.wait_s
        if terms.tokens_per_minute is not None:
            until = self._tokens.room_at(ticket.tokens, terms.tokens_per_minute, now)
            if until > now:
                return Cause.TOKENS, until
        return None, now

    def _next_death(self) -> float:
        return min((seen + LEASE_S for seen in self._seen.values()), default=float("inf"))

    def _bury(self, now: float) -> None:
        dead = {holder for holder, seen in self._seen.items() if seen + LEASE_S <= now}
        if not dead:
            return
        for holder in dead:
            del self._seen[holder]
        for ticket in [ticket for ticket in self.held.values() if ticket.holder in dead]:
            self.leave(ticket, Finish(), now)
        for ticket in [each for group in self._waiting.values() for each in group if each.holder in dead]:
            self.withdraw(ticket)
