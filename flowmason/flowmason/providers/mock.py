"""A provider that answers from a script, or with text that says it is a mock. Never chosen unless asked for by name."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from flowmason.errors import UsageError
from flowmason.model import ModelRequest, ModelResponse, OnDelta
from flowmason.price import Price
from flowmason.providers import failures
from flowmason.providers.instances import instance_of
from flowmason.providers.prices import price as priced
from flowmason.usage import Usage

Scripted = str | Mapping[str, Any] | list[Any] | Exception | ModelResponse
"""Text; plain data, which is written as JSON; an error to raise; or a whole response."""
Answers = Iterable[Scripted] | Mapping[str, Scripted] | Callable[[ModelRequest], Scripted]

_PIECES = re.compile(r"\s*\S+\s*")
MODEL = "mock-1"


class MockProvider:
    """Answers from `answers`:

    - a list: one after the other; when it is used up, a call fails;
    - a mapping: the answer of the first key that is contained in the prompt (`*` fits every prompt); without one, a
      call fails;
    - a function of the request;
    - None: the least value that fits the request's JSON Schema, else `mock answer to: <the prompt's beginning>`.

    An object with the one key `error` (`{"type": …, "message": …}`) makes the call fail. The answer is streamed word
    by word, each after `delay_ms`. Tokens are counted as words, and cost nothing unless `price` says more.
    `max_tokens` bounds answers that are asked for without a bound. `requests` keeps every request in order.
    """

    def __init__(
        self,
        answers: Answers | None = None,
        *,
        name: str = "mock",
        model: str = MODEL,
        delay_ms: float = 0,
        price: Price | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.name = name
        self.default_model = model
        self.requests: list[ModelRequest] = []
        self.own_price = price
        self.max_tokens = max_tokens
        self._delay_s = delay_ms / 1000
        self._by_prompt: Mapping[str, Scripted] | None = None
        self._queue: deque[Scripted] | None = None
        self._function: Callable[[ModelRequest], Scripted] | None = None
        if callable(answers):
            self._function = answers
        elif isinstance(answers, Mapping):
            self._by_prompt = answers
        elif isinstance(answers, str):
            raise UsageError("the mock's answers are a list, an object or a function, not one text")
        elif answers is not None:
            self._queue = deque(answers)

    @property
    def left(self) -> int | None:
        """How many answers of the list are not used yet; None where there is no list."""
        return None if self._queue is None else len(self._queue)

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        """See `ModelProvider.generate`."""
        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Mapping) and set(answer) == {"error"}:
            raise _scripted_error(self.name, answer["error"])
        given = answer if isinstance(answer, ModelResponse) else None
        text = given.content if given else answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
        pieces = _PIECES.findall(text) if text.strip() else [text]
        finish = "stop"
        most = request.max_tokens or self.max_tokens
        if given is None and most is not None and len(pieces) > most:
            pieces, finish = pieces[:most], "length"
        for piece in pieces:
            await asyncio.sleep(self._delay_s)
            if on_delta is not None and piece:
                on_delta(piece)
        if given is not None:
            return given
        asked = " ".join([request.system_prompt or "", *(turn.content for turn in request.conversation())])
        model = request.model or self.default_model
        counted = Usage(input_tokens=len(asked.split()), output_tokens=len(pieces) if text.strip() else 0, calls=1)
        usage = priced(self.name, model, counted, own=self.own_price)
        return ModelResponse("".join(pieces), model, finish, usage)

    async def close(self) -> None:
        """Nothing to give back."""

    def _answer(self, request: ModelRequest) -> Scripted:
        turns = request.conversation()
        prompt = turns[-1].content if turns else ""
        if self._function is not None:
            return self._function(request)
        if self._queue is not None:
            if not self._queue:
                raise failures.bad_request(self.name, f"the script has no answer left for: {prompt[:80]!r}")
            return self._queue.popleft()
        if self._by_prompt is not None:
            for key, answer in self._by_prompt.items():
                if key == "*" or key in prompt:
                    return answer
            raise failures.bad_request(self.name, f"the script has no answer for: {prompt[:80]!r}")
        if request.json_schema is not None:
            found = instance_of(request.json_schema)
            return found if isinstance(found, dict | list) else msgspec.json.encode(found).decode()
        return f"mock answer to: {' '.join(prompt.split())[:120]}"


def _scripted_error(name: str, error: Any) -> Exception:
    given = error if isinstance(error, Mapping) else {"message": str(error)}
    message = str(given.get("message", "scripted error"))
    status = given.get("status")
    if isinstance(status, int):
        return failures.of_status(name, status, message, {})
    return failures.of_stream(name, {"error": {"type": str(given.get("type", "invalid_request_error"))}}, message)
