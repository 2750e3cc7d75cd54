"""A stream of chunks as one answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowmason_serve_apps.llm.engines import Chunk

_KEPT = ("id", "created", "model", "system_fingerprint")


def folded(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The answer that a server gives to whoever does not stream."""
    chat = True
    whole: dict[str, Any] = {}
    texts: list[str] = []
    finish: str | None = None
    for chunk in chunks:
        chat = str(chunk.get("object", "")).startswith("chat")
        whole.update({key: chunk[key] for key in _KEPT if chunk.get(key) is not None})
        for choice in chunk.get("choices", ()):
            text = (choice.get("delta") or {}).get("content") if chat else choice.get("text")
            if text:
                texts.append(text)
            finish = choice.get("finish_reason") or finish
        if chunk.get("usage"):
            whole["usage"] = chunk["usage"]
    text = "".join(texts)
    choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text, "logprobs": None}
    return {
        **whole,
        "object": "chat.completion" if chat else "text_completion",
        "choices": [{"index": 0, **choice, "finish_reason": finish}],
    }
