"""Money in the simulation: a provider that bills, budgets that are drawn, and what must hold after every event."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from flowmason.event import Recorded
from flowmason.ids import OrgId
from flowmason.journal_memory import MemoryJournal
from flowmason.ledger import day_of, entries
from flowmason.limiter import MemoryCallLimiter, Terms
from flowmason.model import ModelRequest, ModelResponse, OnDelta
from flowmason.plan import Plan
from flowmason.price import Price
from flowmason.providers import Candidate
from flowmason.providers.counting import estimated, worst_case
from flowmason.providers.prices import price
from flowmason.state import RunState
from flowmason.usage import Amount, Limit, Usage, nanodollars, used


class Bank:
    """A provider in virtual time; its books live as long as the world. It bills up to the worst case, whoever hears."""

    name, default_model = "bank", "m"
    own_price = Price(Decimal("3"), Decimal("15"))
    max_tokens = 100
    default_provider = "bank"

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"{seed}/bank")
        self.billed: dict[str, Amount] = defaultdict(Amount)
        """Run → what it was billed."""
        self._terms = Terms(concurrency=random.Random(f"{seed}/terms").choice((None, None, 1, 3)))
        self._limiter = MemoryCallLimiter(lambda: asyncio.get_running_loop().time())

    def candidates(self, name: str) -> tuple[Candidate, ...]:
        """It is no chain."""
        return (Candidate(name),)

    def terms(self, name: str) -> Terms:
        """In some worlds it takes few calls at once."""
        return self._terms

    def limiter(self, terms: Terms) -> MemoryCallLimiter:
        """Of the world alone."""
        return self._limiter

    def provider(self, name: str, region: Any) -> Bank:
        return self

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        rng = self._rng
        run_id = request.prompt.split()[0]
        if rng.random() < 0.1:
            raise ConnectionError("the bank is closed")
        if on_delta is not None:
            on_delta("a few words")
        try:
            await asyncio.sleep(rng.choice((0.0, 0.01, 0.2, 2.0, 6.0)))
        except asyncio.CancelledError:
            self.billed[run_id] += used(estimated(self, request, "a few words"))
            raise
        most = (request.max_tokens or 0) if rng.random() < 0.3 else 20
        worst, _ = worst_case(self, request)
        read = rng.randint(1, worst.tokens - (request.max_tokens or 0))
        usage = price(
            "bank", "m", Usage(input_tokens=read, output_tokens=rng.randint(0, most), calls=1), own=self.own_price
        )
        self.billed[run_id] += used(usage)
        return ModelResponse("a few words more", "m", "stop", usage)

    async def close(self) -> None:
        pass


def drawn(seed: int) -> dict[str, Any] | None:
    """The budget of a run; None: it has none, and asks no models."""
    rng = random.Random(f"{seed}/budgets")
    if rng.random() < 0.6:
        return None
    found: dict[str, Any] = {}
    if rng.random() < 0.7:
        found["max_cost"] = rng.choice(("0.002", "0.01", "0.05", "1"))
    if not found or rng.random() < 0.5:
        found["max_tokens"] = rng.choice((600, 3_000, 50_000))
    return found


def kept(events: list[Recorded], plan: Plan, billed: Amount) -> list[str]:
    """No limit is passed in any state; the ledger is what the usage adds up to; nobody was billed more than we know."""
    state = RunState(events[0].run_id, plan)
    problems = []
    for item in events:
        state.apply(item.event, seq=item.seq, at=item.at)
        for account in state.purse.accounts.values():
            if not account.limit.fits(account.spent + account.reserved):
                problems.append(f"{account.name} passes its limit at {item.seq}: {account}")
    if state.ended and state.purse.open:
        problems.append(f"reservations are left open: {state.purse.open}")
    ledger = sum((used(entry.call.usage) for entry in entries([item.event for item in events], 1)), Amount())
    if ledger != used(state.usage):
        problems.append(f"the ledger says {ledger}, the usage {state.usage}")
    for account in state.purse.accounts.values():
        if account.name == "the run" and not account.limit.fits(billed):
            problems.append(f"the run was billed {billed} under {account.limit}")
    return problems


def of_the_day(seed: int) -> Limit | None:
    """What the org may spend a day; None: any amount."""
    rng = random.Random(f"{seed}/day")
    if drawn(seed) is None or rng.random() < 0.5:
        return None
    small, large = Limit(nanodollars("0.01")), Limit(nanodollars("0.1"), 60_000)
    return rng.choice((small, large, Limit(None, 4_000), Limit(None, 30_000)))


class Watched:
    """The org's budget of the day, looked at after every write."""

    def __init__(self, journal: MemoryJournal, org_id: OrgId, now: Callable[[], int]) -> None:
        self._journal, self._org_id, self._now = journal, org_id, now
        self.problems: list[str] = []

    def look(self) -> None:
        """Note whether more is spent, reserved and given out than there is."""
        found = self._journal.day(self._org_id, day_of(self._now()))
        if found is not None and not found.limit.fits(found.taken) and len(self.problems) < 3:
            self.problems.append(f"the day passes its limit: {found}")

    def at_the_end(self, billed: Amount) -> list[str]:
        """What is wrong once all runs have ended."""
        found = self._journal.day(self._org_id, day_of(self._now()))
        if found is None:
            return self.problems
        left = [f"reserved after the end: {found.reserved}"] if found.reserved else []
        left += [f"nobody can have {found.free} any more that nobody holds"] if found.free else []
        begun = day_of(1_000_000_000) == day_of(self._now())  # what a run spends on two days is under two budgets
        over = [] if not begun or found.limit.fits(billed) else [f"the org was billed {billed} under {found.limit}"]
        return [*self.problems, *left, *over]
