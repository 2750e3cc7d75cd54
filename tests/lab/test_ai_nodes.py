"""The five AI nodes with a scripted model: what they ask, what they accept, and that they never make anything up."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from flowmason.component import spec_of
from flowmason.errors import Code, ProviderError, StageError
from flowmason.lab import nodes
from flowmason.lab.nodes.critic import Critic
from flowmason.lab.nodes.generator import Generator
from flowmason.lab.nodes.improver import Improver
from flowmason.lab.nodes.selector import Selector
from flowmason.lab.nodes.synthesizer import Synthesizer
from flowmason.policy import Effect, Placement

Run = Callable[..., Any]

VERDICT = {"score": 80, "feedback": "Clear.", "strengths": ["short"], "improvements": []}
BETTER = {"improved_content": "Better.", "changes_made": ["a"], "improvement_summary": "Done.", "preserved_aspects": []}
CHOICE = {"index": 1, "score": 90, "strengths": ["x"], "weaknesses": [], "explanation": "It fits.", "confidence": 70}
ONE_TEXT = {"synthesized": "Both say so.", "sources_used": [1, 0], "key_themes": ["agreement"]}

GOOD: dict[type[Any], tuple[dict[str, Any], dict[str, Any]]] = {
    Critic: ({"content": "text"}, VERDICT),
    Improver: ({"content": "text", "feedback": "better"}, BETTER),
    Selector: ({"candidates": ["a", "b"]}, CHOICE),
    Synthesizer: ({"inputs": ["a", "b"]}, ONE_TEXT),
    Generator: ({"prompt": "a colour", "output_format": "json"}, {"colour": "red"}),
}
STRUCTURED = pytest.mark.parametrize("component", list(GOOD), ids=lambda cls: cls.__name__)


async def test_the_generator_gives_the_models_words(run: Run, script: Run) -> None:
    context = script(("Hello.", "length"))
    inputs = {"prompt": "Say hello", "system_prompt": "Be kind", "temperature": 0.1, "max_tokens": 5}
    found = await run(Generator, inputs, context)
    assert found == {
        "content": "Hello.",
        "data": None,
        "tokens_used": 10,
        "finish_reason": "length",
        "model": "scripted-1",
        "tool_calls": [],
    }
    (call,) = context.llm.calls
    assert (call["prompt"], call["system_prompt"], call["temperature"], call["max_tokens"]) == (
        "Say hello",
        "Be kind",
        0.1,
        5,
    )


async def test_settings_that_are_not_given_are_left_to_the_stage(run: Run, script: Run) -> None:
    context = script("Hello.")
    await run(Generator, {"prompt": "Say hello"}, context)
    (call,) = context.llm.calls
    assert (call["temperature"], call["max_tokens"], call["stop_sequences"]) == (None, None, None)


async def test_stop_sequences_hold_even_where_the_server_ignores_them(run: Run, script: Run) -> None:
    context = script(("one END two STOP", "length"))
    found = await run(Generator, {"prompt": "p", "stop_sequences": ["STOP", "END"]}, context)
    assert (found["content"], found["finish_reason"]) == ("one ", "stop")
    assert context.llm.calls[0]["stop_sequences"] == ["STOP", "END"]


async def test_an_output_format_is_asked_for(run: Run, script: Run) -> None:
    context = script("# Title")
    await run(Generator, {"prompt": "p", "system_prompt": "s", "output_format": "markdown"}, context)
    assert context.llm.calls[0]["system_prompt"] == "s\nAnswer in Markdown."


async def test_json_is_checked_against_the_schema_that_was_asked_for(run: Run, script: Run) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    context = script('{"n": "x"}', 'It is\n```json\n{"n": 3}\n```')
    inputs = {"prompt": "p", "output_format": "json", "output_schema": schema}
    found = await run(Generator, inputs, context)
    assert (found["data"], json.loads(found["content"]), found["tokens_used"]) == ({"n": 3}, {"n": 3}, 20)
    assert context.llm.calls[0]["schema"] == schema
    with pytest.raises(StageError, match="output_schema"):
        await run(Generator, {**inputs, "output_format": "text"}, script())
    with pytest.raises(StageError, match="output_schema"):
        await run(Generator, {**inputs, "output_schema": {"type": "integr"}}, script())


@STRUCTURED
async def test_a_bad_answer_is_repaired_at_most_twice(run: Run, script: Run, component: type[Any]) -> None:
    inputs, good = GOOD[component]
    context = script("I would rather talk.", '{"half": ', json.dumps(good))
    found = await run(component, inputs, context)
    assert found["tokens_used"] == 30
    first, second, third = context.llm.calls
    assert "I would rather talk." in second["prompt"]
    assert "refused" in second["prompt"]
    assert '{"half": ' in third["prompt"]
    assert "I would rather talk." not in third["prompt"]
    assert second["schema"] == first["schema"]


@STRUCTURED
async def test_a_third_bad_answer_fails_the_stage(run: Run, script: Run, component: type[Any]) -> None:
    inputs, _ = GOOD[component]
    context = script("no", "[]", ('{"cut": "off', "length"))
    with pytest.raises(StageError) as caught:
        await run(component, inputs, context)
    failure = caught.value.failure
    assert failure.code == Code.BAD_ANSWER
    assert "cut off: max_tokens" in failure.message
    assert failure.details is not None
    assert len(failure.details["reasons"]) == 3
    assert context.llm.answers == []


@STRUCTURED
async def test_without_a_model_a_node_fails(run: Run, script: Run, component: type[Any]) -> None:
    inputs, _ = GOOD[component]
    with pytest.raises(ProviderError):
        await run(component, inputs, script(ProviderError("nobody there")))


async def test_a_critics_rating_follows_from_the_score(run: Run, script: Run) -> None:
    for score, rating, passes in [
        (95, "excellent", True),
        (75, "good", True),
        (60, "acceptable", True),
        (59, "needs_improvement", False),
        (0, "poor", False),
    ]:
        found = await run(Critic, {"content": "x"}, script(json.dumps({**VERDICT, "score": score})))
        assert (found["overall_rating"], found["score"], found["passes_threshold"]) == (rating, score / 100, passes)


async def test_a_strict_critic_wants_more(run: Run, script: Run) -> None:
    def strict(score: int, **criteria: int) -> Any:
        return script(json.dumps({**VERDICT, "score": score, "criterion_scores": criteria}))

    inputs = {"content": "x", "strict_mode": True, "criteria": ["tone"], "rubric": {"facts": "all of them right"}}
    assert (await run(Critic, inputs, strict(80, tone=60, facts=60)))["passes_threshold"] is True
    assert (await run(Critic, inputs, strict(79, tone=60, facts=60)))["passes_threshold"] is False
    found = await run(Critic, inputs, strict(90, tone=59, facts=100))
    assert (found["passes_threshold"], found["criterion_scores"]) == (False, {"tone": 0.59, "facts": 1.0})


async def test_a_critic_that_forgets_a_criterion_or_leaves_the_scale_is_asked_again(run: Run, script: Run) -> None:
    context = script(
        json.dumps(VERDICT),
        json.dumps({**VERDICT, "score": 101, "criterion_scores": {"tone": 1}}),
        json.dumps({**VERDICT, "criterion_scores": {"tone": 50}}),
    )
    assert (await run(Critic, {"content": "x", "criteria": ["tone"]}, context))["criterion_scores"] == {"tone": 0.5}


async def test_an_improver_works_on_what_is_left(run: Run, script: Run) -> None:
    context = script(
        json.dumps(
            {**BETTER, "improved_content": "v1", "remaining": ["shorter"], "preserved_aspects": ["tone", "name"]}
        ),
        json.dumps({**BETTER, "improved_content": "v2", "remaining": [], "preserved_aspects": ["tone"]}),
    )
    inputs = {"content": "v0", "feedback": "fix", "max_iterations": 5, "preserve_aspects": ["tone", "name"]}
    found = await run(Improver, inputs, context)
    assert (found["improved_content"], found["iterations"], found["changes_made"]) == ("v2", 2, ["a", "a"])
    assert found["preserved_aspects"] == ["tone"]
    assert "v1" in context.llm.calls[1]["prompt"]
    assert "- shorter" in context.llm.calls[1]["prompt"]
    assert context.shown == [(1, 5), (2, 5)]


async def test_an_improver_stops_at_its_iterations(run: Run, script: Run) -> None:
    answers = [json.dumps({**BETTER, "improved_content": f"v{n}", "remaining": ["more"]}) for n in (1, 2)]
    last = json.dumps({**BETTER, "improved_content": "v3"})
    context = script(*answers, last)
    found = await run(Improver, {"content": "v0", "feedback": "fix", "max_iterations": 3}, context)
    assert (found["improved_content"], found["iterations"]) == ("v3", 3)
    assert "remaining" not in context.llm.calls[2]["schema"]["properties"]


async def test_an_improver_stops_when_nothing_changes(run: Run, script: Run) -> None:
    context = script(json.dumps({**BETTER, "improved_content": "v0", "remaining": ["more"]}))
    assert (await run(Improver, {"content": "v0", "feedback": "f", "max_iterations": 5}, context))["iterations"] == 1


async def test_a_selector_gives_the_candidate_itself(run: Run, script: Run) -> None:
    found = await run(Selector, {"candidates": ["a", "b"]}, script(json.dumps(CHOICE)))
    assert (found["selected"], found["selected_index"], found["confidence"]) == ("b", 1, 0.7)
    assert found["rankings"] == [{"index": 1, "score": 0.9, "strengths": ["x"], "weaknesses": []}]


@pytest.mark.parametrize("index", [2, -1, 1.5, "1", None])
async def test_an_index_that_no_candidate_has_is_a_bad_answer(run: Run, script: Run, index: Any) -> None:
    bad = json.dumps({**CHOICE, "index": index})
    with pytest.raises(StageError) as caught:
        await run(Selector, {"candidates": ["a", "b"]}, script(bad, bad, bad))
    assert caught.value.failure.code == Code.BAD_ANSWER


async def test_a_selector_ranks_each_candidate_once(run: Run, script: Run) -> None:
    def ranks(*pairs: tuple[int, int]) -> str:
        return json.dumps({"rankings": [{"index": i, "score": s} for i, s in pairs], "confidence": 50})

    context = script(ranks((0, 1), (0, 2), (1, 3)), ranks((0, 10), (2, 90), (1, 40)))
    inputs = {"candidates": ["a", "b", "c"], "selection_mode": "rank_all", "explain_choice": False}
    found = await run(Selector, inputs, context)
    assert (found["selected"], found["selected_index"], found["explanation"]) == (["c", "b", "a"], 2, "")
    assert "listed twice" in context.llm.calls[1]["prompt"]
    with pytest.raises(StageError, match="top_n") as caught:
        await run(Selector, {"candidates": ["a", "b"], "selection_mode": "top_n", "top_n": 3}, script())
    assert caught.value.failure.code == Code.INVALID_INPUT


async def test_a_synthesis_names_its_sources(run: Run, script: Run) -> None:
    inputs = {"inputs": ["a", "b"], "synthesis_strategy": "compare", "preserve_sources": True}
    context = script(json.dumps(ONE_TEXT))
    found = await run(Synthesizer, inputs, context)
    assert (found["synthesized"], found["sources_used"], found["strategy_applied"]) == (
        "Both say so.",
        [0, 1],
        "compare",
    )
    assert "where they differ" in context.llm.calls[0]["prompt"]


async def test_a_synthesis_that_is_too_long_is_a_bad_answer(run: Run, script: Run) -> None:
    long = json.dumps({**ONE_TEXT, "synthesized": "word " * 11})
    context = script(long, json.dumps({**ONE_TEXT, "synthesized": "word " * 10}))
    found = await run(Synthesizer, {"inputs": ["a", "b"], "max_length": 10}, context)
    assert len(found["synthesized"].split()) == 10
    assert "11 words" in context.llm.calls[1]["prompt"]


async def test_too_few_candidates_or_sources_are_refused(run: Run, script: Run) -> None:
    with pytest.raises(ValidationError):
        await run(Selector, {"candidates": ["a"]}, script())
    with pytest.raises(ValidationError):
        await run(Synthesizer, {"inputs": ["a"]}, script())


def test_nodes_are_idempotent_and_run_on_hosts() -> None:
    for cls in nodes.COMPONENTS:
        spec = spec_of(cls)
        assert (spec.effect, spec.placement, spec.retry.max_retries) == (Effect.IDEMPOTENT, Placement.HOST, 3)
        assert spec.requires_llm
        assert not spec.output_open
