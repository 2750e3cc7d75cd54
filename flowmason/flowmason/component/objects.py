"""Ask a model for JSON, check the answer, and let the model repair a bad one at most twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowmason.component.context import Answer, parse_json
from flowmason.component.patterns import bounded
from flowmason.errors import Code, StageError

if TYPE_CHECKING:
    from pydantic import BaseModel

REPAIRS = 2
_SHOWN = 1500
"""Characters of a bad answer that the model is shown again."""
_SHOWN_CUT = 200

Check = Callable[[Any], str | None]
"""Says what is wrong with an answer that fits the schema; None: nothing."""


async def ask_model(
    generate: Callable[..., Awaitable[Answer]],
    prompt: str,
    output: type[BaseModel] | Mapping[str, Any],
    **options: Any,
) -> Any:
    """See `flowmason.component.LLM.generate_object`."""
    if isinstance(output, Mapping):
        return await ask_object(generate, prompt, schema=output, **options)
    found: list[BaseModel] = []

    def check(data: Any) -> str | None:
        try:
            found.append(output.model_validate(data))
        except ValueError as error:  # pydantic's is one
            return str(error)[:500]
        return None

    await ask_object(generate, prompt, schema=output.model_json_schema(), check=check, **options)
    return found[-1]


async def ask_object(
    generate: Callable[..., Awaitable[Answer]],
    prompt: str,
    *,
    schema: Mapping[str, Any],
    check: Check | None = None,
    on_answer: Callable[[Answer], None] | None = None,
    **options: Any,
) -> Any:
    """The model's answer as plain data that fits `schema` and passes `check`; `options` are those of `generate`.

    Raises `StageError` (`BAD_ANSWER`) when the last repair is still bad, and whatever the provider raises.
    """
    asked = prompt
    refusals: list[str] = []
    for _ in range(1 + REPAIRS):
        answer = await generate(asked, schema=schema, **options)
        if on_answer is not None:
            on_answer(answer)
        found, reason = _read(answer, schema, check)
        if reason is None:
            return found
        refusals.append(reason)
        # Most of an answer that ran on to its limit is noise, and a small model would only go on with it.
        asked = _repair(prompt, answer.content[: _SHOWN_CUT if _cut(answer) else _SHOWN], reason)
    raise StageError(
        f"the model's answer is still bad after {REPAIRS} repairs: {refusals[-1]}",
        code=Code.BAD_ANSWER,
        details={"reasons": refusals, "answer": answer.content[:_SHOWN], "model": answer.model},
        help="A larger model, a lower temperature or more max_tokens may help.",
    )


def _repair(prompt: str, answer: str, reason: str) -> str:
    """The prompt again, with the answer that was refused and why."""
    return "\n\n".join(
        part
        for part in (
            prompt,
            f"Your last answer was:\n{answer}",
            f"It was refused: {reason}",
            "Answer again, corrected.",
        )
        if part
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
        error = best_match(bounded(Draft202012Validator)(schema, registry=EMPTY_REGISTRY).iter_errors(found))
    except Unresolvable as unknown:
        raise StageError(f"the schema of the answer refers to {unknown.ref!r}", code=Code.INVALID_INPUT) from None
    return None if error is None else f"{error.json_path}: {error.message[:300]}"
