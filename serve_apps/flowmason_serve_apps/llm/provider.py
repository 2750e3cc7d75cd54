"""The provider `models`: the models that are served beside the pipelines.

On the Ray where they are served they are asked through Serve's handles; from elsewhere over the endpoint of the Studio
that `base_url`, the environment or `fm org` names. A pipeline says `"provider": "models"` and the model's name in both
cases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import msgspec

from flowmason.egress import EgressPolicy
from flowmason.errors import Code, EngineUnavailableError, FlowMasonError, UsageError
from flowmason.model import ModelProvider, ModelRequest, ModelResponse, Offer, OnDelta
from flowmason.price import Price
from flowmason.providers import ProviderSettings, failures
from flowmason.providers.counting import estimate
from flowmason.providers.http_sdk import with_defaults
from flowmason.providers.openai_shaped import OpenAIShapedProvider
from flowmason.providers.prices import price, read_price
from flowmason.remote.orgs import OrgBook
from flowmason.served import names
from flowmason.usage import Usage
from flowmason_serve_apps.llm.engines import Body, Card, usage_of
from flowmason_serve_apps.llm.handles import Handles, in_cluster

_ELSEWHERE_S = 5.0
"""For how long it is believed that this process belongs to no cluster with a Serve."""
_LEARNT_S = 30.0
"""For how long it is believed what a model costs, and how much it takes."""
FREE = Price(Decimal(0), Decimal(0), version="served")
_KEY = "FLOWMASON_API_KEY"


def make(name: str, settings: ProviderSettings, *, egress: EgressPolicy, environ: Mapping[str, str]) -> ModelProvider:
    """The provider; the entry point `models` of the group `flowmason.models`."""
    return ServedProvider(name, settings, egress=egress, environ=environ)


class ServedProvider:
    """`ModelProvider` over served models. Settings: `model`, `base_url`, `api_key_env`, and `extra` as for any server.

    A call of a model on machines of one's own costs nothing, unless its document or, before that, `extra.price` says
    what it does.
    """

    def __init__(
        self, name: str, settings: ProviderSettings, *, egress: EgressPolicy, environ: Mapping[str, str]
    ) -> None:
        settings.refuse_unknown_extras(name, ("headers", "body", "price"))
        self.name = name
        self.default_model = settings.model or ""
        self.max_tokens = settings.max_tokens
        self.own_price = read_price(name, settings.extra.get("price"))
        self._settings = settings
        self._egress = egress
        self._environ = environ
        self._handles: tuple[asyncio.AbstractEventLoop, Handles] | None = None
        self._elsewhere_until = float("-inf")
        self._cards: dict[str | None, tuple[float, Card]] = {}
        self._remote: OpenAIShapedProvider | None = None

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        """See `ModelProvider.generate`."""
        request = with_defaults(request, self._settings)
        if not request.conversation():
            raise failures.bad_request(self.name, "the prompt is empty")
        handles = await self._near()
        if handles is None:
            return await self._over_http().generate(request, on_delta)
        try:
            async with asyncio.timeout(request.timeout_s) as scope:
                card = await self._card(handles, request.model)
                return await self._ask(handles, request.model or card.name, request, on_delta)
        except TimeoutError as error:
            if scope.expired() and request.timeout_s is not None:
                raise failures.too_slow(self.name, request.timeout_s) from error
            raise
        except EngineUnavailableError as error:
            raise failures.unreachable(self.name, str(error)) from error
        except UsageError as error:
            raise failures.of_status(self.name, 404, str(error), {}, "not_found_error") from error

    def offer(self, model: str | None) -> Offer | None:
        """What the model's document says of it, once it was learnt; None where it is served elsewhere."""
        known = self._cards.get(model or self._settings.model)
        if known is None:
            return None
        card = known[1]
        return Offer(
            price=self.own_price or card.price or FREE,
            context=card.context,
            max_tokens=self.max_tokens or card.max_tokens,
        )

    async def learn(self, model: str | None) -> None:
        """Ask what the model costs and how much it takes. Raises `ProviderError` where nobody serves it."""
        handles = await self._near()
        if handles is None:
            return
        try:
            await self._card(handles, model or self._settings.model)
        except EngineUnavailableError as error:
            raise failures.unreachable(self.name, str(error)) from error
        except UsageError as error:
            raise failures.of_status(self.name, 404, str(error), {}, "not_found_error") from error

    async def _card(self, handles: Handles, model: str | None) -> Card:
        known = self._cards.get(model)
        if known is None or time.monotonic() - known[0] > _LEARNT_S:
            asked = time.monotonic()
            card = await handles.card(names.adapted(model or await self._only(handles))[0])
            known = self._cards[model] = (asked, card)
        return known[1]

    async def close(self) -> None:
        """Close connections. Handles have none of their own."""
        remote, self._remote = self._remote, None
        if remote is not None:
            await remote.close()

    async def _ask(
        self, handles: Handles, model: str, request: ModelRequest, on_delta: OnDelta | None
    ) -> ModelResponse:
        pieces: list[str] = []
        finish: str | None = None
        usage: Usage | None = None
        async with aclosing(handles.answer(_body(model, request))) as answer:
            async for chunk in answer:
                if "error" in chunk:
                    raise failures.of_stream(self.name, chunk, str(chunk["error"].get("message", "it failed")))
                for choice in chunk.get("choices", ()):
                    finish = choice.get("finish_reason") or finish
                    text = (choice.get("delta") or {}).get("content")
                    if text:
                        pieces.append(text)
                        if on_delta is not None:
                            on_delta(text)
                usage = usage_of(chunk) or usage
        if finish is None:
            raise failures.unreachable(self.name, "the answer broke off")
        whole = "".join(pieces)
        offer = self.offer(request.model)
        own = self.own_price if offer is None else offer.price
        counted = price(self.name, model, usage or estimate(request, whole), own=own)
        return ModelResponse(whole, model, finish, counted)

    async def _near(self) -> Handles | None:
        """Handles, where this process is on the cluster; a `base_url` is always taken as it is."""
        loop = asyncio.get_running_loop()
        if self._settings.base_url is not None or time.monotonic() < self._elsewhere_until:
            return None
        if self._handles is None or self._handles[0] is not loop:
            if not await asyncio.to_thread(in_cluster):
                self._elsewhere_until = time.monotonic() + _ELSEWHERE_S
                return None
            self._handles = (loop, Handles())
        return self._handles[1]

    async def _only(self, handles: Handles) -> str:
        """The model where nobody names one: the only one that is served."""
        known = list(await handles.cards())
        if len(known) == 1:
            return known[0]
        raise FlowMasonError(
            f"no model is named for the provider {self.name!r}; there are {', '.join(known) or 'none'}",
            code=Code.NO_PROVIDER,
            help=f'Set providers.{self.name}.model in flowmason.json, or "llm_settings": {{"model": …}}.',
        )

    def _over_http(self) -> OpenAIShapedProvider:
        if self._remote is None:
            base_url, key = self._address()
            self._remote = OpenAIShapedProvider(
                self.name,
                # Whoever runs this has chosen the Studio, by signing in there or by declaring it.
                msgspec.structs.replace(self._settings, declared=True),
                base_url=base_url,
                model=self.default_model,
                key=key,
                egress=self._egress,
            )
        return self._remote

    def _address(self) -> tuple[str, str | None]:
        key = self._environ.get(self._settings.api_key_env or _KEY)
        if self._settings.base_url is not None:
            return self._settings.base_url, key
        book = OrgBook(self._environ)
        try:
            org = book.get()
            return f"{org.url.rstrip('/')}{names.PREFIX}/v1", key or book.key(org)
        except UsageError as error:
            raise FlowMasonError(
                "no served model is within reach: this process is on no Ray that serves one, and no Studio is known",
                code=Code.NO_PROVIDER,
                help=f"Run it where models are served (fm model serve), sign in (fm org login), or set "
                f"providers.{self.name}.base_url.",
            ) from error


def _body(model: str, request: ModelRequest) -> Body:
    turns = [{"role": turn.role, "content": turn.content} for turn in request.conversation()]
    if request.system_prompt:
        turns.insert(0, {"role": "system", "content": request.system_prompt})
    body: dict[str, Any] = {"model": model, "messages": turns}
    for key in ("max_tokens", "temperature", "top_p"):
        value = getattr(request, key)
        if value is not None:
            body[key] = value
    if request.stop_sequences:
        body["stop"] = list(request.stop_sequences)
    if request.json_schema is not None:
        schema = {"name": "answer", "schema": msgspec.to_builtins(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body
