"""Make one text out of several."""

from __future__ import annotations

from typing import Any, Literal

from flowmason.component import Context, node
from flowmason.component.models import Field, NodeInput, NodeOutput
from flowmason.lab.nodes import prompts
from flowmason.lab.nodes.asking import PROVIDERS, TEXT, Tally, ask_json, obj, texts, whole


@node(
    name="synthesizer",
    category="core",
    description="Make one text out of several.",
    icon="git-merge",
    color="#06B6D4",
    timeout_seconds=120,
    recommended_providers=PROVIDERS,
    tags=["ai", "text"],
)
class Synthesizer:
    """A text longer than `max_length` words is a bad answer."""

    class Input(NodeInput):
        inputs: list[str] = Field(min_length=2)
        synthesis_strategy: Literal["integrate", "summarize", "compare", "consensus", "best_of"] = "integrate"
        context: str | None = None
        output_format: str = Field(default="text", min_length=1, description='"bullet points", "markdown", "email" …')
        preserve_sources: bool = Field(default=False, description="Cite the sources in the text as [0], [1] …")
        max_length: int | None = Field(default=None, ge=10, le=10_000, description="Words.")

    class Output(NodeOutput):
        synthesized: str
        sources_used: list[int] = Field(default=[], description="Positions in `inputs`, from 0, in order.")
        strategy_applied: str
        key_themes: list[str] = []
        tokens_used: int = 0
        finish_reason: str = "stop"
        model: str = ""

    async def execute(self, input: Input, context: Context) -> Output:
        tally = Tally()
        count = len(input.inputs)
        sources = {"type": "array", "items": whole(0, count - 1), "minItems": 1, "maxItems": count}

        def check(found: Any) -> str | None:
            words = len(found["synthesized"].split())
            if input.max_length is not None and words > input.max_length:
                return f"$.synthesized has {words} words; at most {input.max_length} are allowed"
            return None

        found = await ask_json(
            context.llm,
            prompts.synthesizer(
                input.inputs,
                input.synthesis_strategy,
                input.context,
                input.output_format,
                input.preserve_sources,
                input.max_length,
            ),
            tally,
            system_prompt=prompts.SYNTHESIZER,
            schema=obj(synthesized=TEXT, sources_used=sources, key_themes=texts()),
            check=check,
        )
        return self.Output(
            synthesized=found["synthesized"],
            sources_used=sorted(set(found["sources_used"])),
            strategy_applied=input.synthesis_strategy,
            key_themes=found["key_themes"],
            **tally.fields,
        )
