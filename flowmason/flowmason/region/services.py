"""What a worker offers to components: the environment, secrets, a cache, HTTP, model providers."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.component import ComponentContextError
from flowmason.errors import Code, Failure, StageError
from flowmason.executor import WorkerSettings
from flowmason.secrets import EnvironmentSecrets, Masker

if TYPE_CHECKING:
    from flowmason.egress import EgressPolicy
    from flowmason.model import ModelProvider

_CACHE_ENTRIES = 10_000


class Services:
    """Made once per worker; everything heavy is made on first use."""

    def __init__(self, settings: WorkerSettings, environ: Mapping[str, str] | None = None) -> None:
        self._options = settings.options
        self._environ = os.environ if environ is None else environ
        self._secrets = EnvironmentSecrets(self._environ)
        self.masker = Masker()
        self.cache = MemoryCache()
        self._clients: dict[tuple[str, ...], Any] = {}
        self._providers: dict[str, ModelProvider] = {}

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The names that `flowmason.json` lists under `env`, as far as they are set."""
        return {name: self._environ[name] for name in self._options.get("env", ()) if name in self._environ}

    def secrets_for(self, declared: tuple[str, ...], component: str) -> DeclaredSecrets:
        """A component's view of the secrets: only those it declared."""
        return DeclaredSecrets(self._secrets, self.masker, frozenset(declared), component)

    @cached_property
    def egress(self) -> EgressPolicy:
        """The project's policy for outgoing calls."""
        from flowmason.egress import EgressPolicy

        return EgressPolicy(allow=frozenset(self._options.get("egress_allow", ())))

    def http(self, hosts: tuple[str, ...]) -> Any:
        """A guarded HTTP client; connections are pooled. Of a component that declares `hosts` it reaches only these."""
        found = self._clients.get(hosts)
        if found is None:
            from flowmason.http_egress import guarded_client

            policy = msgspec.structs.replace(self.egress, only=frozenset(hosts)) if hosts else self.egress
            found = self._clients[hosts] = guarded_client(policy)
        return found

    def provider(self, name: str) -> ModelProvider:
        """A model provider by name, made on first use. Raises `FlowMasonError` (`NO_PROVIDER`)."""
        found = self._providers.get(name)
        if found is None:
            from flowmason.providers import make_provider, settings_of

            settings = settings_of(name, self._options.get("providers", {}))
            found = self._providers[name] = make_provider(name, settings, egress=self.egress, environ=self._environ)
        return found

    @property
    def default_provider(self) -> str | None:
        """The run's or the project's default provider."""
        chosen = self._options.get("provider") or self._options.get("providers", {}).get("default")
        return str(chosen) if chosen else None

    def mask_failure(self, failure: Failure) -> Failure:
        """The failure with every secret that was handed out replaced by stars."""
        if self.masker.empty:
            return failure
        return msgspec.convert(self.masker.mask(msgspec.to_builtins(failure)), Failure)


class DeclaredSecrets:
    """`context.secrets`."""

    def __init__(self, source: EnvironmentSecrets, masker: Masker, declared: frozenset[str], component: str) -> None:
        self._source = source
        self._masker = masker
        self._declared = declared
        self._component = component

    def get(self, name: str) -> str:
        """The secret's value; from here on it is masked in logs and failures."""
        if name not in self._declared:
            raise ComponentContextError(
                f"{self._component} does not declare the secret {name!r}",
                help=f'Add secrets=["{name}"] to its decorator.',
            )
        found = self._source.get(name)
        if found is None:
            raise StageError(
                f"the secret {name!r} is not set",
                code=Code.SECRET_MISSING,
                help=f"Set FLOWMASON_SECRET_{name.upper().replace('-', '_')} where the workers run.",
            )
        self._masker.add(found)
        return found


class MemoryCache:
    """`context.cache`: least recently used first out; lives as long as the worker."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[Any, float | None]] = OrderedDict()

    async def get(self, key: str) -> Any | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] is not None and time.monotonic() >= entry[1]:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[0]

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self._entries[key] = (value, None if ttl is None else time.monotonic() + ttl)
        self._entries.move_to_end(key)
        while len(self._entries) > _CACHE_ENTRIES:
            self._entries.popitem(last=False)
