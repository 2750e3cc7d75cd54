"""How the nodes ask for JSON, and what they count of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowmason.component import LLM, Answer
from flowmason.component.objects import Check, ask_object

PROVIDERS: dict[str, dict[str, Any]] = {
    "anthropic": {"temperature": 0.7, "max_tokens": 4096},
    "openai": {"temperature": 0.7, "max_tokens": 4096},
}
"""`recommended_providers` of the nodes. Which model it is, each provider's own default says."""


class Tally:
    """What the calls of one stage came to."""

    def __init__(self) -> None:
        self.tokens = 0
        self.model = ""
        self.finish_reason = ""

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.tokens += answer.total_tokens
        self.model = answer.model
        self.finish_reason = answer.finish_reason

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that every node's Output ends with."""
        return {"tokens_used": self.tokens, "model": self.model, "finish_reason": self.finish_reason}


async def ask_json(
    llm: LLM,
    prompt: str,
    tally: Tally,
    *,
    system_prompt: str,
    schema: Mapping[str, Any],
    check: Check | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    stop_sequences: Sequence[str] | None = None,
) -> Any:
    """The model's answer as plain data that fits `schema` and passes `check`.

    Raises `StageError` (`BAD_ANSWER`) when the last repair is still bad, and whatever the provider raises.
    """
    return await ask_object(
        llm.generate,
        prompt,
        schema=schema,
        check=check,
        on_answer=tally.add,
        system_prompt=system_prompt,
        temperature=temperature,
        max_tokens=max_tokens,
        stop_sequences=stop_sequences,
    )


def obj(**properties: Any) -> dict[str, Any]:
    """Schema of an object with exactly these fields, all required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def texts(at_most: int = 5) -> dict[str, Any]:
    """Schema of a short list of texts."""
    return {"type": "array", "items": {"type": "string"}, "maxItems": at_most}


def whole(low: int, high: int) -> dict[str, Any]:
    """Schema of a whole number within bounds. Models and grammars keep to it better than to a fraction."""
    return {"type": "integer", "minimum": low, "maximum": high}


TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
PERCENT = whole(0, 100)
