"""What every engine behind the endpoint offers, and what callers send it.

A body is a request of OpenAI's chat completions (`messages`) or completions (`prompt`); an answer is a stream of the
chunks that such a server sends, in batches of those that are there. The last chunk carries the usage. What goes wrong
is a chunk `{"error": {"code": status, "message": …, "type": …}}`, after which the stream ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from flowmason.price import Price
from flowmason.served import ServedModel
from flowmason.usage import Usage

Body = dict[str, Any]
Chunk = dict[str, Any]


class Counts(msgspec.Struct, frozen=True):
    """What an engine itself has counted since it was loaded."""

    input_tokens: int
    output_tokens: int
    running: int
    waiting: int


class Engine(Protocol):
    """One replica of a served model."""

    def answer(self, body: Body) -> AsyncIterator[list[Chunk]]:
        """Answer a request. Closing or cancelling the iteration ends the generation."""
        ...

    async def counts(self) -> Counts:
        """The engine's own counters."""
        ...

    async def describe(self) -> Card:
        """What callers may know of the model."""
        ...


class Card(msgspec.Struct, frozen=True):
    """One served model, as lists show it."""

    name: str
    engine: str
    description: str = ""
    adapters: tuple[str, ...] = ()
    """As callers name them: `model/adapter`."""
    max_tokens: int | None = None
    """How long an answer may be where the caller does not say."""
    system_bytes: int = 0
    """Of the system prompt that goes before a conversation without one."""
    price: Price | None = None
    """None: its calls cost nothing."""
    context: int | None = None
    """How many tokens of prompt and answer it takes at once, where that is known."""

    @classmethod
    def of(cls, model: ServedModel) -> Card:
        """The card of a declared model."""
        adapters = tuple(f"{model.name}/{each.name}" for each in model.adapters)
        defaults = model.defaults
        system = len((defaults.system_prompt or "").encode())
        return cls(
            model.name, str(model.engine), model.description, adapters, defaults.max_tokens, system, model.price,
            model.context,
        )  # fmt: skip


def completed(body: Body, model: ServedModel) -> Body:
    """The body with the model's defaults, as a stream that ends with its usage."""
    defaults = {key: value for key, value in msgspec.structs.asdict(model.defaults).items() if value is not None}
    system = defaults.pop("system_prompt", None)
    if "max_completion_tokens" in body:
        defaults.pop("max_tokens", None)
    whole = {**defaults, **body, "stream": True, "stream_options": {"include_usage": True}}
    if system is not None and "messages" in body and all(turn["role"] != "system" for turn in body["messages"]):
        whole["messages"] = [{"role": "system", "content": system}, *body["messages"]]
    return whole


def usage_of(chunk: Chunk) -> Usage | None:
    """What the engine counted, where the chunk says it."""
    given = chunk.get("usage")
    if not given:
        return None
    return Usage(
        input_tokens=int(given.get("prompt_tokens") or 0),
        output_tokens=int(given.get("completion_tokens") or 0),
        cached_tokens=int((given.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        calls=1,
    )


def failed(status: int, message: str, kind: str) -> Chunk:
    """The chunk that tells of an error."""
    return {"error": {"code": status, "message": message, "type": kind}}


def replicas(model: ServedModel) -> dict[str, Any]:
    """How many replicas, as Serve takes it."""
    scaling = model.autoscaling
    if scaling is None:
        return {"num_replicas": model.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min,
            "max_replicas": scaling.max,
            "target_ongoing_requests": scaling.target_ongoing,
        }
    }
