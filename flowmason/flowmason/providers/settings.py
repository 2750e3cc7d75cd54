"""How a provider is reached, as `flowmason.json` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flowmason.errors import UsageError, did_you_mean
from flowmason.providers.chains import Candidate


class ProviderSettings(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One provider's settings. None: the provider's own default."""

    model: str | None = None
    """The model where neither call nor stage names one. llamacpp: also the path of a `.gguf` file."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    base_url: str | None = None
    """Where the server is; an unknown provider name with a `base_url` is an OpenAI-shaped server."""
    temperature: float | None = None
    max_tokens: int | None = None
    extra: dict[str, Any] = {}
    """What only this provider knows. HTTP providers: `headers`, `body` (more fields of the request) and `price`
    (`{"input": "0.15", "output": "0.60", "cached": "0.075"}`, dollars per million tokens);
    llamacpp: `threads`, `context`; mock: `answers`, `delay_ms`."""
    chain: tuple[Candidate, ...] = ()
    """Not a provider, but several that are asked in turn."""
    declared: bool = False
    """Whether the project declares this provider: only then may it be at a loopback or private address."""

    def refuse_unknown_extras(self, name: str, known: tuple[str, ...]) -> None:
        """Raise `UsageError` if `extra` holds what the provider does not know."""
        for key in self.extra:
            if key not in known:
                near = did_you_mean(key, known)
                hint = f"; did you mean {near!r}?" if near else f"; it knows {', '.join(known)}"
                raise UsageError(f"providers.{name}.extra: unknown key {key!r}{hint}")


_FIELDS = tuple(field for field in ProviderSettings.__struct_fields__ if field != "declared")


def settings_of(name: str, providers: Mapping[str, Any]) -> ProviderSettings:
    """The settings of `name` in the object `providers` of `flowmason.json`: directly, or below its `extra`.

    A provider that is not there gets the defaults. Raises `UsageError` for unknown keys and wrong types.
    """
    others = providers.get("extra")
    given = providers.get(name) if name not in ("default", "extra") else None
    if given is None and isinstance(others, Mapping):
        given = others.get(name)
    if given is None:
        return ProviderSettings()
    if isinstance(given, msgspec.Struct):
        given = msgspec.to_builtins(given)
    if not isinstance(given, Mapping):
        raise UsageError(f"providers.{name} must be an object")
    for key in given:
        if key not in _FIELDS:
            near = did_you_mean(key, _FIELDS)
            hint = f"; did you mean {near!r}?" if near else f"; it knows {', '.join(_FIELDS)}"
            raise UsageError(f"providers.{name}: unknown key {key!r}{hint}")
    try:
        return msgspec.convert({**given, "declared": True}, ProviderSettings)
    except msgspec.ValidationError as error:
        raise UsageError(f"providers.{name}: {error}") from None
