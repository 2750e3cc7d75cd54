"""A chain of providers in a run: who answered, who did not and why is in the journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code, ProviderError, Retry
from flowmason.model import ModelRequest, ModelResponse, OnDelta
from flowmason.price import Price
from running.kit import Engine, Result, pipe, stage
from running.spending import Biller, calls_of, spending_engine

Make = Callable[..., Engine]
NO_RETRY = {"max_retries": 0}


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Engine] = []

    def engine(*providers: Biller, chain: list[dict[str, Any]] | None = None) -> Engine:
        found = spending_engine(tmp_path, *providers)
        members = chain or [{"provider": each.name} for each in providers]
        found.settings.options["providers"] = {"default": "main", "main": {"chain": members}}
        made.append(found)
        return found

    yield engine
    for each in made:
        await each.executor.close()


def ask(id: str, **own: Any) -> dict[str, Any]:
    budget = own.pop("budget", None)
    found = stage(id, "ask", prompt="hello", retry_config=own.pop("retry_config", NO_RETRY), **own)
    return {**found, "budget": budget} if budget else found


def failing(code: str, **more: Any) -> Callable[[int], Exception]:
    return lambda n: ProviderError("it did not work", code=code, **more)


def told(found: Result) -> list[tuple[str, str, str]]:
    return [(each.call.provider, each.call.end, each.call.failure.partition(":")[0]) for each in calls_of(found)]


@pytest.mark.parametrize("code", [Code.RATE_LIMITED, Code.CONNECTIVITY])
async def test_the_next_provider_answers_and_the_journal_says_why(make: Make, code: str) -> None:
    first, second = Biller("first", fails=failing(code)), Biller("second")
    engine = make(first, second)
    found = await engine.run(pipe(ask("a")))
    assert found.status == "completed", found.error
    assert told(found) == [("first", "failed", code), ("second", "answered", "")]
    assert calls_of(found)[0].call.failure == f"{code}: it did not work"
    assert [(each.provider, each.end, each.failure) for each in found.stages["a"].models] == [
        ("first", "failed", code),
        ("second", "answered", ""),
    ]
    assert found.usage.calls == 1 and found.usage.provider == "second"


@pytest.mark.parametrize("code", [Code.PROVIDER, Code.SECURITY])
async def test_what_the_next_could_not_mend_fails_at_once(make: Make, code: str) -> None:
    first, second = Biller("first", fails=failing(code)), Biller("second")
    found = await make(first, second).run(pipe(ask("a")))
    assert found.error is not None and found.error.code == code and second.asked == []


async def test_a_named_model_is_asked_of_the_first_and_the_others_have_their_own(make: Make) -> None:
    first, second = Biller("first", fails=failing(Code.RATE_LIMITED)), Biller("second")
    chain = [{"provider": "first", "model": "x"}, {"provider": "second", "model": "y"}]
    await make(first, second, chain=chain).run(pipe(ask("a", llm_settings={"model": "wanted"})))
    assert [request.model for request in first.asked + second.asked] == ["wanted", "y"]


class Breaking(Biller):
    """Its answers break off after the first piece."""

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        self.asked.append(request)
        if on_delta is not None:
            on_delta("half ")
        raise ProviderError("it broke off", code=Code.CONNECTIVITY)


async def test_an_answer_that_has_begun_is_not_begun_again_elsewhere(make: Make) -> None:
    first, second = Breaking("first"), Biller("second")
    found = await make(first, second).run(pipe(ask("a")))
    assert found.status == "failed" and second.asked == []
    assert [end for _, end, _ in told(found)] == ["aborted"]


async def test_where_nobody_answers_all_reasons_are_told_and_the_attempt_is_repeated_if_one_says_so(make: Make) -> None:
    first = Biller("first", fails=lambda n: ProviderError("busy", code=Code.RATE_LIMITED) if n == 1 else None)
    second = Biller("second", fails=failing(Code.CONNECTIVITY, retry=Retry.NOW))
    retry = {"max_retries": 1, "initial_delay_ms": 100, "max_delay_ms": 1000}
    found = await make(first, second).run(pipe(ask("a", retry_config=retry)))
    assert found.status == "completed", found.error
    assert [provider for provider, _, _ in told(found)] == ["first", "second", "first"]
    first, second = (
        Biller("first", fails=failing(Code.RATE_LIMITED)),
        Biller("second", fails=failing(Code.RATE_LIMITED)),
    )
    found = await make(first, second).run(pipe(ask("a")))
    assert found.error is not None and found.error.code == Code.RATE_LIMITED
    assert "first: it did not work; second: it did not work" in found.error.message


async def test_a_call_beyond_the_budget_goes_to_nobody_else(make: Make) -> None:
    first, second = Biller("first"), Biller("second", own_price=Price(Decimal(0), Decimal(0)))
    found = await make(first, second).run(pipe(ask("a")), options={"budget": {"max_cost": "0.0001"}})
    assert found.error is not None and found.error.code == Code.BUDGET_EXCEEDED
    assert first.asked == second.asked == []


async def test_the_cheaper_model_of_a_budget_is_asked_of_the_first_alone(make: Make) -> None:
    first, second = Biller("anthropic", own_price=None, fails=failing(Code.RATE_LIMITED)), Biller("second")
    document = pipe(
        ask(
            "a",
            llm_settings={"model": "claude-opus-4-5"},
            budget={"max_cost": "0.002", "fallback": {"model": "claude-haiku-4-5"}},
        )
    )
    found = await make(first, second).run(document)
    assert found.error is not None and found.error.code == Code.RATE_LIMITED
    assert [each.model for each in first.asked] == ["claude-haiku-4-5"] and second.asked == []
