"""Our own count of a model call: what it can use at worst, before it is made; what it used, where nobody told."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

import msgspec

from flowmason.model import Offer
from flowmason.price import NANODOLLARS_PER_TOKEN, Price
from flowmason.providers.prices import price, price_of
from flowmason.usage import Amount, Usage

if TYPE_CHECKING:
    from flowmason.model import ModelProvider, ModelRequest

LONGEST_ANSWER = 4096
"""Output tokens of a call under a budget that says no `max_tokens`, nor does its provider's configuration."""
_ROUND_CALL = 256
"""Tokens that a provider's template may add to what is sent."""
_ROUND_TURN = 16
_ROUND_SCHEMA = 512
_ROUND_TOOLS = 1024
"""What a provider tells the model of how tools are used."""


def estimate(request: ModelRequest, text: str) -> Usage:
    """About what a call used that was asked `request` and gave `text`: four characters a token."""
    asked = len(request.system_prompt or "") + sum(len(turn.content) for turn in request.conversation())
    if request.tools:
        called = [turn.tool_calls for turn in request.messages]
        asked += len(msgspec.json.encode([request.tools, called]))
    return about(asked, len(text))


def about(asked: int, given: int) -> Usage:
    """About what a call used that was asked and gave so many characters."""
    return Usage(input_tokens=-(-asked // 4), output_tokens=-(-given // 4), calls=1, estimated=True)


def estimated(provider: ModelProvider, request: ModelRequest, text: str) -> Usage:
    """The same at the provider's price."""
    model = request.model or provider.default_model
    return price(provider.name, model, estimate(request, text), own=offer_of(provider, request.model).price)


def offer_of(provider: ModelProvider, model: str | None) -> Offer:
    """What is known of a model beforehand: what its provider says of it, else what the project configures for all of
    the provider's models."""
    asked = getattr(provider, "offer", None)
    found: Offer | None = None if asked is None else asked(model)
    own, most = getattr(provider, "own_price", None), getattr(provider, "max_tokens", None)
    return found or Offer(price=own, max_tokens=most)


def bounded(provider: ModelProvider, request: ModelRequest) -> ModelRequest:
    """The request with a bound on its answer: its own, its provider's configured one, or `LONGEST_ANSWER`.

    Where so long an answer may not fit in what the model takes at once, none is said: its server ends the answer
    there, and might refuse a call that asks for more.
    """
    offer = offer_of(provider, request.model)
    most = request.max_tokens or offer.max_tokens
    if most is None and fits(offer.context, _read(request)):
        most = LONGEST_ANSWER
    return msgspec.structs.replace(request, max_tokens=most)


def fits(context: int | None, read: int) -> bool:
    """Whether `LONGEST_ANSWER` fits in a context beside an input of at most `read` tokens, or nobody knows."""
    return context is None or read + LONGEST_ANSWER <= context


def within(context: int | None, read: int, most: int | None) -> tuple[int, int]:
    """The most input and output tokens of a call: neither is more than the context, where that is known."""
    written = most or (LONGEST_ANSWER if context is None else context)
    return (read, written) if context is None else (min(read, context), min(written, context))


def likely(provider: ModelProvider, request: ModelRequest) -> int:
    """How many tokens a call is likely to use at most: about its prompt, and the longest answer that it may give."""
    read, context = estimate(request, "").input_tokens, offer_of(provider, request.model).context
    return sum(within(context, read, bounded(provider, request).max_tokens))


def input_bound(sent: bytes, turns: int, schema: bytes = b"") -> int:
    """The most input tokens of a request of so many turns: no tokenizer makes more tokens of a text than it has bytes.

    `sent` is all that is sent, `schema` what a server without schemas is told of one in words, beside that.
    """
    return len(sent) + _ROUND_CALL + _ROUND_TURN * turns + (len(schema) + _ROUND_SCHEMA if schema else 0)


def worst_case(provider: ModelProvider, request: ModelRequest) -> tuple[Amount, bool]:
    """The most that a bounded request can use, and whether its price is known (else the money is 0).

    The bytes of all that is sent (prompts, turns, schema, tools, whatever else the request holds) bound the input, with
    some more for what providers wrap around it.
    """
    offer = offer_of(provider, request.model)
    read, written = within(offer.context, _read(request), request.max_tokens)
    found = offer.price or price_of(provider.name, request.model or provider.default_model)
    money = None if found is None else dearest(found, read, written)
    return Amount(money or 0, read + written), money is not None


def _read(request: ModelRequest) -> int:
    schema = b"" if request.json_schema is None else msgspec.json.encode(request.json_schema)
    read = input_bound(msgspec.json.encode(request), len(request.conversation()), schema)
    if request.tools:
        read += _ROUND_TOOLS + _ROUND_TURN * len(request.tools)
    return read


def dearest(found: Price, read: int, written: int) -> int | None:
    """Nano-dollars at the dearest of what such a call can cost; None where that is not known."""
    tiers = [(found.input, found.output, found.cached, found.cache_write)]
    long = found.long_prompt
    if long is not None and read > long.above:
        if long.input is None or long.output is None:
            return None
        tiers.append((long.input, long.output, long.cached, long.cache_write))
    most = Decimal(0)
    for input_, output, cached, cache_write in tiers:
        highest = max(each for each in (input_, cached, cache_write) if each is not None)
        most = max(most, highest * read + output * written)
    return int((most * NANODOLLARS_PER_TOKEN).to_integral_value(ROUND_CEILING))
