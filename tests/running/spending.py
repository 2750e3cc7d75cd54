"""A provider that bills by a script or by chance, and an engine whose stages ask it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from flowmason.executor_local import LocalExecutor
from flowmason.ledger import Entry, entries
from flowmason.model import ModelRequest, ModelResponse, OnDelta
from flowmason.price import Price
from flowmason.providers.counting import worst_case
from flowmason.providers.prices import price
from flowmason.region import Worker
from flowmason.region.services import Services
from flowmason.usage import Usage
from running.kit import Engine, Result

PRICE = Price(Decimal("3"), Decimal("15"))
"""Dollars per million tokens."""


class Biller:
    """Answers with usage of its own choice, never above what a request may use; keeps the books of a provider."""

    def __init__(
        self,
        name: str = "biller",
        *,
        own_price: Price | None = PRICE,
        usage: Callable[[ModelRequest, int], Usage] | None = None,
        seconds: float = 0.0,
        fails: Callable[[int], Exception | None] = lambda n: None,
    ) -> None:
        self.name, self.default_model = name, "m"
        self.own_price = own_price
        self.max_tokens = 100
        self.asked: list[ModelRequest] = []
        self.billed: list[Usage] = []
        self.open = 0
        self._usage, self._seconds, self._fails = usage, seconds, fails

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        self.asked.append(request)
        n = len(self.asked)
        failure = self._fails(n)
        if failure is not None:
            raise failure
        if on_delta is not None:
            on_delta("an answer ")
        await asyncio.sleep(self._seconds)
        used = self._usage(request, n) if self._usage else Usage(input_tokens=7, output_tokens=5, calls=1)
        model = request.model or self.default_model
        found = price(self.name, model, used, own=self.own_price)
        self.billed.append(found)
        return ModelResponse("an answer", model, "stop", found)

    async def close(self) -> None:
        pass

    @property
    def total(self) -> Usage:
        """All that it has billed."""
        return sum(self.billed, Usage())


def by_chance(provider: Biller, rng: random.Random) -> Callable[[ModelRequest, int], Usage]:
    """Usage anywhere up to the worst case."""

    def usage(request: ModelRequest, n: int) -> Usage:
        worst, _ = worst_case(provider, request)
        written = rng.randint(0, request.max_tokens or 0)
        return Usage(
            input_tokens=rng.randint(0, worst.tokens - (request.max_tokens or 0)), output_tokens=written, calls=1
        )

    return usage


class _Services(Services):
    providers: dict[str, Any]

    def provider(self, name: str, region: Any) -> Any:
        return self.providers[name]


def spending_engine(folder: Path, *providers: Biller, workers: int = 2) -> Engine:
    """An engine whose default provider is the first of these."""
    engine = Engine(folder, workers)
    engine.settings.options["providers"] = {"default": providers[0].name}

    def worker() -> Any:
        services = _Services(engine.settings)
        services.providers = {provider.name: provider for provider in providers}
        return Worker(engine.settings, services=services).run

    engine.executor = LocalExecutor(worker, workers=workers)
    return engine


def calls_of(result: Result) -> Sequence[Entry]:
    """The ledger of a run."""
    return list(entries([each.event for each in result.events], 1))


def totals(result: Result) -> tuple[int, int, int | None, int]:
    """Input and output tokens, cost and calls, as the ledger has them."""
    usages = [entry.call.usage for entry in calls_of(result)]
    found = sum(usages, Usage())
    return found.input_tokens, found.output_tokens, found.cost_nanodollars, found.calls


def figures(usage: Usage) -> tuple[int, int, int | None, int]:
    """The like of any sum."""
    return usage.input_tokens, usage.output_tokens, usage.cost_nanodollars, usage.calls
