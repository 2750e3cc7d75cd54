"""How a provider is reached, as `flowmason.json` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from flowmason.errors import UsageError, did_you_mean
from flowmason.limiter import AHEAD_S, Breaker, Rate, Terms
from flowmason.providers.chains import Candidate


class BreakerSettings(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """A provider that was not reached by so many calls in a row is left alone for so many seconds."""

    failures: Annotated[int, msgspec.Meta(ge=1)] = 5
    open_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """How much a provider may be asked, by everybody together."""

    concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """At most so many calls at once."""
    per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """At most so many calls in any minute."""
    tokens_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """At most so many tokens, prompts and answers together, by the calls that begin in any minute."""
    breaker: BreakerSettings | None = None

    @property
    def terms(self) -> Terms:
        """The same as the limiter takes it."""
        # A place may be taken some time after it was counted.
        rate = None if self.per_minute is None else Rate.window(self.per_minute, 60.0 + AHEAD_S)
        breaker = None if self.breaker is None else Breaker(self.breaker.failures, self.breaker.open_s)
        return Terms(self.concurrency, rate, breaker, self.tokens_per_minute)


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
    """What only this provider knows. HTTP providers: `headers`, `body` (more fields of the request), `continues`
    (whether the server goes on from the beginning of an answer) and `price` (`{"input": "0.15", "output": "0.60",
    "cached": "0.075"}`, dollars per million tokens);
    llamacpp: `threads`, `context`; mock: `answers`, `delay_ms`."""
    limits: Limits = Limits()
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


def read_limits(given: Any) -> Limits:
    """`limits` of a provider. Raises `UsageError`, whose `details` say the `place` and the `nearest` right name."""
    fields: list[tuple[str, Any, tuple[str, ...]]] = [("", given, Limits.__struct_fields__)]
    if isinstance(given, Mapping):
        fields.append((".breaker", given.get("breaker"), BreakerSettings.__struct_fields__))
    for place, item, known in fields:
        for key in item if isinstance(item, Mapping) else ():
            if key not in known:
                details = {"place": f"{place}.{key}", "nearest": did_you_mean(str(key), known)}
                raise UsageError(f"unknown key {key!r}", details=details)
    try:
        return msgspec.convert(given, Limits)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise UsageError(reason, details={"place": path.rstrip("`"), "nearest": None}) from None


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
