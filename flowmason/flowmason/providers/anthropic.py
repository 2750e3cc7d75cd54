"""Anthropic's models through the `anthropic` SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flowmason.model import ModelRequest, ModelResponse, OnDelta
from flowmason.providers import failures
from flowmason.providers.http_sdk import HttpProvider, schema_in_words
from flowmason.providers.prices import price
from flowmason.usage import Usage

_NO_KEY = "none"  # without one the SDK would look for another in the environment
_MAX_TOKENS = 16_384  # the protocol wants a number, and a model's thinking counts towards it
_VERSION_WITH_SAMPLING = "2023-06-01"  # later versions of the API take no temperature and no top_p
# Newer models answer 400 to a conversation that ends with the assistant's turn.
_TAKES_BEGINNINGS = re.compile(r"claude-(?:[23][.-]|(?:opus|sonnet|haiku)-4-(?:[0-5](?!\d)|20\d{6}))")
_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}


class AnthropicProvider(HttpProvider):
    """The Messages API, always streamed.

    A JSON Schema is sent as `output_config.format`, in the form that the SDK makes of it; where that form would say
    something else than the schema, or the model refuses it, the schema goes into the system prompt. A model that
    refuses `temperature` or `top_p` is asked again without it.
    """

    sdk = "anthropic"

    def _connect(self, sdk: Any, http_client: Any) -> Any:
        return sdk.AsyncAnthropic(
            api_key=self._key or _NO_KEY,
            base_url=self.base_url,
            max_retries=0,
            http_client=http_client,
            default_headers=self._headers,
        )

    async def _ask(self, client: Any, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        model = request.model or self.default_model
        form = self._schema_form(request.json_schema)
        used = {
            "top_p": request.top_p is not None,
            "temperature": request.temperature is not None,
            "schema": form is not None,
            "prompt_cache": request.prompt_cache is not None,
        }
        manager: Any = None

        async def begin(left_out: frozenset[str]) -> Any:
            nonlocal manager
            manager = client.messages.stream(**self._arguments(request, model, form, left_out))
            return await manager.__aenter__()

        stream = await self._begin(model, used, begin)
        pieces: list[str] = []
        try:
            async for event in stream:
                if event.type == "text" and event.text:
                    pieces.append(event.text)
                    on_delta(event.text)
            message = await stream.get_final_message()
        finally:
            await manager.__aexit__(None, None, None)
        if message.stop_reason is None:
            raise failures.unreachable(self.name, "the answer broke off")
        usage = price(
            self.name,
            message.model,
            _usage(message.usage),
            own=self.own_price,
            cache_write_tokens=message.usage.cache_creation_input_tokens or 0,
        )
        finish = _FINISH.get(message.stop_reason, message.stop_reason)
        return ModelResponse("".join(pieces), message.model, finish, usage)

    def _continues(self, model: str) -> bool:
        return _TAKES_BEGINNINGS.match(model) is not None

    def _schema_form(self, schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The schema as the API takes it; None: there is none, or it cannot be said there."""
        if schema is None or not closed_objects(schema):
            return None
        try:
            form: dict[str, Any] = self._sdk.transform_schema(dict(schema))
        except (ValueError, TypeError, AssertionError):
            return None
        return form

    def _arguments(
        self, request: ModelRequest, model: str, form: dict[str, Any] | None, left_out: frozenset[str]
    ) -> dict[str, Any]:
        system = request.system_prompt
        headers: dict[str, str] = {}
        more = dict(self._body)
        arguments: dict[str, Any] = {
            "model": model,
            "max_tokens": request.max_tokens or _MAX_TOKENS,
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.conversation()],
        }
        for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
            if value is not None and name not in left_out:
                more[name] = value
                headers["anthropic-version"] = _VERSION_WITH_SAMPLING
        if request.prompt_cache is not None and "prompt_cache" not in left_out:
            arguments["cache_control"] = {"type": "ephemeral"}
        if request.stop_sequences:
            arguments["stop_sequences"] = list(request.stop_sequences)
        if form is not None and "schema" not in left_out:
            arguments["output_config"] = {"format": {"type": "json_schema", "schema": form}}
        elif request.json_schema is not None:
            system = schema_in_words(system, request.json_schema)
        if system:
            arguments["system"] = system
        if request.idempotency_key is not None:
            headers["Idempotency-Key"] = request.idempotency_key
        if headers:
            arguments["extra_headers"] = headers
        if more:
            arguments["extra_body"] = more
        return arguments


def closed_objects(schema: Any) -> bool:
    """Whether the schema's objects hold no more than their `properties`: the API closes every object, so that one
    meant as a map from any key would come back empty."""
    if isinstance(schema, Mapping):
        more = schema.get("additionalProperties", False)
        if isinstance(more, Mapping) or "patternProperties" in schema:
            return False
        if schema.get("type") == "object" and not schema.get("properties") and more is not False:
            return False
        if schema.get("type") == "object" and "properties" not in schema and "additionalProperties" not in schema:
            return False
        return all(closed_objects(value) for value in schema.values())
    if isinstance(schema, list):
        return all(closed_objects(value) for value in schema)
    return True


def _usage(given: Any) -> Usage:
    read, written = given.cache_read_input_tokens or 0, given.cache_creation_input_tokens or 0
    return Usage(
        input_tokens=(given.input_tokens or 0) + read + written,
        output_tokens=given.output_tokens or 0,
        cached_tokens=read,
        calls=1,
    )
