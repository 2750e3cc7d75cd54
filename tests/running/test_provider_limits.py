"""What providers may be asked, and what they ask of us, is kept to by all stages together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flowmason import event as ev
from flowmason.errors import Code, ProviderError, Retry
from flowmason.model import ModelRequest, ModelResponse, OnDelta
from flowmason.report import LET_IN, LINED_UP
from running.kit import Engine, pipe, stage
from running.spending import Biller, calls_of, spending_engine

Make = Callable[..., Engine]
NO_RETRY = {"max_retries": 0}


class Counting(Biller):
    """Knows how many calls it answers at once; a name of its own, so that no other test shares its line."""

    most = 0

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await super().generate(request, on_delta)
        finally:
            self.open -= 1


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Engine] = []

    def engine(*providers: Biller, chain: bool = False, **limits: Any) -> Engine:
        found = spending_engine(tmp_path, *providers, workers=2)
        settings: dict[str, Any] = {providers[0].name: {"limits": limits}, "default": providers[0].name}
        if chain:
            settings |= {"default": "main", "main": {"chain": [{"provider": each.name} for each in providers]}}
        found.settings.options["providers"] = settings
        made.append(found)
        return found

    yield engine
    for each in made:
        await each.executor.close()


def ask(id: str, **own: Any) -> dict[str, Any]:
    return stage(id, "ask", prompt="hello", retry_config=own.pop("retry_config", NO_RETRY), **own)


def fan_out(count: int, **own: Any) -> dict[str, Any]:
    each = stage("each", "foreach", items=list(range(count)), loop_stages=["one"], parallel=True)
    return pipe(each, ask("one", **own))


async def test_no_more_calls_than_allowed_are_under_way_over_all_stages(make: Make) -> None:
    provider = Counting("three", seconds=0.02)
    found = await make(provider, concurrency=3).run(fan_out(20))
    assert found.status == "completed", found.error
    assert provider.most == 3 and len(provider.asked) == 20


async def test_a_call_waits_for_the_tokens_that_others_may_use_until_they_have_used_less(make: Make) -> None:
    provider = Counting("words", seconds=0.02)  # a call may use 102 tokens, and uses 12
    found = await make(provider, tokens_per_minute=160).run(fan_out(5))
    assert found.status == "completed", found.error
    assert (provider.most, len(provider.asked)) == (1, 5)
    provider = Counting("two", seconds=0.02)
    assert (await make(provider, tokens_per_minute=260).run(fan_out(5))).status == "completed"
    assert provider.most == 2


async def test_items_that_share_a_region_each_have_their_turn(make: Make) -> None:
    provider = Counting("pure", seconds=0.02)
    each = stage("each", "foreach", items=[f"item {n}" for n in range(12)], loop_stages=["one"], parallel=True)
    found = await make(provider, concurrency=2).run(pipe(each, stage("one", "ask_purely", prompt="{{item}}")))
    assert found.status == "completed", found.error
    assert provider.most == 2
    assert len(provider.asked) == 12, provider.asked


async def test_waiting_for_ones_turn_takes_nothing_from_the_attempts_time_and_is_told(make: Make) -> None:
    provider = Counting("slow", seconds=0.4)
    found = await make(provider, concurrency=1).run(fan_out(4, timeout_ms=900))
    assert found.status == "completed", found.error
    assert not found.of(ev.StageRetried)
    lines = [line.message for report in found.reports for line in report.logs]
    assert LINED_UP in lines and lines.count(LINED_UP) == lines.count(LET_IN)


async def test_a_call_itself_is_still_bounded_by_the_attempts_time(make: Make) -> None:
    found = await make(Counting("endless", seconds=30), concurrency=1).run(fan_out(2, timeout_ms=700))
    assert found.error is not None and found.error.code == Code.TIMEOUT


async def test_who_asked_to_come_back_later_is_not_asked_by_others_before(make: Make) -> None:
    times: list[float] = []

    def busy(n: int) -> Exception | None:
        times.append(time.monotonic())
        return ProviderError("busy", code=Code.RATE_LIMITED, retry_after_ms=300) if n == 1 else None

    provider = Counting("busy", fails=busy)
    retry = {"max_retries": 1, "initial_delay_ms": 100, "max_delay_ms": 1000}
    document = pipe(ask("a", retry_config=retry), ask("b", depends_on=["gate"]), stage("gate", "touch", seconds=0.1))
    found = await make(provider).run(document)
    assert found.status == "completed", found.error
    assert len(times) == 3 and times[1] - times[0] >= 0.29


async def test_a_chain_goes_past_who_asked_to_come_back_later(make: Make) -> None:
    first = Counting("away-a", fails=lambda n: ProviderError("busy", code=Code.RATE_LIMITED, retry_after_ms=60_000))
    second = Counting("there-a")
    found = await make(first, second, chain=True).run(pipe(ask("a"), ask("b", depends_on=["a"])))
    assert found.status == "completed", found.error
    assert len(first.asked) == 1 and len(second.asked) == 2
    failed = [entry.call for entry in calls_of(found) if entry.call.end == "failed"]
    assert [call.provider for call in failed] == ["away-a", "away-a"] and "left alone" in failed[1].failure


async def test_who_could_not_be_reached_several_times_is_left_alone(make: Make) -> None:
    gone = lambda n: ProviderError("gone", code=Code.CONNECTIVITY, retry=Retry.NOW)  # noqa: E731
    provider = Counting("gone", fails=gone)
    document = pipe(*(ask(f"s{n}", depends_on=[f"g{n}"]) for n in range(1)), stage("g0", "touch"))
    engine = make(provider, breaker={"failures": 2, "open_s": 60})
    for _ in range(2):
        found = await engine.run(document)
    assert len(provider.asked) == 2
    found = await engine.run(document)
    assert len(provider.asked) == 2 and found.error is not None
    assert (found.error.code, found.error.retry) == (Code.CONNECTIVITY, Retry.AFTER)
    assert 59_000 < (found.error.retry_after_ms or 0) <= 60_001


async def test_a_cancelled_run_gives_its_places_back(make: Make) -> None:
    provider = Counting("back", seconds=30)
    engine = make(provider, concurrency=1)
    running = await engine.begin(fan_out(3))
    while not provider.asked:
        await asyncio.sleep(0.01)
    await running.command("cancel")
    result = await running.end()
    assert result.status == "cancelled"
    assert {entry.call.end for entry in calls_of(result)} == {"aborted"}  # of who came next, too, if it was let in
    provider._seconds = 0.0
    assert (await engine.run(fan_out(2))).status == "completed"
