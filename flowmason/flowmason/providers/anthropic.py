"""Anthropic's models through the `anthropic` SDK."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmason.model import ModelRequest, ModelResponse, OnDelta
from flowmason.providers import failures
from flowmason.providers.http_sdk import HttpProvider
from flowmason.providers.prices import price
from flowmason.usage import Usage

_MAX_TOKENS = 4096  # the protocol wants a number
_NO_KEY = "none"  # without one the SDK would look for another in the environment
_TOOL = "answer"
_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "stop", "max_tokens": "length"}


class AnthropicProvider(HttpProvider):
    """The Messages API, always streamed.

    A JSON Schema becomes a tool that the model is made to call; its arguments are the answer. A schema whose root is
    no object is wrapped in one, and the answer then comes in one piece.
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
        wrapped = request.json_schema is not None and request.json_schema.get("type") != "object"
        pieces: list[str] = []
        arguments: list[str] = []

        def add(to: list[str], text: str) -> None:
            if text:
                to.append(text)
                if request.json_schema is None or (to is arguments and not wrapped):
                    on_delta(text)

        async with client.messages.stream(**self._arguments(request, wrapped)) as stream:
            async for event in stream:
                if event.type == "text":
                    add(pieces, event.text)
                elif event.type == "input_json":
                    add(arguments, event.partial_json)
            message = await stream.get_final_message()
        if message.stop_reason is None:
            raise failures.unreachable(self.name, "the answer broke off")
        called = next((block for block in message.content if block.type == "tool_use"), None)
        content = "".join(pieces)
        if request.json_schema is not None:
            content = self._structured(called, arguments, wrapped, content)
            if wrapped or not arguments:
                on_delta(content)
        usage = price(
            self.name,
            message.model,
            _usage(message.usage),
            own=self._price,
            cache_write_tokens=message.usage.cache_creation_input_tokens or 0,
        )
        return ModelResponse(content, message.model, _FINISH.get(message.stop_reason, message.stop_reason), usage)

    def _structured(self, called: Any, arguments: list[str], wrapped: bool, text: str) -> str:
        """The answer to a call with a schema: the tool's arguments, or what the model said instead of calling it."""
        import msgspec

        if called is None:
            return text
        if wrapped and isinstance(called.input, Mapping) and _TOOL in called.input:
            return msgspec.json.encode(called.input[_TOOL]).decode()
        return "".join(arguments) or msgspec.json.encode(called.input).decode()

    def _arguments(self, request: ModelRequest, wrapped: bool) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": request.model or self.default_model,
            "max_tokens": request.max_tokens or _MAX_TOKENS,
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.conversation()],
        }
        if request.system_prompt:
            arguments["system"] = request.system_prompt
        for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
            if value is not None:
                arguments[name] = value
        if request.stop_sequences:
            arguments["stop_sequences"] = list(request.stop_sequences)
        if request.json_schema is not None:
            schema = _wrap(request.json_schema) if wrapped else request.json_schema
            arguments["tools"] = [{"name": _TOOL, "description": "Give your answer.", "input_schema": schema}]
            arguments["tool_choice"] = {"type": "tool", "name": _TOOL, "disable_parallel_tool_use": True}
        if request.idempotency_key is not None:
            arguments["extra_headers"] = {"Idempotency-Key": request.idempotency_key}
        if self._body:
            arguments["extra_body"] = self._body
        return arguments


def _wrap(schema: Mapping[str, Any]) -> dict[str, Any]:
    inner = dict(schema)
    shared: dict[str, Any] = {
        key: inner.pop(key) for key in ("$defs", "definitions") if key in inner
    }  # references start at the root
    return {
        "type": "object",
        "properties": {_TOOL: inner},
        "required": [_TOOL],
        "additionalProperties": False,
        **shared,
    }


def _usage(given: Any) -> Usage:
    read, written = given.cache_read_input_tokens or 0, given.cache_creation_input_tokens or 0
    return Usage(
        input_tokens=(given.input_tokens or 0) + read + written,
        output_tokens=given.output_tokens or 0,
        cached_tokens=read,
        calls=1,
    )
