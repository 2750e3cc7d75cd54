"""What a worker offers to components: the environment, secrets, a cache, HTTP, model providers."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.executor import WorkerSettings
from flowmason.ids import OrgId
from flowmason.limiter import CallLimiter, MemoryCallLimiter, Terms
from flowmason.region.secret import DeclaredSecrets, HandedSecrets, keys_of
from flowmason.report import Region
from flowmason.secrets import EnvironmentSecrets, Masker

if TYPE_CHECKING:
    from flowmason.answers_fs import Answers
    from flowmason.egress import EgressPolicy
    from flowmason.mcp_client import Connections
    from flowmason.model import ModelProvider
    from flowmason.providers import Candidate
    from flowmason.region.answers import KeptAnswers

_limiter = MemoryCallLimiter()
"""Of all workers of this process."""
_CACHE_ENTRIES = 10_000
_KEPT_PROVIDERS = 64
"""With keys of orgs."""


class Services:
    """Made once per worker; everything heavy is made on first use."""

    def __init__(
        self,
        settings: WorkerSettings,
        environ: Mapping[str, str] | None = None,
        *,
        shared_limiter: CallLimiter | None = None,
    ) -> None:
        self._shared_limiter = shared_limiter
        self._terms: dict[str, Terms] = {}
        self._options = settings.options
        self._values_url = settings.values_url
        self._root = settings.project_root
        self._environ = os.environ if environ is None else environ
        self._secrets = EnvironmentSecrets(self._environ)
        self.masker = Masker()
        self.cache = MemoryCache()
        self._mcp: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Connections] = weakref.WeakKeyDictionary()
        self._clients: dict[tuple[str, ...], Any] = {}
        self._providers: dict[str, ModelProvider] = {}
        self._of_orgs: OrderedDict[tuple[str, OrgId, str], ModelProvider] = OrderedDict()

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The names that `flowmason.json` lists under `env`, as far as they are set."""
        return {name: self._environ[name] for name in self._options.get("env", ()) if name in self._environ}

    def secrets_for(self, declared: tuple[str, ...], component: str, region: Region, masker: Masker) -> DeclaredSecrets:
        """A component's view of the secrets: only those it declared, handed with the call or from the environment."""
        source = self._secrets if region.handed is None else HandedSecrets(region.handed)
        return DeclaredSecrets(source, masker, frozenset(declared), component)

    def cache_of(self, org_id: OrgId) -> OrgCache:
        """The cache as components of one org see it."""
        return OrgCache(self.cache, org_id)

    @cached_property
    def egress(self) -> EgressPolicy:
        """The project's policy for outgoing calls."""
        from flowmason.egress import EgressPolicy

        return EgressPolicy(allow=frozenset(self._options.get("egress_allow", ())))

    @property
    def mcp(self) -> Connections:
        """The MCP servers that the project declares (a Studio's: whoever runs it), and connections to them."""
        loop = asyncio.get_running_loop()
        found = self._mcp.get(loop)
        if found is None:
            from flowmason.mcp_client import Connections

            found = self._mcp[loop] = Connections(
                self._options.get("mcp_servers", {}), egress=self.egress, environ=self._environ, root=self._root
            )
        return found

    def http(self, hosts: tuple[str, ...]) -> Any:
        """A guarded HTTP client; connections are pooled. Of a component that declares `hosts` it reaches only these."""
        found = self._clients.get(hosts)
        if found is None:
            from flowmason.http_egress import guarded_client

            policy = msgspec.structs.replace(self.egress, only=frozenset(hosts)) if hosts else self.egress
            found = self._clients[hosts] = guarded_client(policy)
        return found

    def provider(self, name: str, region: Region) -> ModelProvider:
        """A model provider by name, made on first use: with the org's key where one was handed.

        Raises `FlowMasonError` (`NO_PROVIDER`).
        """
        keys, digest = keys_of(region)
        if not keys:
            found = self._providers.get(name)
            if found is None:
                found = self._providers[name] = self._make_provider(name, self._environ)
            return found
        known = (name, region.org_id, digest)
        found = self._of_orgs.get(known)
        if found is None:
            found = self._of_orgs[known] = self._make_provider(name, {**self._environ, **keys})
            while len(self._of_orgs) > _KEPT_PROVIDERS:
                self._of_orgs.popitem(last=False)
        self._of_orgs.move_to_end(known)
        return found

    def candidates(self, name: str) -> tuple[Candidate, ...]:
        """Whom a call to `name` goes to: the members of a chain, or the provider itself."""
        from flowmason.providers import chain_of

        return chain_of(name, self._options.get("providers", {}))

    def terms(self, name: str) -> Terms:
        """The limits that the project declares for a provider."""
        found = self._terms.get(name)
        if found is None:
            from flowmason.providers import settings_of

            found = self._terms[name] = settings_of(name, self._options.get("providers", {})).limits.terms
        return found

    def asked_with(self, name: str) -> dict[str, Any]:
        """What of a provider's settings changes its answers."""
        from flowmason.providers import settings_of

        settings = settings_of(name, self._options.get("providers", {}))
        extra = {key: item for key, item in settings.extra.items() if key not in ("price", "delay_ms")}
        return {"temperature": settings.temperature, "max_tokens": settings.max_tokens, "extra": extra}

    def answers(self, org_id: OrgId, masker: Masker) -> KeptAnswers:
        """The answers of models that are kept for an org."""
        from flowmason.region.answers import KeptAnswers

        return KeptAnswers(self._answers, org_id, masker)

    @cached_property
    def _answers(self) -> Answers:
        from flowmason.answers_fs import Answers

        return Answers(self._values_url)

    def limiter(self, terms: Terms) -> CallLimiter:
        """Who keeps the limits of calls: for declared ones somebody whom all workers ask, where there is one."""
        if self._shared_limiter is not None and terms.shared:
            return self._shared_limiter
        return _limiter

    def _make_provider(self, name: str, environ: Mapping[str, str]) -> ModelProvider:
        from flowmason.providers import make_provider, settings_of

        settings = settings_of(name, self._options.get("providers", {}))
        return make_provider(name, settings, egress=self.egress, environ=environ)

    @property
    def default_provider(self) -> str | None:
        """The run's or the project's default provider."""
        chosen = self._options.get("provider") or self._options.get("providers", {}).get("default")
        return str(chosen) if chosen else None


class MemoryCache:
    """What components keep for a while: least recently used first out; lives as long as the worker."""

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


class OrgCache:
    """`context.cache`: one org's part of it."""

    def __init__(self, cache: MemoryCache, org_id: OrgId) -> None:
        self._cache = cache
        self._prefix = f"{org_id}/"

    async def get(self, key: str) -> Any | None:
        return await self._cache.get(self._prefix + key)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        await self._cache.set(self._prefix + key, value, ttl)
