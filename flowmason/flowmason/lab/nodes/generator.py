"""Write text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from flowmason.component import Context, node
from flowmason.component.models import Field, NodeInput, NodeOutput
from flowmason.errors import Code, StageError
from flowmason.lab.nodes import prompts
from flowmason.lab.nodes.asking import PROVIDERS, Tally, ask_json


@node(
    name="generator",
    category="core",
    description="Write text with a language model.",
    icon="sparkles",
    color="#8B5CF6",
    timeout_seconds=120,
    supports_streaming=True,
    recommended_providers=PROVIDERS,
    tags=["ai", "text"],
)
class Generator:
    """The model's own words, or, with `output_format: json`, JSON that was checked."""

    class Input(NodeInput):
        prompt: str = Field(min_length=1)
        system_prompt: str | None = None
        max_tokens: int | None = Field(
            default=None, ge=1, le=128_000, description="Null: the stage's llm_settings, else the provider's default."
        )
        temperature: float | None = Field(
            default=None, ge=0, le=2, description="Null: the stage's llm_settings, else the provider's default."
        )
        stop_sequences: list[str] = Field(default=[], description="The text ends before the first of them.")
        output_format: Literal["text", "json", "markdown", "html", "xml", "yaml", "csv", "code"] = "text"
        output_schema: dict[str, Any] | None = Field(
            default=None, description="JSON Schema (2020-12) of the answer, with output_format json."
        )

        tools: list[str | dict[str, Any]] = Field(
            default=[],
            description='What the model may call: "operator:NAME", {"mcp": SERVER, "tools": [NAME], '
            '"effect": "idempotent"}.',
        )
        max_steps: int = Field(default=8, ge=1, le=100, description="The most calls of tools.")

    class Output(NodeOutput):
        content: str
        data: Any = Field(default=None, description="With output_format json: the answer as data.")
        tokens_used: int = 0
        finish_reason: str = "stop"
        model: str = ""
        tool_calls: list[dict[str, Any]] = Field(
            default=[], description="tool, arguments, and result or error of each call, in order."
        )

    async def execute(self, input: Input, context: Context) -> Output:
        tally = Tally()
        system = "\n".join(part for part in (input.system_prompt, prompts.FORMATS[input.output_format]) if part)
        stops = [stop for stop in input.stop_sequences if stop]
        if input.tools and (input.output_format == "json" or stops):
            raise StageError("tools go with neither output_format json nor stop_sequences", code=Code.INVALID_INPUT)
        if input.tools:
            found = await context.llm.use_tools(
                input.prompt,
                input.tools,
                max_steps=input.max_steps,
                system_prompt=system or None,
                temperature=input.temperature,
                max_tokens=input.max_tokens,
            )
            tally.add(found)
            return self.Output(content=found.content, tool_calls=list(found.tool_calls), **tally.fields)
        if input.output_format == "json":
            data = await ask_json(
                context.llm,
                input.prompt,
                tally,
                system_prompt=system,
                schema=_schema(input.output_schema),
                temperature=input.temperature,
                max_tokens=input.max_tokens,
                stop_sequences=stops or None,
            )
            content = json.dumps(data, ensure_ascii=False)
            return self.Output(content=content, data=data, **tally.fields)
        if input.output_schema is not None:
            raise StageError('output_schema goes with output_format "json"', code=Code.INVALID_INPUT)
        answer = await context.llm.generate(
            input.prompt,
            system_prompt=system or None,
            temperature=input.temperature,
            max_tokens=input.max_tokens,
            stop_sequences=stops or None,
        )
        tally.add(answer)
        content, stopped = _until(answer.content, stops)
        fields = tally.fields | ({"finish_reason": "stop"} if stopped else {})
        return self.Output(content=content, **fields)


def _schema(given: dict[str, Any] | None) -> dict[str, Any]:
    if given is None:
        return {"type": "object"}
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(given)
    except SchemaError as error:
        raise StageError(f"output_schema: {error.message[:300]}", code=Code.INVALID_INPUT) from None
    return given


def _until(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Not every server knows stop sequences; the text ends where they say all the same."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
