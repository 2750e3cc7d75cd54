"""Chains of providers: how they are read, and who is asked after whom."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.errors import Code, FlowMasonError, ProviderError, Retry, UsageError
from flowmason.model import ModelRequest, ModelResponse
from flowmason.providers import Candidate, ask_in_turn, chain_of, make_provider, read_chain, settings_of

PROVIDERS = {"anthropic", "groq", "house"}


@pytest.mark.parametrize(
    ("given", "place", "nearest"),
    [
        ([], None, None),
        ("anthropic", None, None),
        (["antropic"], "[0]", "anthropic"),
        (["anthropic", "anthropic"], "[1]", None),
        (["anthropic", "other"], "[1]", None),
        (["anthropic", "main"], "[1]", None),
        (["anthropic", 7], "[1]", None),
        ([{"provider": "groq", "modell": "m"}], "[0].modell", "model"),
        ([{"provider": "groq", "model": 3}], "[0]", None),
        ([{"model": "m"}], "[0]", None),
    ],
)
def test_a_wrong_chain_is_refused_in_its_place(given: Any, place: str | None, nearest: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        read_chain("main", given, PROVIDERS, {"other"})
    details = refused.value.failure.details or {}
    assert (details.get("place"), details.get("nearest")) == (place, nearest)


def test_one_provider_may_be_there_with_several_models() -> None:
    found = read_chain("main", ["groq", {"provider": "groq", "model": "small"}], PROVIDERS, set())
    assert found == [Candidate("groq"), Candidate("groq", "small")]


def test_a_provider_is_a_chain_of_itself_and_a_chain_is_no_provider() -> None:
    providers = {"default": "main", "main": {"chain": [{"provider": "groq", "model": "m"}]}, "house": {"model": "x"}}
    assert chain_of("main", providers) == (Candidate("groq", "m"),)
    assert chain_of("house", providers) == (Candidate("house"),)
    assert chain_of("default", providers) == (Candidate("default"),)
    with pytest.raises(UsageError, match="chain"):
        make_provider("main", settings_of("main", providers), environ={})


_FAILURES = st.sampled_from(
    [
        ProviderError("busy", code=Code.RATE_LIMITED, retry_after_ms=5000),
        ProviderError("busier", code=Code.RATE_LIMITED, retry_after_ms=9000),
        ProviderError("no money", code=Code.RATE_LIMITED),
        ProviderError("away", code=Code.CONNECTIVITY, retry=Retry.NOW),
        ProviderError("wrong", code=Code.PROVIDER),
        FlowMasonError("no key", code=Code.NO_PROVIDER),
        ProviderError("refused", code=Code.SECURITY),
        FlowMasonError("too dear", code=Code.BUDGET_EXCEEDED),
        None,
    ]
)
_NEXT = (Code.RATE_LIMITED, Code.CONNECTIVITY)


@given(ends=st.lists(_FAILURES, min_size=1, max_size=5), begins_at=st.integers(0, 6))
async def test_the_next_is_asked_only_after_429_and_lost_connections_and_only_before_the_first_piece(
    ends: list[FlowMasonError | None], begins_at: int
) -> None:
    members = [Candidate(f"p{n}", None if n % 2 else f"m{n}") for n in range(len(ends))]
    asked: list[tuple[str, str | None]] = []

    async def ask(provider: str, request: ModelRequest) -> ModelResponse:
        asked.append((provider, request.model))
        end = ends[len(asked) - 1]
        if end is not None:
            raise end
        return ModelResponse(provider, "m")

    expected = next(
        (n for n, end in enumerate(ends) if end is None or end.failure.code not in _NEXT or n >= begins_at),
        len(ends) - 1,
    )
    request = ModelRequest(prompt="hello", model="wanted")
    try:
        answer = await ask_in_turn("main", members, request, ask, lambda: len(asked) > begins_at)
    except FlowMasonError as error:
        last = ends[expected]
        assert last is not None
        assert error.failure.code == last.failure.code
        if error is not last:
            retries = [end.failure for end in ends[: expected + 1] if end is not None]
            waits = [each.retry_after_ms for each in retries if each.retry_after_ms is not None]
            if any(each.retry == Retry.NOW for each in retries):
                assert error.failure.retry == Retry.NOW
            elif waits:
                assert (error.failure.retry, error.failure.retry_after_ms) == (Retry.AFTER, min(waits))
            else:
                assert error.failure.retry == Retry.NEVER
            assert len((error.failure.details or {})["tried"]) == expected + 1 > 1
    else:
        assert ends[expected] is None and answer.content == f"p{expected}"
    own = [each.model for each in members]
    assert asked == [(f"p{n}", own[n] if n else "wanted") for n in range(expected + 1)]
