"""What model calls used, cost and may use. Money is integer nano-dollars inside and a decimal string on the wire.

Every call is a `Call` of the ledger; a `Usage` is the sum of some. An `Amount` is so much money and so many tokens, a
`Limit` the most that somebody may use of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum

import msgspec

NANODOLLARS = 1_000_000_000


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens and money of one model call, or of many added up."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input tokens: those that the provider read from its prompt cache."""
    cost_nanodollars: int | None = 0
    """None: at least one call was made at an unknown price."""
    calls: int = 0
    provider: str = ""
    """`mixed` where calls of several were added."""
    model: str = ""
    estimated: bool = False
    """Whether any of it is our own count, because the provider gave none."""
    prices: str = ""
    """Which price list the cost is by: `table 1 2026-11-06`, `project`; empty: none was needed."""

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> str | None:
        """Dollars as a decimal string, without trailing zeros; None: unknown."""
        return None if self.cost_nanodollars is None else dollars(self.cost_nanodollars)

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_nanodollars is not None and other.cost_nanodollars is not None
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost_nanodollars=(self.cost_nanodollars or 0) + (other.cost_nanodollars or 0) if known else None,
            calls=self.calls + other.calls,
            provider=_same(self.provider, other.provider),
            model=_same(self.model, other.model),
            estimated=self.estimated or other.estimated,
            prices=_same(self.prices, other.prices),
        )


def _same(left: str, right: str) -> str:
    if not left or not right or left == right:
        return left or right
    return "mixed"


def dollars(nanodollars: int) -> str:
    """`1_500_000` → `"0.0015"`."""
    whole, rest = divmod(abs(nanodollars), NANODOLLARS)
    sign = "-" if nanodollars < 0 else ""
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")


def nanodollars(dollars: str) -> int:
    """`"0.0015"` → `1_500_000`: the inverse of `dollars`. What is finer than a nano-dollar is cut off."""
    return int(Decimal(dollars) * NANODOLLARS)


class CallEnd(StrEnum):
    """How a model call ended. Names are for ever."""

    ANSWERED = "answered"
    FAILED = "failed"
    """Without a piece of an answer: the provider refused it or was not reached. It costs nothing."""
    ABORTED = "aborted"
    """Before the answer was whole: cancelled, out of time, broken off. Settled by our own count."""
    LOST = "lost"
    """Its worker died: settled by all that it was allowed to use."""
    CACHED = "cached"
    """Answered without asking the provider. It costs nothing."""


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model call, as the ledger keeps it; stage and attempt are those of the event that carries it."""

    provider: str
    model: str
    end: str = CallEnd.ANSWERED
    """A `CallEnd`."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_nanodollars: int | None = 0
    """None: at an unknown price."""
    prices: str = ""
    """See `Usage.prices`."""
    estimated: bool = False
    started_at: int = 0
    """Milliseconds since the epoch, by the worker's clock; 0: nobody noted it."""
    duration_ms: int = 0
    failure: str = ""
    """Why it failed or broke off: a failure's code and message."""
    resumed: bool = False
    """Whether it went on from what the call before it had given."""

    @property
    def usage(self) -> Usage:
        """What it adds to the sums. A call that was not answered at all counts as none."""
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_tokens=self.cached_tokens,
            cost_nanodollars=self.cost_nanodollars,
            calls=int(self.end not in (CallEnd.FAILED, CallEnd.CACHED)),
            provider=self.provider,
            model=self.model,
            estimated=self.estimated,
            prices=self.prices,
        )


class Asked(msgspec.Struct, frozen=True, order=True):
    """Calls of one kind: whom they went to, and how they ended."""

    provider: str
    model: str
    end: str
    """A `CallEnd`."""
    failure: str = ""
    """The code of the failure."""
    resumed: bool = False
    """See `Call.resumed`."""

    @classmethod
    def of(cls, call: Call) -> Asked:
        """The kind of a call."""
        return cls(call.provider, call.model, str(call.end), call.failure.partition(":")[0], call.resumed)


def call_of(usage: Usage, provider: str, model: str, end: str = CallEnd.ANSWERED) -> Call:
    """The record of one call with this usage; `provider` and `model` where the usage names none."""
    return Call(
        provider=usage.provider or provider,
        model=usage.model or model,
        end=end,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        cost_nanodollars=usage.cost_nanodollars,
        prices=usage.prices,
        estimated=usage.estimated,
    )


def total(calls: Iterable[Call]) -> Usage | None:
    """The sum of calls; None where none of them used anything."""
    found: Usage | None = None
    for call in calls:
        usage = call.usage
        if usage.calls:
            found = usage if found is None else found + usage
    return found


class Amount(msgspec.Struct, frozen=True, omit_defaults=True):
    """So much money, so many tokens."""

    nanodollars: int = 0
    tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.nanodollars + other.nanodollars, self.tokens + other.tokens)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.nanodollars - other.nanodollars, self.tokens - other.tokens)

    def __bool__(self) -> bool:
        return bool(self.nanodollars or self.tokens)

    def most(self, other: Amount) -> Amount:
        """The larger of each."""
        return Amount(max(self.nanodollars, other.nanodollars), max(self.tokens, other.tokens))

    def beyond(self, other: Amount) -> Amount:
        """What of it `other` does not cover."""
        return Amount(max(0, self.nanodollars - other.nanodollars), max(0, self.tokens - other.tokens))


def used(usage: Usage | None) -> Amount:
    """What a sum of calls takes from a budget. What was called at an unknown price takes no money."""
    return Amount() if usage is None else Amount(usage.cost_nanodollars or 0, usage.total_tokens)


class Limit(msgspec.Struct, frozen=True, omit_defaults=True):
    """The most that may be used. None: any amount."""

    nanodollars: int | None = None
    tokens: int | None = None

    def __bool__(self) -> bool:
        return self.nanodollars is not None or self.tokens is not None

    def tightest(self, other: Limit) -> Limit:
        """The smaller of each."""
        return Limit(_least(self.nanodollars, other.nanodollars), _least(self.tokens, other.tokens))

    def fits(self, amount: Amount) -> bool:
        """Whether `amount` stays within it."""
        money, tokens = self.nanodollars, self.tokens
        return (money is None or amount.nanodollars <= money) and (tokens is None or amount.tokens <= tokens)

    def less(self, amount: Amount) -> Limit:
        """What is left of it after `amount`; below zero where that was more."""
        return Limit(
            None if self.nanodollars is None else self.nanodollars - amount.nanodollars,
            None if self.tokens is None else self.tokens - amount.tokens,
        )

    def of(self, amount: Amount) -> Limit:
        """`amount` as a limit of what is limited here."""
        return Limit(
            None if self.nanodollars is None else amount.nanodollars, None if self.tokens is None else amount.tokens
        )

    @property
    def amount(self) -> Amount:
        """All of it; nothing of what is not limited."""
        return Amount(self.nanodollars or 0, self.tokens or 0)


def _least(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else min(left, right)


def limit_of(max_cost: str | None, max_tokens: int | None) -> Limit:
    """A limit as people write it: dollars as a decimal text, tokens."""
    return Limit(None if max_cost is None else nanodollars(max_cost), max_tokens)


def limit_words(limit: Limit | Amount) -> str:
    """`$0.5 and 1,000 tokens`; what is not limited is left out."""
    parts = []
    if limit.nanodollars is not None:
        parts.append(f"${dollars(limit.nanodollars)}")
    if limit.tokens is not None:
        parts.append(f"{limit.tokens:,} tokens")
    return " and ".join(parts) or "nothing"
