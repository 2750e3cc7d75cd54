"""Answers that break off amid the stream: gone on with where the provider can, else begun again as another attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code, ProviderError, Retry
from flowmason.event import StageRetried
from flowmason.model import Abilities, ModelRequest, ModelResponse, OnDelta
from flowmason.providers import MOST_RESUMPTIONS, ask_through
from flowmason.report import Delta
from running.kit import Engine, Result, pipe, stage
from running.spending import Biller, calls_of, figures, spending_engine, totals

WORDS = ["The", "sea", "is", "deep", "and", "", "the", "moon", "is", "high"]
RETRY = {"max_retries": 1, "initial_delay_ms": 100, "max_delay_ms": 1000}
Make = Callable[..., Engine]


class Breaking(Biller):
    """Says its words one by one from wherever the answer is, and breaks off after so many of them, call by call."""

    def __init__(self, *breaks: int | Exception | None, continues: bool = True) -> None:
        super().__init__("breaking")
        self._breaks = list(breaks)
        self._can = continues

    def abilities(self, model: str | None) -> Abilities:
        return Abilities(continues=self._can)

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        self.asked.append(request)
        assert on_delta is not None and not request.begun.endswith(" ")
        whole = " ".join(WORDS)
        assert whole.startswith(request.begun)
        left = whole[len(request.begun) :]
        stop = self._breaks.pop(0) if self._breaks else None
        if isinstance(stop, Exception):
            raise stop
        said = ""
        while left:
            if stop is not None and said.count(" ") >= stop:
                raise ProviderError("the connection is gone", code=Code.CONNECTIVITY, retry=Retry.NOW)
            cut = left.find(" ", 1) + 1 or len(left)
            piece, left = left[:cut], left[cut:]
            said += piece
            on_delta(piece)
        return await self._billed(request, said)

    async def _billed(self, request: ModelRequest, said: str) -> ModelResponse:
        answer = await super().generate(request)
        self.asked.pop()
        return ModelResponse(said, answer.model, "stop", answer.usage)


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr("flowmason.providers.resuming._WAITS_S", (0.0,) * MOST_RESUMPTIONS)
    made: list[Engine] = []

    def engine(provider: Biller) -> Engine:
        made.append(spending_engine(tmp_path, provider))
        return made[-1]

    yield engine
    for each in made:
        await each.executor.close()


def ask(**own: Any) -> dict[str, Any]:
    return stage("a", "ask", prompt="Tell me.", retry_config=own.pop("retry_config", RETRY), **own)


def streamed(found: Result) -> list[Delta]:
    return [delta for report in found.reports for delta in report.deltas]


async def test_the_model_goes_on_from_what_had_come(make: Make) -> None:
    provider = Breaking(3, 2)
    found = await make(provider).run(pipe(ask()))
    assert found.status == "completed", found.error
    whole = " ".join(WORDS)
    assert found.stages["a"].output["text"] == whole and "".join(delta.text for delta in streamed(found)) == whole
    assert [request.begun for request in provider.asked] == ["", "The sea is", "The sea is deep"]
    assert found.stages["a"].attempts == 1 and not any(delta.reset for delta in streamed(found))
    warned = [line.message for report in found.reports for line in report.logs if line.level == "warning"]
    assert warned[0] == "the answer of breaking broke off after 11 characters; it goes on from there"


async def test_each_part_is_in_the_ledger_as_what_it_was(make: Make) -> None:
    found = await make(Breaking(3)).run(pipe(ask(), budget={"max_cost": "1"}))
    first, second = [entry.call for entry in calls_of(found)]
    assert (first.end, first.estimated, first.resumed, first.failure.partition(":")[0]) == (
        "aborted", True, False, Code.CONNECTIVITY,
    )  # fmt: skip
    assert first.output_tokens == 3 and (first.cost_nanodollars or 0) > 0
    assert (second.end, second.estimated, second.resumed) == ("answered", False, True)
    assert figures(found.usage) == totals(found)
    kinds = [(each.end, each.resumed) for each in found.stages["a"].models]
    assert kinds == [("aborted", False), ("answered", True)]


async def test_the_rest_may_be_no_longer_than_what_was_asked_for(make: Make) -> None:
    provider = Breaking(3)
    await make(provider).run(pipe(ask(llm_settings={"max_tokens": 8})))
    assert [request.max_tokens for request in provider.asked] == [8, 5]


async def test_resumptions_are_bounded_and_then_the_attempt_is_over(make: Make) -> None:
    provider = Breaking(*[1] * (MOST_RESUMPTIONS + 1))
    found = await make(provider).run(pipe(ask(retry_config={"max_retries": 0})))
    assert found.status == "failed" and len(provider.asked) == MOST_RESUMPTIONS + 1
    assert found.error is not None and found.error.code == Code.CONNECTIVITY


async def test_where_the_provider_cannot_go_on_the_answer_is_begun_again_and_marked_so(make: Make) -> None:
    found = await make(Breaking(3, continues=False)).run(pipe(ask()))
    assert found.status == "completed", found.error
    assert found.stages["a"].output["text"] == " ".join(WORDS)
    (retried,) = found.of(StageRetried)
    assert retried.failure.details["broke_off_after"] == 11
    assert [(delta.attempt, delta.reset) for delta in streamed(found)][2:5] == [(1, False), (2, True), (2, False)]
    assert figures(found.usage) == totals(found)


async def test_an_answer_with_a_schema_is_not_gone_on_with() -> None:
    provider = Breaking(3)
    request = ModelRequest(prompt="x", json_schema={"type": "object"})

    async def asked(provider: Any, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        answer: ModelResponse = await provider.generate(request, on_delta)
        return answer

    with pytest.raises(ProviderError) as error:
        await ask_through(provider, request, asked, lambda _: None, lambda *_: None)
    assert error.value.failure.details == {"broke_off_after": 11} and len(provider.asked) == 1


async def test_a_refused_resumption_begins_again_and_a_refusal_is_not_resumed(make: Make) -> None:
    refused = ProviderError("no such field", code=Code.PROVIDER)
    found = await make(Breaking(3, refused)).run(pipe(ask()))
    assert found.status == "completed" and found.stages["a"].attempts == 2, found.error
    for code in (Code.SECURITY, Code.RATE_LIMITED):
        provider = Breaking(3, ProviderError("no", code=code))
        found = await make(provider).run(pipe(ask(retry_config={"max_retries": 0})))
        assert found.error is not None and found.error.code == code and len(provider.asked) == 2
