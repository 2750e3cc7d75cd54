"""Every server that speaks OpenAI's chat completions: OpenAI, Azure, vLLM, Ollama, llama.cpp, Groq, Gemini, …"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmason.egress import EgressPolicy
from flowmason.model import Message, ModelRequest, ModelResponse, OnDelta, ToolCall, tell_unseen
from flowmason.providers import failures
from flowmason.providers.counting import estimate
from flowmason.providers.http_sdk import HttpProvider, of_object, schema_in_words
from flowmason.providers.prices import price
from flowmason.providers.settings import ProviderSettings
from flowmason.usage import Usage

_GO_ON = {"continue_final_message": True, "add_generation_prompt": False}  # as vLLM and llama.cpp take it
_CALLED = ("stop", "tool_calls", "function_call")
"""How servers say that an answer with calls is over."""
_NO_KEY = "none"  # the SDK wants one; servers without keys ignore it


class OpenAIShapedProvider(HttpProvider):
    """Chat completions through the `openai` SDK, always streamed.

    A model that refuses `stream_options`, `temperature`, `top_p` or a JSON Schema as `response_format` is asked again
    without it; the schema then goes into the system prompt. Where a server sends no usage, it is estimated
    (`Usage.estimated`).
    """

    sdk = "openai"

    def __init__(
        self,
        name: str,
        settings: ProviderSettings,
        *,
        base_url: str,
        model: str,
        key: str | None,
        egress: EgressPolicy,
        official: bool = False,
    ) -> None:
        super().__init__(name, settings, base_url=base_url, model=model, key=key, egress=egress)
        self._official = official

    def _connect(self, sdk: Any, http_client: Any) -> Any:
        headers: dict[str, Any] = dict(self._headers)
        if not self._official:  # the SDK reads these from the environment; they are for OpenAI only
            headers = {"OpenAI-Organization": sdk.Omit(), "OpenAI-Project": sdk.Omit(), **headers}
        return sdk.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=self.base_url,
            max_retries=0,
            http_client=http_client,
            default_headers=headers,
        )

    async def _ask(self, client: Any, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        model = request.model or self.default_model
        used = {
            "stream_options": True,
            "top_p": request.top_p is not None,
            "temperature": request.temperature is not None,
            "schema": request.json_schema is not None,
            "prompt_cache": self._official and request.prompt_cache is not None,
        }
        stream = await self._begin(
            model, used, lambda left: client.chat.completions.create(**self._arguments(request, model, left))
        )
        pieces: list[str] = []
        refusal: list[str] = []
        called = CallsInParts()
        finish: str | None = None
        answered_by = model
        usage: Usage | None = None
        async with stream:
            async for chunk in stream:
                answered_by = chunk.model or answered_by
                usage = _usage(chunk.usage) or usage
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    if choice.delta.content:
                        pieces.append(choice.delta.content)
                        on_delta(choice.delta.content)
                    if choice.delta.refusal:
                        refusal.append(choice.delta.refusal)
                    for part in choice.delta.tool_calls or ():
                        called.take(part)
                        if part.function is not None:
                            tell_unseen(on_delta, (part.function.name or "") + (part.function.arguments or ""))
        if finish is None:
            raise failures.unreachable(self.name, "the answer broke off")
        if refusal and not pieces:
            pieces, finish = refusal, "refusal"
            on_delta("".join(refusal))
        text, calls = "".join(pieces), called.whole(len(request.conversation()))
        if calls and finish in _CALLED:
            finish = "tool_calls"
        written = text + "".join(call.name + call.arguments for call in calls)
        usage = price(self.name, answered_by, usage or estimate(request, written), own=self.own_price)
        return ModelResponse(text, answered_by, finish, usage, calls)

    def _takes_tools(self) -> bool:
        return self._official

    def _arguments(self, request: ModelRequest, model: str, left_out: frozenset[str]) -> dict[str, Any]:
        messages = [_turn(turn) for turn in request.conversation()]
        system = request.system_prompt
        arguments: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
        if request.tools:
            arguments["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": of_object(tool.parameters),
                    },
                }
                for tool in request.tools
            ]
        if "stream_options" not in left_out:
            arguments["stream_options"] = {"include_usage": True}
        if request.json_schema is not None and "schema" in left_out:
            system = schema_in_words(system, request.json_schema)
        elif request.json_schema is not None:
            arguments["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": "answer",
                    "schema": request.json_schema,
                    "strict": fits_strict_mode(request.json_schema),
                },
            }
        if system:
            messages.insert(0, {"role": "system", "content": system})
        if request.max_tokens is not None:
            # OpenAI's newer models refuse the old name, other servers do not know the new one.
            arguments["max_completion_tokens" if self._official else "max_tokens"] = request.max_tokens
        for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
            if value is not None and name not in left_out:
                arguments[name] = value
        if self._official and request.prompt_cache is not None and "prompt_cache" not in left_out:
            arguments["prompt_cache_key"] = request.prompt_cache
        if request.stop_sequences:
            arguments["stop"] = list(request.stop_sequences)
        if request.idempotency_key is not None:
            arguments["extra_headers"] = {"Idempotency-Key": request.idempotency_key}
        body = {**_GO_ON, **self._body} if request.begun else self._body
        if body:
            arguments["extra_body"] = body
        return arguments


class CallsInParts:
    """The calls of a streamed answer, put together from their parts.

    Parts of a call have its `index`. Servers that send each call whole may leave that out, or say 0 for all of them;
    then a new `id` begins the next call.
    """

    def __init__(self) -> None:
        self._calls: list[_Parts] = []

    def take(self, part: Any) -> None:
        """The next part of the stream's `delta.tool_calls`."""
        index = part.index
        known = [call for call in self._calls if call.index == index] if index is not None else self._calls
        if not known or (part.id and known[-1].id and part.id != known[-1].id):
            known = [_Parts(index)]
            self._calls += known
        call, function = known[-1], part.function
        call.id = call.id or part.id or ""
        if function is not None:
            call.name += function.name or ""
            call.arguments.append(function.arguments or "")

    def whole(self, turns: int) -> tuple[ToolCall, ...]:
        """The calls in order. A call without an id gets one that no other has in a conversation of so many turns."""
        return tuple(
            ToolCall(call.id or f"call_{turns}_{number}", call.name, "".join(call.arguments))
            for number, call in enumerate(self._calls)
        )


class _Parts:
    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


def _turn(turn: Message) -> dict[str, Any]:
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.tool_call_id, "content": turn.content}
    if not turn.tool_calls:
        return {"role": turn.role, "content": turn.content}
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in turn.tool_calls
    ]
    return {"role": turn.role, "content": turn.content or None, "tool_calls": calls}


def fits_strict_mode(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes the schema: every object closed, and every property required."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        if schema.get("type") == "object" or properties is not None:
            closed = schema.get("additionalProperties") is False
            if not closed or set(properties or ()) != set(schema.get("required", ())):
                return False
        if "default" in schema or "oneOf" in schema or "allOf" in schema:
            return False
        return all(fits_strict_mode(value) for value in schema.values())
    if isinstance(schema, list):
        return all(fits_strict_mode(value) for value in schema)
    return True


def _usage(given: Any) -> Usage | None:
    if given is None:
        return None
    details = given.prompt_tokens_details
    return Usage(
        input_tokens=given.prompt_tokens or 0,
        output_tokens=given.completion_tokens or 0,
        cached_tokens=(details.cached_tokens or 0) if details is not None else 0,
        calls=1,
    )
