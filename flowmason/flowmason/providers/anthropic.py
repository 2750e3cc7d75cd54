"""Anthropic's models through the `anthropic` SDK."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowmason.model import Message, ModelRequest, ModelResponse, OnDelta, ToolCall, tell_unseen
from flowmason.providers import failures
from flowmason.providers.http_sdk import HttpProvider, of_object, schema_in_words
from flowmason.providers.prices import price
from flowmason.usage import Usage

_NO_KEY = "none"  # without one the SDK would look for another in the environment
_MAX_TOKENS = 16_384  # the protocol wants a number, and a model's thinking counts towards it
_VERSION_WITH_SAMPLING = "2023-06-01"  # later versions of the API take no temperature and no top_p
# Newer models answer 400 to a conversation that ends with the assistant's turn.
_TAKES_BEGINNINGS = re.compile(r"claude-(?:[23][.-]|(?:opus|sonnet|haiku)-4-(?:[0-5](?!\d)|20\d{6}))")
_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
_THOUGHTS = {"thinking": "signature", "redacted_thinking": "data"}
"""Blocks that go back unchanged with the results of tools, and the key without which they are not taken."""
_KEPT = ("type", "text", "thinking", "signature", "data", "id", "name", "input")


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
                elif event.type == "input_json":
                    tell_unseen(on_delta, event.partial_json)
                elif event.type == "thinking":
                    tell_unseen(on_delta, event.thinking)
            message = await stream.get_final_message()
        except ValueError as error:
            if not request.tools:
                raise
            raise failures.unreachable(self.name, f"its call of a tool cannot be read: {str(error)[:300]}") from error
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
        calls, blocks = _calls(message.content)
        return ModelResponse("".join(pieces), message.model, finish, usage, calls, blocks)

    def _takes_tools(self) -> bool:
        return True

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
            "messages": list(_turns(request.conversation())),
        }
        if request.tools:
            arguments["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": of_object(tool.parameters)}
                for tool in request.tools
            ]
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


def _turns(conversation: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """The turns as the API takes them: the results of one turn's calls are one user's turn."""
    results: list[dict[str, Any]] = []
    for turn in conversation:
        if turn.role == "tool":
            result = {"type": "tool_result", "tool_use_id": turn.tool_call_id, "content": turn.content}
            results.append({**result, "is_error": True} if turn.failed else result)
            continue
        if results:
            yield {"role": "user", "content": results}
            results = []
        yield {"role": turn.role, "content": _content(turn)}
    if results:
        yield {"role": "user", "content": results}


def _content(turn: Message) -> str | list[dict[str, Any]]:
    if turn.blocks:
        return list(turn.blocks)
    if not turn.tool_calls:
        return turn.content
    said = [{"type": "text", "text": turn.content}] if turn.content.strip() else []
    return [*said, *(_use(call) for call in turn.tool_calls)]


def _use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}


def _calls(content: Sequence[Any]) -> tuple[tuple[ToolCall, ...], tuple[dict[str, Any], ...]]:
    """The calls of an answer, and all of it where thoughts have to go back with their results."""
    calls = tuple(
        ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
        for block in content
        if block.type == "tool_use"
    )
    if not calls or not any(_is_thought(block) for block in content):
        return calls, ()
    kept = [block for block in content if _is_thought(block) or block.type == "tool_use" or _says(block)]
    return calls, tuple({key: getattr(block, key) for key in _KEPT if hasattr(block, key)} for block in kept)


def _is_thought(block: Any) -> bool:
    return bool(getattr(block, _THOUGHTS.get(block.type, "") or "-", None))


def _says(block: Any) -> bool:
    return block.type == "text" and bool(block.text.strip())


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
