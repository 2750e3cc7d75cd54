"""The port for language models: one request, one answer, its text in pieces on the way. Adapters: `providers`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from flowmason.price import Price
from flowmason.usage import Usage


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool that the model may call."""

    name: str
    """1 to 64 of `A-Z a-z 0-9 _ -`."""
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments, an object."""


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model wants to be made."""

    id: str
    """Of its own within the conversation."""
    name: str
    arguments: str
    """As the model wrote them: meant as a JSON object, checked by nobody."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation."""

    role: str
    """`user`, `assistant`, or `tool` for a tool's result; what the system says goes into
    `ModelRequest.system_prompt`."""
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's turn. The results follow it, one `tool` turn each, in the same order."""
    tool_call_id: str = ""
    """Of a `tool` turn: the call that it answers."""
    failed: bool = False
    """Of a `tool` turn: its content says what went wrong."""
    blocks: tuple[dict[str, Any], ...] = ()
    """Of an assistant's turn: `ModelResponse.blocks`."""


class ModelRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a model is asked. None leaves a setting to the project's provider settings, then to the provider."""

    prompt: str = ""
    """The last user turn. Empty: `messages` says everything."""
    messages: tuple[Message, ...] = ()
    """Earlier turns, before `prompt`."""
    system_prompt: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    """The most output tokens."""
    top_p: float | None = None
    stop_sequences: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    """What the model may call instead of answering. Only for providers that can (`Abilities.tools`)."""
    json_schema: dict[str, Any] | None = None
    """JSON Schema that the answer is asked to fit. The answer is still text, and the caller checks it."""
    idempotency_key: str | None = None
    """Sent along where the provider knows such keys."""
    prompt_cache: str | None = None
    """Ask the provider to keep the beginning of the prompt for the next call with this name."""
    timeout_s: float | None = None
    """The whole call, in seconds."""
    begun: str = ""
    """The beginning of the answer, which is there already and which the model goes on from; the response holds the
    rest. Only for providers that can (`Abilities.continues`)."""

    def conversation(self) -> tuple[Message, ...]:
        """`messages`, the prompt and what is there of the answer as one list."""
        asked = (*self.messages, Message("user", self.prompt)) if self.prompt else self.messages
        return (*asked, Message("assistant", self.begun)) if self.begun else asked


class ModelResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole answer."""

    content: str
    model: str
    """As the provider names it."""
    finish_reason: str = "stop"
    """`stop`, `length`, `refusal`, `tool_calls`, or the provider's own word."""
    usage: Usage = Usage()
    tool_calls: tuple[ToolCall, ...] = ()
    """What the model wants to be called before it goes on. With `length`, the last one may be cut off."""
    blocks: tuple[dict[str, Any], ...] = ()
    """The turn in its provider's own form, where that has to be given back with the results (thoughts, say)."""

    @property
    def text(self) -> str:
        """The same as `content`."""
        return self.content

    @property
    def input_tokens(self) -> int:
        return self.usage.input_tokens

    @property
    def output_tokens(self) -> int:
        return self.usage.output_tokens

    @property
    def total_tokens(self) -> int:
        return self.usage.total_tokens


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What not every provider can do."""

    continues: bool = False
    """Go on from the beginning of an answer (`ModelRequest.begun`)."""
    tools: bool = False
    """Take tools in its own protocol (`ModelRequest.tools`)."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model before it is asked. None: it is not known."""

    price: Price | None = None
    context: int | None = None
    """How many tokens of prompt and answer together it takes at once."""
    max_tokens: int | None = None
    """How long an answer may be where a request does not say."""


OnDelta = Callable[[str], None]
"""Takes the next piece of the answer. Called on the caller's event loop; must not block."""


def tell_unseen(on_delta: OnDelta, text: str) -> None:
    """Tell whoever listens what the model wrote that is no piece of the answer (a call of a tool, a thought), where
    they want to know: they have a method `unseen(text)`. A call that breaks off is settled by it."""
    unseen: OnDelta | None = getattr(on_delta, "unseen", None)
    if unseen is not None:
        unseen(text)


class ModelProvider(Protocol):
    """Somebody who runs language models. Belongs to the event loop that first calls it.

    What not every provider can do, it says by a method `abilities(model: str | None) -> Abilities`, None being its
    default model; without that method it can do nothing of it. A request that its server refuses all the same is a
    `ProviderError` (`PROVIDER`).

    Who knows prices and bounds of single models says them by a method `offer(model: str | None) -> Offer | None`; who
    has to ask for that first, by `async learn(model: str | None) -> None`, which is called before a call is held under
    a budget and raises as `generate` does.
    """

    name: str
    """As `flowmason.json` and `llm_settings.provider` name it."""
    default_model: str

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        """Ask once; nothing is retried here.

        The pieces given to `on_delta` add up to the content. Cancelling the awaiting task ends the generation.
        Raises `ProviderError`: `retry` says whether the same call may succeed later. Raises `EgressError` where the
        guard refuses the provider's address, `EngineUnavailableError` where a needed package is missing.
        """
        ...

    async def close(self) -> None:
        """Give connections and memory back. The provider may be used again; it then starts afresh."""
        ...


async def learn_of(provider: ModelProvider, model: str | None) -> None:
    """Have a provider find out what it offers of a model, where it has to ask for that."""
    learn: Callable[[str | None], Awaitable[None]] | None = getattr(provider, "learn", None)
    if learn is not None:
        await learn(model)


def abilities_of(provider: ModelProvider, request: ModelRequest) -> Abilities:
    """What a provider can do with the request's model."""
    asked: Callable[[str | None], Abilities] | None = getattr(provider, "abilities", None)
    return Abilities() if asked is None else asked(request.model)
