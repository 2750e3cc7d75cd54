"""The provider `models` where no served model is within reach."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code, FlowMasonError, ProviderError, UsageError
from flowmason.model import ModelRequest
from flowmason.price import Price
from flowmason.providers import ProviderSettings, known_providers, make_provider, missing_for
from flowmason.providers.counting import bounded, worst_case
from flowmason_serve_apps.llm import provider as provider_module
from flowmason_serve_apps.llm.engines import Card


async def test_without_a_cluster_and_a_studio_it_says_what_to_do(tmp_path: Path) -> None:
    provider = make_provider("models", environ={"FLOWMASON_HOME": str(tmp_path)})
    with pytest.raises(FlowMasonError, match="no served model is within reach") as caught:
        await provider.generate(ModelRequest(prompt="x", model="small"))
    assert caught.value.failure.code == Code.NO_PROVIDER and "fm org login" in str(caught.value.failure.help)


async def test_the_studio_that_is_known_here_is_asked(tmp_path: Path) -> None:
    environ = {
        "FLOWMASON_HOME": str(tmp_path), "FLOWMASON_STUDIO_URL": "http://127.0.0.1:9", "FLOWMASON_API_KEY": "fm_live_x",
    }  # fmt: skip
    provider = make_provider("models", environ=environ)
    with pytest.raises(ProviderError, match="could not be reached") as caught:
        await provider.generate(ModelRequest(prompt="x", model="small"))
    assert caught.value.failure.code == Code.CONNECTIVITY
    await provider.close()


def test_it_is_known_by_name_and_its_settings_are_checked() -> None:
    assert "models" in known_providers() and missing_for("models") is None
    with pytest.raises(UsageError, match="unknown key 'threads'"):
        make_provider("models", ProviderSettings(extra={"threads": 1}))


class Near:
    """Handles of a cluster that serves one model."""

    def __init__(self, card: Card | None) -> None:
        self.card_, self.asked = card, 0

    async def cards(self) -> dict[str, Card]:
        return {} if self.card_ is None else {self.card_.name: self.card_}

    async def card(self, model: str) -> Card:
        self.asked += 1
        if self.card_ is None:
            raise UsageError(f"no model {model!r} is served here", code=Code.NOT_FOUND)
        return self.card_

    async def answer(self, body: Any) -> AsyncGenerator[dict[str, Any], None]:
        yield {"choices": [{"delta": {"content": "Well."}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}


def _near(monkeypatch: pytest.MonkeyPatch, card: Card | None, **settings: Any) -> tuple[Any, Near]:
    near = Near(card)
    monkeypatch.setattr(provider_module, "in_cluster", lambda: True)
    monkeypatch.setattr(provider_module, "Handles", lambda: near)
    return make_provider("models", ProviderSettings(**settings)), near


PRICE = Price(Decimal("1"), Decimal("10"), version="served 1/10")


async def test_a_call_costs_what_the_models_document_says_and_the_project_goes_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Card("small", "llamacpp", price=PRICE)
    provider, near = _near(monkeypatch, card)
    for model in ("small", "small", None):
        usage = (await provider.generate(ModelRequest(prompt="x", model=model))).usage
        assert (usage.cost_nanodollars, usage.prices) == (2_000_000, "served 1/10")
    assert near.asked == 2, "once for each name that it goes by"
    own, _ = _near(monkeypatch, card, extra={"price": {"input": "0", "output": "1"}})
    usage = (await own.generate(ModelRequest(prompt="x", model="small"))).usage
    assert (usage.cost_nanodollars, usage.prices) == (100_000, "project")
    free, _ = _near(monkeypatch, Card("small", "llamacpp"))
    usage = (await free.generate(ModelRequest(prompt="x", model="small"))).usage
    assert usage.cost_nanodollars == 0


async def test_before_a_call_is_held_it_is_known_what_it_costs_and_how_long_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider, _ = _near(monkeypatch, Card("small", "vllm", price=PRICE, context=600))
    request = ModelRequest(prompt="x", model="small")
    await provider.learn("small")
    assert bounded(provider, request).max_tokens is None
    worst, known = worst_case(provider, request)
    assert known and 600 < worst.tokens <= 1200
    assert worst.nanodollars >= 600 * 10 * 1000
    nowhere, _ = _near(monkeypatch, None)
    with pytest.raises(ProviderError, match="no model 'small' is served"):
        await nowhere.learn("small")
