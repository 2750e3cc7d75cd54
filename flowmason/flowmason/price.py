"""What a call of a language model costs, by its tokens."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

import msgspec

from flowmason.usage import Usage

NANODOLLARS_PER_TOKEN = 1000
"""At one dollar per million tokens."""
DEAREST = 1_000_000
"""Dollars per million tokens that a price may say at most."""


class LongPrompt(msgspec.Struct, frozen=True):
    """What a whole call costs whose input is larger than `above` tokens; without `input` and `output`: not known."""

    above: int
    input: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None


class Price(msgspec.Struct, frozen=True, omit_defaults=True):
    """Dollars per million tokens. None: as `input`."""

    input: Decimal
    output: Decimal
    cached: Decimal | None = None
    """Input tokens read from the provider's cache."""
    cache_write: Decimal | None = None
    """Input tokens written to it."""
    long_prompt: LongPrompt | None = None
    version: str = "project"
    """As the ledger notes it; of a price in the table it is the table's."""

    def of(self, usage: Usage, cache_write_tokens: int = 0) -> int | None:
        """Nano-dollars for one call, of whose input tokens `cache_write_tokens` were written to the cache; None: not
        known for so long a prompt."""
        long = self.long_prompt
        if long is not None and usage.input_tokens > long.above:
            if long.input is None or long.output is None:
                return None
            return Price(long.input, long.output, long.cached, long.cache_write).of(usage, cache_write_tokens)
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.cache_write is None else self.cache_write
        plain = usage.input_tokens - usage.cached_tokens - cache_write_tokens
        dollars = (
            self.input * plain
            + cached * usage.cached_tokens
            + written * cache_write_tokens
            + self.output * usage.output_tokens
        )
        return int((dollars * NANODOLLARS_PER_TOKEN).to_integral_value(ROUND_HALF_UP))


def amount(given: Any) -> Decimal | None:
    """Dollars as a document writes them, a text or a number from 0 to `DEAREST`; None: it is none."""
    if isinstance(given, bool) or not isinstance(given, str | int | float | Decimal):
        return None
    try:
        found = Decimal(str(given).strip())
    except InvalidOperation:
        return None
    return found if found.is_finite() and 0 <= found <= DEAREST else None
