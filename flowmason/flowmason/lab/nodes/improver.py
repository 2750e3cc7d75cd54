"""Improve a text as feedback asks."""

from __future__ import annotations

from flowmason.component import Context, node
from flowmason.component.models import Field, NodeInput, NodeOutput
from flowmason.lab.nodes import prompts
from flowmason.lab.nodes.asking import PROVIDERS, TEXT, Tally, ask_json, obj, texts


@node(
    name="improver",
    category="core",
    description="Improve a text as feedback asks, in one or several rounds.",
    icon="arrow-up-circle",
    color="#10B981",
    timeout_seconds=120,
    recommended_providers=PROVIDERS,
    tags=["ai", "text"],
)
class Improver:
    """With several iterations each works on what the last one says is left; it ends early when nothing is."""

    class Input(NodeInput):
        content: str = Field(min_length=1)
        feedback: str = Field(min_length=1)
        improvements: list[str] = Field(default=[], description="Points to improve.")
        preserve_aspects: list[str] = Field(default=[], description="What must stay as it is.")
        improvement_focus: str | None = None
        max_iterations: int = Field(default=1, ge=1, le=5)

    class Output(NodeOutput):
        improved_content: str
        changes_made: list[str] = []
        preserved_aspects: list[str] = Field(
            default=[], description="Those of preserve_aspects that every iteration says it kept."
        )
        improvement_summary: str = ""
        iterations: int = Field(default=1, description="How many there were.")
        tokens_used: int = 0
        finish_reason: str = "stop"
        model: str = ""

    async def execute(self, input: Input, context: Context) -> Output:
        tally = Tally()
        content, feedback, points = input.content, input.feedback, input.improvements
        changes: list[str] = []
        summaries: list[str] = []
        preserved = list(input.preserve_aspects)
        iteration = 0
        while iteration < input.max_iterations:
            iteration += 1
            again = iteration < input.max_iterations
            found = await ask_json(
                context.llm,
                prompts.improver(content, feedback, points, input.preserve_aspects, input.improvement_focus, again),
                tally,
                system_prompt=prompts.IMPROVER,
                schema=_schema(input.preserve_aspects, again),
            )
            unchanged = found["improved_content"] == content
            content = found["improved_content"]
            changes += found["changes_made"]
            summaries.append(found["improvement_summary"])
            preserved = [aspect for aspect in preserved if aspect in found["preserved_aspects"]]
            context.progress(done=iteration, total=input.max_iterations)
            remaining = found.get("remaining", [])
            if not remaining or unchanged:
                break
            feedback, points = "\n".join(f"- {point}" for point in remaining), []
        return self.Output(
            improved_content=content,
            changes_made=changes,
            preserved_aspects=preserved,
            improvement_summary=" ".join(summaries),
            iterations=iteration,
            **tally.fields,
        )


def _schema(preserve: list[str], again: bool) -> dict[str, object]:
    fields: dict[str, object] = {"improved_content": TEXT, "changes_made": texts(), "improvement_summary": TEXT}
    # The enum keeps the model from naming an aspect that nobody asked for.
    fields["preserved_aspects"] = (
        {"type": "array", "items": {"enum": preserve}, "maxItems": len(preserve)}
        if preserve
        else {"type": "array", "items": {"type": "string"}, "maxItems": 0}
    )
    if again:
        fields["remaining"] = texts()
    return obj(**fields)
