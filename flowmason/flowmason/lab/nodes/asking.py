"""Ask a model for JSON, check the answer, and let the model repair a bad one at most twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowmason.component import LLM, Answer, parse_json
from flowmason.errors import Code, StageError
from flowmason.lab.nodes import prompts

REPAIRS = 2
_SHOWN = 1500
"""Characters of a bad answer that the model is shown again."""
_SHOWN_CUT = 200

Check = Callable[[Any], str | None]
"""Says what is wrong with an answer that fits the schema; None: nothing."""

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
    asked = prompt
    refusals: list[str] = []
    for _ in range(1 + REPAIRS):
        answer = await llm.generate(
            asked,
            system_prompt=system_prompt,
            temperature=temperature,
            max_tokens=max_tokens,
            schema=schema,
            stop_sequences=stop_sequences,
        )
        tally.add(answer)
        found, reason = _read(answer, schema, check)
        if reason is None:
            return found
        refusals.append(reason)
        # Most of an answer that ran on to its limit is noise, and a small model would only go on with it.
        asked = prompts.repair(prompt, answer.content[: _SHOWN_CUT if _cut(answer) else _SHOWN], reason)
    raise StageError(
        f"the model's answer is still bad after {REPAIRS} repairs: {refusals[-1]}",
        code=Code.BAD_ANSWER,
        details={"reasons": refusals, "answer": answer.content[:_SHOWN], "model": answer.model},
        help="A larger model, a lower temperature or more max_tokens may help.",
    )


def _read(answer: Answer, schema: Mapping[str, Any], check: Check | None) -> tuple[Any, str | None]:
    try:
        found = parse_json(answer.content)
    except StageError as error:
        return None, "it was cut off: max_tokens; answer more briefly" if _cut(answer) else str(error)
    reason = _misfit(found, schema) or (check(found) if check else None)
    return found, reason


def _cut(answer: Answer) -> bool:
    return answer.finish_reason in ("length", "max_tokens")


def _misfit(found: Any, schema: Mapping[str, Any]) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY

    try:
        error = best_match(Draft202012Validator(schema, registry=EMPTY_REGISTRY).iter_errors(found))
    except Unresolvable as unknown:
        raise StageError(f"the schema of the answer refers to {unknown.ref!r}", code=Code.INVALID_INPUT) from None
    return None if error is None else f"{error.json_path}: {error.message[:300]}"


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
