"""What model calls cost: the table `prices.json`, and what a project says about its own providers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from flowmason.errors import UsageError
from flowmason.price import DEAREST, Price, amount
from flowmason.usage import Usage

_DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$")


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

    `own` is the project's price for this provider, or what a served model declares; it goes before the table.
    """
    found = own or price_of(provider, model)
    cost = None if found is None else found.of(usage, cache_write_tokens)
    prices = "" if cost is None else own.version if own is not None else prices_version()
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
    amounts = {key: amount(value) for key, value in given.items()}
    wrong = [key for key, found in amounts.items() if found is None]
    if wrong:
        raise UsageError(
            f"providers.{name}.extra.price: {', '.join(wrong)} is no amount from 0 to {DEAREST}", help=help_
        )
    return msgspec.convert({key: found for key, found in amounts.items() if found is not None}, Price)
