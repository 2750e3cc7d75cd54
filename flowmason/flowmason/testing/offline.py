"""What workers offer to components in tests: no network, scripted models, settings of the test's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flowmason.errors import Code, FlowMasonError
from flowmason.providers.mock import MODEL, MockProvider
from flowmason.region.services import Services
from flowmason.report import Region
from flowmason.secrets import variable
from flowmason.testing.files import Script, Setup

if TYPE_CHECKING:
    from flowmason.egress import EgressPolicy
    from flowmason.executor import WorkerSettings
    from flowmason.model import ModelProvider

MOCK = "mock"
_IN_PROCESS = frozenset({MOCK, "llamacpp"})
"""Providers that need no network."""


class OfflineServices(Services):
    """Services that call nobody."""

    def __init__(self, settings: WorkerSettings, environ: Mapping[str, str], model: ModelProvider | None) -> None:
        super().__init__(settings, environ)
        self._model = model

    @cached_property
    def egress(self) -> EgressPolicy:
        """Refuses every host."""
        from flowmason.egress import EgressPolicy

        return EgressPolicy(only=frozenset())

    def provider(self, name: str, region: Region) -> ModelProvider:
        """The scripted model in the place of every provider; without a script only those that need no network."""
        if self._model is not None:
            return self._model
        settings = self._options.get("providers", {}).get(name)
        remote = isinstance(settings, Mapping) and settings.get("base_url")
        if name not in _IN_PROCESS or remote:
            raise FlowMasonError(
                f"the provider {name!r} is on the network, and tests make no calls",
                code=Code.NO_PROVIDER,
                help='Script the model ("llm": "what it answers") or mock the stage ("mocks": {…}).',
            )
        return super().provider(name, region)

    @property
    def default_provider(self) -> str | None:
        """The scripted model needs no choosing."""
        return MOCK if self._model is not None else super().default_provider


def environ_of(setup: Setup, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that components see: the given one, with the test's `env` and `secrets` over it."""
    return {**environ, **setup.env, **{variable(name): text for name, text in setup.secrets.items()}}


def scripted(script: Script) -> MockProvider:
    """The model that a script describes."""
    answers: Any = {"*": script.answers} if isinstance(script.answers, str) else script.answers
    return MockProvider(answers, delay_ms=script.delay_ms, model=script.model or MODEL)
