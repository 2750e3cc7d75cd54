"""Answers that break off: the model goes on from what has come of it, where its provider can do that.

A provider that cannot is not asked again here: the failure ends the attempt, and the stage's retries begin it anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from flowmason.errors import Code, ProviderError
from flowmason.model import ModelProvider, ModelRequest, ModelResponse, OnDelta, abilities_of
from flowmason.providers.counting import estimated
from flowmason.usage import Usage

_REFUSED = (Code.PROVIDER, Code.CONTEXT_EXCEEDED)
MOST_RESUMPTIONS = 3
"""Of one answer."""
_WAITS_S = (0.0, 0.5, 2.0)
"""Before each of them: a replica's neighbour answers at once, a server that starts again takes a moment."""

Ask = Callable[[ModelProvider, ModelRequest, OnDelta], Awaitable[ModelResponse]]
Tell = Callable[[int, int], None]
"""Is told, before each resumption, how many characters have come, and which one it is (from 1)."""


async def ask_through(
    provider: ModelProvider, request: ModelRequest, ask: Ask, on_delta: OnDelta, tell: Tell
) -> ModelResponse:
    """`ask(provider, request, on_delta)`, gone on with where a connection is lost amid the answer.

    The response is the whole answer, its usage the sum of all parts; each part is a call of its own for `ask`.
    Nothing else than a lost connection is mended; an answer with a schema never is, for a grammar begins anew with each
    call, nor is one that may call tools. Raises what `ask` raised; of an answer that had begun,
    `details.broke_off_after` says how many characters had come.
    """
    text, pieces, usage = "", 0, Usage()
    broken: ProviderError | None = None
    can = abilities_of(provider, request).continues and request.json_schema is None and not request.tools
    for number in range(MOST_RESUMPTIONS + 1):
        asked = request if not text else _rest(request, text, pieces)
        part = _Part(text[len(text.rstrip()) :], on_delta)
        try:
            response = await ask(provider, asked, part.take)
        except ProviderError as error:
            if part.pieces:
                usage += estimated(provider, asked, part.text)
            elif broken is not None and error.failure.code in _REFUSED:
                raise broken from error  # it refuses to go on from there
            text, pieces = text + part.text, pieces + part.pieces
            if not text:
                raise
            details = {**(error.failure.details or {}), "broke_off_after": len(text)}
            error.failure = msgspec.structs.replace(error.failure, details=details)
            broken = error
            if not can or error.failure.code != Code.CONNECTIVITY or number == MOST_RESUMPTIONS:
                raise
        else:
            if not text:
                return response
            return msgspec.structs.replace(response, content=text + part.text, usage=usage + response.usage)
        tell(len(text), number + 1)
        await asyncio.sleep(_WAITS_S[number])
    raise AssertionError("the last failure is raised")


def _rest(request: ModelRequest, text: str, pieces: int) -> ModelRequest:
    """The request for the rest of an answer. Templates and providers cut or refuse white space at the end of a turn."""
    most = request.max_tokens
    if most is not None:
        most = max(1, most - max(pieces, -(-len(text) // 4)))
    return msgspec.structs.replace(request, begun=text.rstrip(), max_tokens=most)


class _Part:
    """What comes of one call, without the white space that had come already."""

    def __init__(self, gap: str, on_delta: OnDelta) -> None:
        self.text = ""
        self.pieces = 0
        self._gap = gap
        self._on_delta = on_delta

    def take(self, piece: str) -> None:
        while self._gap and piece and piece[0] == self._gap[0]:
            piece, self._gap = piece[1:], self._gap[1:]
        if not piece:
            return
        self._gap = ""
        self.text += piece
        self.pieces += 1
        self._on_delta(piece)
