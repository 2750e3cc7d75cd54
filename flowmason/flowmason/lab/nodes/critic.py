"""Judge a text."""

from __future__ import annotations

from typing import Literal

from flowmason.component import Context, node
from flowmason.component.models import Field, NodeInput, NodeOutput
from flowmason.lab.nodes import prompts
from flowmason.lab.nodes.asking import PERCENT, PROVIDERS, TEXT, Tally, ask_json, obj, texts

Rating = Literal["excellent", "good", "acceptable", "needs_improvement", "poor"]
_RATINGS: list[tuple[float, Rating]] = [
    (0.9, "excellent"),
    (0.75, "good"),
    (0.6, "acceptable"),
    (0.4, "needs_improvement"),
]
_PASSES = 0.6
_PASSES_STRICTLY = 0.8


@node(
    name="critic",
    category="core",
    description="Judge a text: a score, what is good, what to improve.",
    icon="clipboard-check",
    color="#EF4444",
    timeout_seconds=60,
    recommended_providers=PROVIDERS,
    tags=["ai", "evaluation"],
)
class Critic:
    """The rating follows from the score: excellent from 0.9, good 0.75, acceptable 0.6, needs_improvement 0.4, poor.

    It passes from 0.6; in strict mode from 0.8, and then every criterion must reach 0.6.
    """

    class Input(NodeInput):
        content: str = Field(min_length=1)
        criteria: list[str] = []
        context: str | None = Field(default=None, description="What the text is for.")
        rubric: dict[str, str] = Field(default={}, description="Criterion → what it means.")
        strict_mode: bool = False

    class Output(NodeOutput):
        overall_rating: Rating
        score: float = Field(ge=0, le=1)
        feedback: str
        strengths: list[str] = []
        improvements: list[str] = []
        criterion_scores: dict[str, float] = Field(default={}, description="0 to 1 for each criterion.")
        passes_threshold: bool
        tokens_used: int = 0
        finish_reason: str = "stop"
        model: str = ""

    async def execute(self, input: Input, context: Context) -> Output:
        tally = Tally()
        keys = list(dict.fromkeys([*input.criteria, *input.rubric]))
        fields = {"score": PERCENT, "feedback": TEXT, "strengths": texts(), "improvements": texts()}
        if keys:
            fields["criterion_scores"] = obj(**dict.fromkeys(keys, PERCENT))
        found = await ask_json(
            context.llm,
            prompts.critic(input.content, input.criteria, input.rubric, input.context, keys),
            tally,
            system_prompt=prompts.CRITIC_STRICT if input.strict_mode else prompts.CRITIC,
            schema=obj(**fields),
        )
        score = found["score"] / 100
        scores = {key: value / 100 for key, value in found.get("criterion_scores", {}).items()}
        passes = score >= (_PASSES_STRICTLY if input.strict_mode else _PASSES)
        if input.strict_mode:
            passes = passes and all(value >= _PASSES for value in scores.values())
        return self.Output(
            overall_rating=next((name for least, name in _RATINGS if score >= least), "poor"),
            score=score,
            feedback=found["feedback"],
            strengths=found["strengths"],
            improvements=found["improvements"],
            criterion_scores=scores,
            passes_threshold=passes,
            **tally.fields,
        )
