"""Every model call is in the ledger, and what runs and stages may spend is reserved before it is spent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flowmason import event as ev
from flowmason.errors import ProviderError, Retry
from flowmason.journal_memory import MemoryJournal
from flowmason.ledger import day_of
from flowmason.model import Offer
from flowmason.price import Price
from flowmason.providers.counting import LONGEST_ANSWER
from flowmason.usage import Amount, CallEnd, Limit, Usage, nanodollars
from running.kit import Engine, pipe, say, stage
from running.spending import PRICE, Biller, calls_of, figures, spending_engine, totals

Make = Callable[..., Engine]
RETRY = {"max_retries": 2, "initial_delay_ms": 100, "max_delay_ms": 1000}


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Engine] = []

    def engine(*providers: Biller, workers: int = 2) -> Engine:
        made.append(spending_engine(tmp_path, *providers, workers=workers))
        return made[-1]

    yield engine
    for each in made:
        await each.executor.close()


def ask(id: str, prompt: str = "hello", *, budget: dict[str, Any] | None = None, **own: Any) -> dict[str, Any]:
    found = stage(id, "ask", prompt=prompt, **own)
    return {**found, "budget": budget} if budget is not None else found


def flaky(*numbers: int) -> Callable[[int], Exception | None]:
    def fails(n: int) -> Exception | None:
        return ProviderError("busy", retry=Retry.NOW) if n in numbers else None

    return fails


# -- the ledger ----------------------------------------------------------------------------------


async def test_loops_retries_rounds_and_sub_pipelines_add_up_to_what_the_provider_billed(make: Make) -> None:
    biller = Biller(fails=flaky(3, 8))
    engine = make(biller)
    child = pipe(ask("inner", "{{input.text}}"), name="child", input_schema={"type": "object"})
    document = pipe(
        stage("each", "foreach", items="{{input.list}}", loop_stages=["one"], parallel=True),
        ask("one", "{{item}}", retry_config=RETRY),
        stage("guard", "trycatch", try_stages=["shaky", "bad"], catch_stages=["mend"], max_retries=1, retry_delay_ms=1),
        ask("shaky", "again"),
        say("bad", error="ValueError", depends_on=["shaky"]),
        ask("mend", "mended"),
        stage("sub", "subpipeline", pipeline_id="child", input_data={"text": "below"}),
    )
    result = await engine.run(document, {"list": ["a", "b", "c", "d", "e"]}, others=[child])
    assert result.status == "completed", result.error
    assert biller.total.calls == 5 + 2 + 1 + 1
    assert totals(result) == figures(biller.total) == figures(result.usage)
    ends = [entry.call.end for entry in calls_of(result)]
    assert ends.count(CallEnd.FAILED) == 2 and ends.count(CallEnd.ANSWERED) == 9
    assert {entry.call.prices for entry in calls_of(result) if entry.call.end == CallEnd.ANSWERED} == {"project"}


async def test_the_journal_sums_the_ledger_by_day_pipeline_and_model(make: Make) -> None:
    biller, journal = Biller(), MemoryJournal()
    result = await make(biller).run(pipe(ask("a"), ask("b")), journal=journal)
    (found,) = await journal.usage("local", "2020-01-01", "2999-01-01")  # type: ignore[arg-type]
    assert found.day == day_of(result.events[-1].at)
    assert (found.pipeline, found.provider, found.model, found.calls) == ("main", "biller", "m", 2)
    assert (found.input_tokens, found.output_tokens) == (14, 10)
    assert found.cost_nanodollars == biller.total.cost_nanodollars
    assert await journal.usage("local", "2020-01-01", "2999-01-01", "other") == []  # type: ignore[arg-type]


async def test_an_aborted_call_is_settled_by_our_own_count(make: Make) -> None:
    biller = Biller(seconds=30)
    engine = make(biller)
    running = await engine.begin(pipe(ask("a", "x" * 400)))
    while not biller.asked:
        await asyncio.sleep(0.01)
    await running.command("cancel")
    result = await running.end()
    assert result.status == "cancelled"
    (entry,) = calls_of(result)
    call = entry.call
    assert (call.end, call.estimated, call.input_tokens, call.output_tokens) == (CallEnd.ABORTED, True, 100, 3)
    assert call.cost_nanodollars == 100 * 3000 + 3 * 15000
    assert result.usage.estimated and result.usage.cost_nanodollars == call.cost_nanodollars


async def test_a_call_that_ran_out_of_its_stages_time_is_settled_too(make: Make) -> None:
    biller = Biller(seconds=30)
    retry = {"max_retries": 0}
    result = await make(biller).run(pipe(ask("a", timeout_ms=200, retry_config=retry)))
    assert (result.status, result.error and result.error.code) == ("failed", "TIMEOUT")
    assert [entry.call.end for entry in calls_of(result)] == [CallEnd.ABORTED]


# -- caps ----------------------------------------------------------------------------------------


async def test_a_run_without_a_budget_reserves_nothing(make: Make) -> None:
    result = await make(Biller()).run(pipe(ask("a")))
    (started,) = result.of(ev.StageStarted)
    assert started.allowance is None and not result.of(ev.StageDeferred)


async def test_a_run_that_fits_reserves_first_and_completes(make: Make) -> None:
    biller = Biller()
    result = await make(biller).run(pipe(ask("a")), options={"budget": {"max_cost": "1"}})
    assert result.status == "completed"
    (started,) = result.of(ev.StageStarted)
    assert started.allowance == Limit(nanodollars("0.0625"))
    assert biller.asked[0].max_tokens == 100


async def test_a_call_beyond_the_first_allowance_goes_out_only_with_a_larger_one(make: Make) -> None:
    biller = Biller()
    result = await make(biller).run(pipe(ask("a")), options={"budget": {"max_tokens": 1000}})
    assert result.status == "completed", result.error
    first, second = result.of(ev.StageStarted)
    (deferred,) = result.of(ev.StageDeferred)
    assert first.allowance == Limit(None, 63) and deferred.calls == ()
    assert second.allowance == Limit(None, deferred.need.tokens) and deferred.need.tokens > 63
    assert len(biller.asked) == 1


async def test_what_can_never_fit_fails_by_name_before_it_is_asked(make: Make) -> None:
    biller = Biller()
    result = await make(biller).run(pipe(ask("a")), options={"budget": {"max_cost": "0.001"}})
    assert result.status == "failed" and result.error is not None
    assert result.error.code == "BUDGET_EXCEEDED" and result.error.type == "BudgetExceededError"
    details = result.error.details or {}
    assert details["limit_nanodollars"] == 1_000_000 and details["spent_nanodollars"] == 0
    assert details["needed_nanodollars"] > 1_000_000
    assert biller.asked == []


async def test_the_tightest_of_all_budgets_counts(make: Make) -> None:
    biller = Biller(usage=lambda request, n: Usage(input_tokens=100, output_tokens=100, calls=1))
    document = pipe(ask("a"), ask("b", depends_on=["a"]), budget={"max_tokens": 600})
    result = await make(biller).run(document, options={"budget": {"max_tokens": 100_000, "max_cost": "10"}})
    assert result.status == "failed" and result.error is not None and result.error.code == "BUDGET_EXCEEDED"
    assert result.statuses("a", "b") == {"a": "completed", "b": "failed"}
    assert (result.error.details or {})["spent_tokens"] == 200


async def test_what_does_not_fit_now_waits_for_what_is_reserved(make: Make) -> None:
    """Each call may use most of the budget, and uses little: they go one after the other."""
    biller = Biller(seconds=0.02)
    document = pipe(*(ask(f"s{n}") for n in range(6)))
    result = await make(biller).run(document, options={"budget": {"max_tokens": 900}})
    assert result.status == "completed", result.error
    assert len(biller.billed) == 6


async def test_a_stages_budget_counts_its_items_and_retries_together(make: Make) -> None:
    biller = Biller(usage=lambda request, n: Usage(input_tokens=100, output_tokens=100, calls=1))
    document = pipe(
        stage("each", "foreach", items=list(range(20)), loop_stages=["one"], break_on_error=False, parallel=True),
        ask("one", "item {{item}}", budget={"max_tokens": 1500}),
        ask("free", depends_on=["each"]),
    )
    result = await make(biller).run(document)
    assert result.status == "completed", result.error
    spent = sum(entry.call.usage.total_tokens for entry in calls_of(result) if "one" in entry.path)
    assert 1000 <= spent <= 1500
    failures = [item["$error"]["code"] for item in result.stages["each"].output["results"] if "$error" in item]
    assert failures and set(failures) == {"BUDGET_EXCEEDED"}


async def test_what_no_longer_fits_goes_to_the_declared_cheaper_model(make: Make) -> None:
    dear, cheap = Biller("dear"), Biller("cheap", own_price=Price(Decimal("0.003"), Decimal("0.015")))
    budget = {"max_cost": "0.001", "fallback": {"provider": "cheap", "model": "small"}}
    result = await make(dear, cheap).run(pipe(ask("a", budget=budget)))
    assert result.status == "completed", result.error
    assert dear.asked == [] and [request.model for request in cheap.asked] == ["small"]
    assert result.of(ev.StageStarted)[-1].fallback


class Offering(Biller):
    """A biller that has to ask what its model costs and takes, before it can say so."""

    def __init__(self, context: int) -> None:
        super().__init__(own_price=None)
        self.context, self.learnt = context, False

    async def learn(self, model: str | None) -> None:
        self.learnt = True

    def offer(self, model: str | None) -> Offer | None:
        return Offer(price=PRICE, context=self.context) if self.learnt else None


async def test_a_model_that_declares_its_price_and_context_is_held_by_them(make: Make) -> None:
    biller = Offering(500)
    result = await make(biller).run(pipe(ask("a")), options={"budget": {"max_cost": "0.02", "max_tokens": 1000}})
    assert result.status == "completed", result.error
    assert [request.max_tokens for request in biller.asked] == [None], "its server ends the answer where it is full"
    dear = await make(Offering(500)).run(pipe(ask("a")), options={"budget": {"max_cost": "0.005"}})
    assert dear.error is not None and dear.error.code == "BUDGET_EXCEEDED"
    long = await make(wide := Offering(10_000)).run(pipe(ask("a")), options={"budget": {"max_cost": "1"}})
    assert long.status == "completed" and [request.max_tokens for request in wide.asked] == [LONGEST_ANSWER]


async def test_an_unknown_price_under_a_dollar_budget_is_refused_by_name(make: Make) -> None:
    biller = Biller(own_price=None)
    result = await make(biller).run(pipe(ask("a")), options={"budget": {"max_cost": "5"}})
    assert result.error is not None and result.error.code == "PRICE_UNKNOWN"
    assert "biller/m" in result.error.message and biller.asked == []
    fine = await make(biller).run(pipe(ask("a")), options={"budget": {"max_tokens": 50_000}})
    assert fine.status == "completed" and fine.usage.cost_nanodollars is None


async def test_a_model_without_a_bound_gets_one(make: Make) -> None:
    biller = Biller()
    biller.max_tokens = None  # type: ignore[assignment]
    await make(biller).run(pipe(ask("a")), options={"budget": {"max_tokens": 500_000}})
    assert [request.max_tokens for request in biller.asked] == [LONGEST_ANSWER]
    await make(biller).run(pipe(ask("a")))
    assert biller.asked[-1].max_tokens is None


async def test_a_new_conductor_knows_what_was_spent_and_reserved(make: Make) -> None:
    journal, biller = MemoryJournal(), Biller(seconds=0.5)
    engine = make(biller)
    document = pipe(ask("a"), ask("b", depends_on=["a"]))
    running = await engine.begin(document, journal=journal, options={"budget": {"max_tokens": 100_000}})
    await running.began("b")
    from flowmason.conductor.loading import load_state

    row = await journal.row(running.run_id)
    assert row is not None
    state = await load_state(journal, row)
    assert [account.spent.tokens for account in state.purse.accounts.values()] == [12]
    assert state.purse.reserved == Amount(0, 6250)
    result = await running.end()
    row = await journal.row(running.run_id)
    assert result.status == "completed" and row is not None
    state = await load_state(journal, row)
    assert state.purse.reserved == Amount() and not state.purse.open
