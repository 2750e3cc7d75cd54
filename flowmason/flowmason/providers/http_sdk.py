"""What the providers that are reached through an SDK over HTTP share: client, defaults, limits, errors."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from flowmason.egress import EgressPolicy, as_address, authority
from flowmason.errors import Code, EgressError, EngineUnavailableError, FlowMasonError, ProviderError, UsageError
from flowmason.model import Abilities, ModelRequest, ModelResponse, OnDelta
from flowmason.price import Price
from flowmason.providers import failures
from flowmason.providers.prices import read_price
from flowmason.providers.settings import ProviderSettings
from flowmason.secrets import Masker

_LONGEST_CALL_S = 7 * 24 * 3600.0  # the caller's own timeout bounds a call; the guard's would cut long answers
_LONGEST_SILENCE_S = 600.0

_SAMPLING = ("top_p", "temperature")
_OPTIONAL = ("stream_options", *_SAMPLING, "schema", "prompt_cache")
_WORDS = {
    "schema": ("schema", "response_format", "output_config", "output_format"),
    "prompt_cache": ("prompt_cache", "cache_control"),
}
_log = logging.getLogger("flowmason.providers")


class HttpProvider:
    """Base of the providers over HTTP; subclasses say how to connect and how to ask."""

    sdk: str
    """The SDK's import name, which is also the extra that brings it."""

    def __init__(
        self,
        name: str,
        settings: ProviderSettings,
        *,
        base_url: str,
        model: str,
        key: str | None,
        egress: EgressPolicy,
    ) -> None:
        settings.refuse_unknown_extras(name, ("headers", "body", "price", "continues", "tools"))
        self.name = name
        self.default_model = model
        self.base_url = base_url
        self._settings = settings
        self._key = self.key = key
        self._masker = Masker([key] if key else [])
        self._policy = _policy(name, base_url, settings.declared, egress)
        self._headers = _strings(name, settings.extra.get("headers", {}))
        self._body: dict[str, Any] = dict(settings.extra.get("body", {}))
        self.max_tokens = settings.max_tokens
        self.own_price: Price | None = read_price(name, settings.extra.get("price")) or self._own_machine()
        self._sdk: Any = None
        self._refused_by: dict[str, set[str]] = {}
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        """See `ModelProvider.generate`."""
        request = with_defaults(request, self._settings)
        if not (request.model or self.default_model):
            raise FlowMasonError(
                f"no model is named for the provider {self.name!r}",
                code=Code.NO_PROVIDER,
                help=f'Set providers.{self.name}.model in flowmason.json, or "llm_settings": {{"model": …}}.',
            )
        if not request.conversation():
            raise failures.bad_request(self.name, "the prompt is empty")
        sdk = self._sdk = self._sdk or await asyncio.to_thread(self._import)
        client = self._connected(sdk)
        try:
            async with asyncio.timeout(request.timeout_s) as scope:
                return await self._ask(client, request, on_delta or _ignore)
        except EgressError as error:
            if self._settings.declared:
                raise
            raise self._undeclared(error) from error
        except FlowMasonError:
            raise
        except TimeoutError as error:
            if scope.expired() and request.timeout_s is not None:
                raise failures.too_slow(self.name, request.timeout_s) from error
            raise failures.unreachable(self.name, "it did not answer in time") from error
        except Exception as error:
            refused = failures.egress_error(error)
            if refused is not None:
                raise (refused if self._settings.declared else self._undeclared(refused)) from None
            translated = self._translate(sdk, error)
            if translated is None:
                raise
            raise translated from error

    def abilities(self, model: str | None) -> Abilities:
        """What the project declares of the server (`extra.continues`, `extra.tools`), else what is known of its
        models."""
        model = model or self.default_model
        continues, tools = self._declared("continues"), self._declared("tools")
        return Abilities(
            continues=self._continues(model) if continues is None else continues,
            tools=self._takes_tools() if tools is None else tools,
        )

    def _declared(self, ability: str) -> bool | None:
        declared = self._settings.extra.get(ability)
        if declared is not None and not isinstance(declared, bool):
            raise UsageError(f"providers.{self.name}.extra.{ability} must be true or false")
        return declared

    def _continues(self, model: str) -> bool:
        return False

    def _takes_tools(self) -> bool:
        return False

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    def _connected(self, sdk: Any) -> Any:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:  # connections do not outlive their loop
            from flowmason.http_egress import guarded_client

            self._client, self._loop = self._connect(sdk, guarded_client(self._policy)), loop
        return self._client

    def _import(self) -> Any:
        try:
            return importlib.import_module(self.sdk)
        except ImportError:
            raise EngineUnavailableError(
                f"the provider {self.name!r} needs the package {self.sdk!r}, which is not installed",
                help=f"pip install 'flowmason[{self.sdk}]'",
            ) from None

    def _connect(self, sdk: Any, http_client: Any) -> Any:
        raise NotImplementedError

    async def _ask(self, client: Any, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        raise NotImplementedError

    async def _begin(
        self, model: str, used: Mapping[str, bool], begin: Callable[[frozenset[str]], Awaitable[Any]]
    ) -> Any:
        """Start a call with `begin(left_out)`, again without what the server refuses of the optional parts in `used`.

        What a model refused once is left out from then on. Leaving out a sampling setting is a warning in the log.
        """
        refused = self._refused_by.setdefault(model, set())
        while True:
            try:
                return await begin(frozenset(refused))
            except self._sdk.BadRequestError as error:
                text = str(error)
                part = next((p for p in _OPTIONAL if used.get(p) and p not in refused and _names(text, p)), None)
                if part is None:
                    raise
                refused.add(part)
                if part in _SAMPLING:
                    _log.warning("%s: the model %s takes no %s; it was left out", self.name, model, part)

    def _undeclared(self, error: EgressError) -> EgressError:
        wanted = f'"providers": {{"{self.name}": {{"base_url": "{self.base_url}"}}}}'
        return EgressError(
            str(error),
            details=error.failure.details,
            help=f"If the project means it, declare the provider in flowmason.json: {wanted}.",
        )

    def _translate(self, sdk: Any, error: Exception) -> ProviderError | None:
        """Both SDKs come from one generator and name their errors alike."""
        import httpx2

        text = self._masker.text(str(error)) or type(error).__name__
        if isinstance(error, sdk.APIStatusError):
            body = error.body if isinstance(error.body, dict) else {}
            inner = body.get("error", body)
            inner = inner if isinstance(inner, dict) else {}
            if error.status_code < 400:
                return failures.of_stream(self.name, body, text)
            message = self._masker.text(str(inner.get("message") or error.message))[:2000]
            kind = str(inner.get("code") or inner.get("type") or "")
            return failures.of_status(self.name, error.status_code, message, error.response.headers, kind)
        if isinstance(error, sdk.APIConnectionError | httpx2.TransportError | httpx2.TooManyRedirects):
            cause = error.__cause__ or error
            return failures.unreachable(self.name, self._masker.text(str(cause)) or type(cause).__name__)
        if isinstance(error, sdk.APIResponseValidationError):
            return failures.unreachable(self.name, f"its answer cannot be read: {text[:500]}")
        if isinstance(error, sdk.APIError):
            return failures.of_stream(self.name, error.body, text[:2000])
        if isinstance(error, httpx2.HTTPError | json.JSONDecodeError | UnicodeDecodeError):
            return failures.unreachable(self.name, f"its answer cannot be read: {text[:500]}")
        return None

    def _own_machine(self) -> Price | None:
        """A model that runs on this machine costs nothing."""
        host = urlsplit(self.base_url).hostname or ""
        address = as_address(host)
        local = host == "localhost" or (address is not None and address.is_loopback)
        return read_price(self.name, {"input": "0", "output": "0"}) if local else None


def with_defaults(request: ModelRequest, settings: ProviderSettings) -> ModelRequest:
    """The request, its open settings filled from the project's."""
    return msgspec.structs.replace(
        request,
        model=request.model or settings.model,
        temperature=settings.temperature if request.temperature is None else request.temperature,
        max_tokens=settings.max_tokens if request.max_tokens is None else request.max_tokens,
    )


def of_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of arguments with the two keys that servers insist on."""
    return {"type": "object", "properties": {}, **schema}


def schema_in_words(system: str | None, schema: Mapping[str, Any]) -> str:
    """The system prompt for a model that takes no JSON Schema."""
    wish = "Answer with nothing but JSON that fits this JSON Schema:\n" + json.dumps(schema)
    return f"{system}\n\n{wish}" if system else wish


def _names(text: str, part: str) -> bool:
    return any(word in text for word in _WORDS.get(part, (part,)))


def _ignore(_: str) -> None:
    pass


def _policy(name: str, base_url: str, declared: bool, egress: EgressPolicy) -> EgressPolicy:
    parts = urlsplit(base_url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        port = 0
    if not parts.hostname or not port:
        raise UsageError(f"providers.{name}.base_url is no http(s) URL: {base_url!r}")
    policy = msgspec.structs.replace(egress, total_timeout_s=_LONGEST_CALL_S, read_timeout_s=_LONGEST_SILENCE_S)
    return policy.allowing(authority(parts.hostname, port)) if declared else policy


def _strings(name: str, headers: Any) -> dict[str, str]:
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise UsageError(f"providers.{name}.extra.headers must be an object of texts")
    return dict(headers)
