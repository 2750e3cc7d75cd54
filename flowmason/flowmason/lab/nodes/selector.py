"""Choose among candidates."""

from __future__ import annotations

from typing import Any, Literal

from flowmason.component import Context, node
from flowmason.component.models import Field, NodeInput, NodeOutput
from flowmason.errors import Code, StageError
from flowmason.lab.nodes import prompts
from flowmason.lab.nodes.asking import PERCENT, PROVIDERS, TEXT, Tally, ask_json, obj, texts, whole


@node(
    name="selector",
    category="core",
    description="Choose the best of several candidates, or rank them.",
    icon="check-circle",
    color="#F97316",
    timeout_seconds=60,
    recommended_providers=PROVIDERS,
    tags=["ai", "evaluation"],
)
class Selector:
    """An index that no candidate has is a bad answer."""

    class Input(NodeInput):
        candidates: list[str] = Field(min_length=2)
        criteria: list[str] = []
        context: str | None = None
        selection_mode: Literal["best", "top_n", "rank_all"] = "best"
        top_n: int = Field(default=1, ge=1, le=10, description="With selection_mode top_n.")
        explain_choice: bool = True

    class Output(NodeOutput):
        selected: str | list[str] = Field(description="With best the candidate; else the candidates, best first.")
        selected_index: int = Field(description="Of the best one, from 0.")
        explanation: str = Field(default="", description="Empty without explain_choice.")
        rankings: list[dict[str, Any]] = Field(
            default=[], description="index, score (0 to 1), strengths, weaknesses; best first."
        )
        confidence: float = Field(ge=0, le=1)
        tokens_used: int = 0
        finish_reason: str = "stop"
        model: str = ""

    async def execute(self, input: Input, context: Context) -> Output:
        tally = Tally()
        count = {"best": 1, "top_n": input.top_n, "rank_all": len(input.candidates)}[input.selection_mode]
        if count > len(input.candidates):
            raise StageError(
                f"top_n is {count}, but there are only {len(input.candidates)} candidates",
                code=Code.INVALID_INPUT,
                details={"field": "top_n"},
            )
        ranks = input.selection_mode != "best"
        found = await ask_json(
            context.llm,
            prompts.selector(input.candidates, input.criteria, input.context, count),
            tally,
            system_prompt=prompts.SELECTOR,
            schema=_schema(len(input.candidates), count if ranks else None, input.explain_choice),
            check=_each_once if ranks else None,
        )
        rankings = found["rankings"] if ranks else [{key: found[key] for key in _RANK if key in found}]
        rankings = [{**rank, "score": rank["score"] / 100} for rank in rankings]
        rankings.sort(key=lambda rank: -rank["score"])
        chosen = [input.candidates[rank["index"]] for rank in rankings]
        return self.Output(
            selected=chosen if ranks else chosen[0],
            selected_index=rankings[0]["index"],
            explanation=found.get("explanation", ""),
            rankings=rankings,
            confidence=found["confidence"] / 100,
            **tally.fields,
        )


_RANK = ("index", "score", "strengths", "weaknesses")


def _schema(candidates: int, ranks: int | None, explain: bool) -> dict[str, Any]:
    rank: dict[str, Any] = {"index": whole(0, candidates - 1), "score": PERCENT}
    if explain:
        rank |= {"strengths": texts(3), "weaknesses": texts(3)}
    fields: dict[str, Any] = {"confidence": PERCENT}
    if explain:
        fields = {"explanation": TEXT, **fields}
    if ranks is None:
        return obj(**rank, **fields)
    return obj(rankings={"type": "array", "items": obj(**rank), "minItems": ranks, "maxItems": ranks}, **fields)


def _each_once(found: Any) -> str | None:
    indices = [rank["index"] for rank in found["rankings"]]
    twice = sorted({index for index in indices if indices.count(index) > 1})
    return f"$.rankings: candidate {twice[0]} is listed twice" if twice else None
