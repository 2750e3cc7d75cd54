"""What model calls cost: the table `prices.json`, and what a project says about its own providers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from flowmason.errors import UsageError
from flowmason.usage import Usage

_NANODOLLARS_PER_TOKEN = 1000  # at one dollar per million tokens
_DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$")


class LongPrompt(msgspec.Struct, frozen=True):
    """What a whole call costs whose input is larger than `above` tokens; without `input` and `output`: not known."""

    above: int
    input: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None


class Price(msgspec.Struct, frozen=True):
    """Dollars per million tokens. None: as `input`."""

    input: Decimal
    output: Decimal
    cached: Decimal | None = None
    """Input tokens read from the provider's cache."""
    cache_write: Decimal | None = None
    """Input tokens written to it."""
    long_prompt: LongPrompt | None = None

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
        return int((dollars * _NANODOLLARS_PER_TOKEN).to_integral_value(ROUND_HALF_UP))


class _Table(msgspec.Struct, frozen=True):
    version: int
    as_of: str
    unit: str
    free: tuple[str, ...]
    models: dict[str, Price]


@cache
def _table() -> _Table:
    data = resources.files("flowmason.providers").joinpath("prices.json").read_bytes()
    return msgspec.json.decode(data, type=_Table)


def price_of(provider: str, model: str) -> Price | None:
    """The listed price, or None. A date at a model name's end is left out where only the plain name is listed."""
    table = _table()
    if provider in table.free:
        return Price(Decimal(0), Decimal(0))
    key = f"{provider}/{model.removeprefix('models/')}"
    return table.models.get(key) or table.models.get(_DATED.sub("", key))


def price(provider: str, model: str, usage: Usage, *, own: Price | None = None, cache_write_tokens: int = 0) -> Usage:
    """`usage` of one call with provider, model and cost filled in; the cost is None where no price is known.

    `own` is the project's price for this provider; it goes before the table.
    """
    found = own or price_of(provider, model)
    cost = None if found is None else found.of(usage, cache_write_tokens)
    prices = "" if cost is None else "project" if own is not None else prices_version()
    return msgspec.structs.replace(usage, provider=provider, model=model, cost_nanodollars=cost, prices=prices)


def prices_version() -> str:
    """The version of the table, as the ledger notes it."""
    table = _table()
    return f"table {table.version} {table.as_of}"


def read_price(name: str, given: Any) -> Price | None:
    """`providers.<name>.extra.price` as a `Price`. Raises `UsageError`."""
    if given is None:
        return None
    help_ = 'Write it as {"input": "0.15", "output": "0.60"}: dollars per million tokens, as text.'
    known = ("input", "output", "cached", "cache_write")
    if not isinstance(given, Mapping) or not {"input", "output"} <= set(given) <= set(known):
        raise UsageError(
            f"providers.{name}.extra.price needs input and output, and knows {', '.join(known)}", help=help_
        )
    try:
        amounts = {key: Decimal(str(value)) for key, value in given.items()}
    except InvalidOperation:
        raise UsageError(f"providers.{name}.extra.price holds something that is no number", help=help_) from None
    if any(not amount.is_finite() or amount < 0 for amount in amounts.values()):
        raise UsageError(f"providers.{name}.extra.price holds an amount below zero", help=help_)
    return Price(amounts["input"], amounts["output"], amounts.get("cached"), amounts.get("cache_write"))
