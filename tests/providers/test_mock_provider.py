"""The mock: scripted answers, or the least that fits."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from flowmason.errors import Code, ProviderError, Retry, UsageError
from flowmason.model import Message, ModelRequest, ModelResponse
from flowmason.providers import make_provider, settings_of
from flowmason.providers.instances import instance_of
from flowmason.providers.mock import MockProvider


def ask(prompt: str = "hello", **options: Any) -> ModelRequest:
    return ModelRequest(prompt=prompt, **options)


async def test_without_a_script_it_says_that_it_is_a_mock() -> None:
    mock = make_provider("mock")
    first, second = await mock.generate(ask("a b")), await mock.generate(ask("a b"))
    assert first == second
    assert first.text == "mock answer to: a b"
    assert (first.model, first.finish_reason, first.usage.cost_nanodollars) == ("mock-1", "stop", 0)
    assert (first.input_tokens, first.output_tokens, first.total_tokens) == (2, 5, 7)


async def test_pieces_add_up_to_the_answer() -> None:
    pieces: list[str] = []
    answer = await MockProvider(["  one two\n three  "]).generate(ask(), pieces.append)
    assert "".join(pieces) == answer.content == "  one two\n three  "
    assert len(pieces) == 3


async def test_a_list_is_used_up_in_order() -> None:
    mock = MockProvider(["one", {"two": 2}, ["three"]])
    assert [(await mock.generate(ask())).content for _ in range(3)] == ["one", '{"two":2}', '["three"]']
    assert mock.left == 0
    with pytest.raises(ProviderError, match="no answer left"):
        await mock.generate(ask())


async def test_a_mapping_answers_by_what_the_prompt_contains() -> None:
    mock = MockProvider({"weather": "rain", "*": "what?"})
    assert (await mock.generate(ask("the weather, please"))).text == "rain"
    assert (await mock.generate(ask("else"))).text == "what?"
    with pytest.raises(ProviderError, match="no answer for"):
        await MockProvider({"weather": "rain"}).generate(ask("else"))


async def test_a_function_sees_the_whole_request() -> None:
    mock = MockProvider(lambda request: f"{request.system_prompt}/{len(request.conversation())}")
    request = ask(system_prompt="S", messages=(Message("user", "a"), Message("assistant", "b")))
    assert (await mock.generate(request)).text == "S/3"
    assert mock.requests == [request]


async def test_whole_responses_and_errors_can_be_scripted() -> None:
    whole = ModelResponse("cut", "big-model", "length")
    mock = MockProvider([whole, ValueError("boom"), {"error": {"type": "rate_limit_error", "message": "slow down"}}])
    assert await mock.generate(ask()) == whole
    with pytest.raises(ValueError, match="boom"):
        await mock.generate(ask())
    with pytest.raises(ProviderError, match="slow down") as caught:
        await mock.generate(ask())
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.RATE_LIMITED, Retry.NOW)


async def test_max_tokens_cuts_the_answer() -> None:
    answer = await MockProvider(["one two three"]).generate(ask(max_tokens=2))
    assert (answer.text, answer.finish_reason) == ("one two ", "length")


async def test_the_project_can_script_it() -> None:
    settings = settings_of("mock", {"mock": {"extra": {"answers": ["scripted"]}}})
    assert (await make_provider("mock", settings).generate(ask())).text == "scripted"
    with pytest.raises(UsageError, match=r"did you mean 'answers'"):
        make_provider("mock", settings_of("mock", {"mock": {"extra": {"anwsers": []}}}))


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]},
    {"type": "array", "items": {"type": "number", "minimum": 3, "exclusiveMaximum": 4}, "minItems": 2},
    {"type": "integer", "exclusiveMinimum": 7, "multipleOf": 5},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "maximum": -2.5},
    {"type": ["null", "string"], "minLength": 10},
    {"type": "string", "maxLength": 2},
    {"enum": ["x", "y"]},
    {"const": None},
    {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    {
        "$defs": {"leaf": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
        "type": "object",
        "properties": {"leaf": {"$ref": "#/$defs/leaf"}},
        "required": ["leaf"],
    },
    {
        "allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"required": ["b"]}],
        "type": "object",
        "properties": {"b": {"type": "string", "format": "date"}},
    },
    {"type": "object", "properties": {"x": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["x"]},
    {},
]


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_with_a_schema_the_answer_fits_it(schema: dict[str, Any]) -> None:
    answer = await MockProvider().generate(ask(json_schema=schema))
    jsonschema.Draft202012Validator(schema).validate(json.loads(answer.content))
    assert instance_of(schema) == json.loads(answer.content)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^[0-9]{9}$"},
        {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"$ref": "#/$defs/nowhere"},
    ],
)
async def test_a_schema_that_it_cannot_fit_is_an_error(schema: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="no value for this JSON Schema"):
        await MockProvider().generate(ask(json_schema=schema))
