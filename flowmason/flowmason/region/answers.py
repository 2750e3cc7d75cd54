"""Answers that are given again: what makes two requests the same, and what is kept of an answer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.errors import UsageError
from flowmason.ids import Digest, OrgId, sha256
from flowmason.model import ModelResponse, ToolCall
from flowmason.usage import Usage

if TYPE_CHECKING:
    from flowmason.answers_fs import Answers
    from flowmason.model import ModelProvider, ModelRequest
    from flowmason.secrets import Masker

_VERSION = 1
"""Rises when answers that were kept before are not to be given any more."""
_WITHOUT = ("timeout_s", "idempotency_key", "prompt_cache")
"""Of a request: what does not change the answer."""
_log = logging.getLogger("flowmason.answers")


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer as it is kept."""

    content: str
    model: str
    finish_reason: str
    at: int
    """Milliseconds since the epoch at which the model gave it."""
    tool_calls: tuple[ToolCall, ...] = ()
    blocks: tuple[dict[str, Any], ...] = ()


def answer_key(org_id: OrgId, provider: ModelProvider, settings: dict[str, Any], request: ModelRequest) -> Digest:
    """The digest of all that an answer follows from: who is asked (`settings`: the provider's own, as far as they
    change the answer), and with what."""
    asked = {name: item for name, item in msgspec.to_builtins(request).items() if name not in _WITHOUT}
    asked["model"] = request.model or provider.default_model
    who = [provider.name, getattr(provider, "base_url", None), settings]
    return Digest(sha256(msgspec.msgpack.encode([_VERSION, org_id, who, asked], order="sorted")))


class KeptAnswers:
    """One org's kept answers. Trouble with the store costs the answer that was kept, never the call."""

    def __init__(self, store: Answers, org_id: OrgId, masker: Masker) -> None:
        self._store, self._org_id, self._masker = store, org_id, masker

    async def find(self, key: Digest, max_age_s: float) -> Kept | None:
        """The answer that was kept at most so long ago."""
        try:
            data = await asyncio.to_thread(self._store.get, self._org_id, key, max_age_s)
            return None if data is None else msgspec.msgpack.decode(data, type=Kept)
        except (OSError, UsageError, msgspec.MsgspecError) as error:
            _log.warning("a kept answer cannot be read: %s", error)
            return None

    async def keep(self, key: Digest, response: ModelResponse, now: int) -> None:
        """Keep a whole answer; one that was cut off or refused is not kept, nor one that calls a tool with a secret."""
        if response.finish_reason not in ("stop", "tool_calls"):
            return
        try:
            called = [*(msgspec.json.decode(call.arguments or "{}") for call in response.tool_calls), *response.blocks]
        except (msgspec.DecodeError, ValueError, RecursionError):
            return  # it calls nothing that could be called again
        if self._masker.mask(called) != called:
            return
        kept = Kept(
            self._masker.text(response.content),
            response.model,
            response.finish_reason,
            now,
            response.tool_calls,
            response.blocks,
        )
        try:
            await asyncio.to_thread(self._store.put, self._org_id, key, msgspec.msgpack.encode(kept))
        except OSError as error:
            _log.warning("an answer cannot be kept: %s", error)


def again(kept: Kept, provider: ModelProvider) -> ModelResponse:
    """A kept answer as an answer: it used nothing."""
    usage = Usage(provider=provider.name, model=kept.model)
    return ModelResponse(kept.content, kept.model, kept.finish_reason, usage, kept.tool_calls, kept.blocks)
