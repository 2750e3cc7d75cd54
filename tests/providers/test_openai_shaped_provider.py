"""OpenAI-shaped servers: a real llama.cpp server process, and scripted answers for what it never says."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import jsonschema
import pytest

from flowmason.errors import Code, EgressError, ProviderError, Retry, UsageError
from flowmason.model import ModelRequest
from flowmason.providers import ProviderSettings, make_provider, settings_of
from flowmason.providers.openai_shaped import fits_strict_mode
from providers.llama_process import served

StartApi = Callable[..., Awaitable[Any]]
KEY = "key-of-the-test-server"
PARIS = ModelRequest(
    prompt="What is the capital of France?", system_prompt="You are a helpful assistant.", temperature=0
)


def provider_at(url: str, name: str = "local", **settings: Any) -> Any:
    given = {"base_url": f"{url}/v1", "model": "m", "api_key_env": "KEY", **settings}
    return make_provider(name, settings_of(name, {"extra": {name: given}}), environ={"KEY": KEY})


@pytest.fixture(scope="module")
def llama_server() -> Iterator[str]:
    with served(KEY) as address:
        yield address


async def test_a_real_server_answers_streams_and_counts(llama_server: str) -> None:
    provider = provider_at(llama_server)
    pieces: list[str] = []
    answer = await provider.generate(PARIS, pieces.append)
    assert "Paris" in answer.text
    assert "".join(pieces) == answer.content
    assert len(pieces) >= 5
    assert answer.finish_reason == "stop"
    assert answer.input_tokens > 10
    assert answer.output_tokens >= len(pieces)
    assert (answer.usage.calls, answer.usage.estimated, answer.usage.cost) == (1, False, "0")
    assert answer.usage.provider == "local"
    await provider.close()


async def test_a_real_server_fits_the_schema(llama_server: str) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    provider = provider_at(llama_server)
    answer = await provider.generate(ModelRequest(prompt="The food was awful.", json_schema=schema, max_tokens=50))
    jsonschema.validate(json.loads(answer.content), schema)
    await provider.close()


async def test_cancelling_frees_a_real_server(llama_server: str) -> None:
    provider = provider_at(llama_server)
    began = asyncio.Event()
    long = ModelRequest(prompt="Write a very long story about the sea.", max_tokens=1900)
    call = asyncio.create_task(provider.generate(long, lambda _: began.set()))
    await asyncio.wait_for(began.wait(), 60)
    cancelled_at = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await provider.generate(ModelRequest(prompt="Hi", max_tokens=1))  # it has one slot
    assert time.monotonic() - cancelled_at < 10, "it told the whole story first"
    await provider.close()


@pytest.mark.parametrize("extra, can", [({}, False), ({"continues": True}, True)])
def test_servers_go_on_with_answers_where_the_project_says_so(extra: dict[str, Any], can: bool) -> None:
    assert provider_at("http://127.0.0.1:1", extra=extra).abilities(None).continues is can
    with pytest.raises(UsageError, match=r"extra\.continues must be true or false"):
        provider_at("http://127.0.0.1:1", extra={"continues": "yes"}).abilities(None)


async def test_a_real_servers_refusals_are_told_apart(llama_server: str) -> None:
    given = {"base_url": f"{llama_server}/v1", "model": "m", "api_key_env": "KEY"}
    wrong_key = make_provider("local", settings_of("local", {"local": given}), environ={"KEY": "wrong-key"})
    with pytest.raises(ProviderError) as caught:
        await wrong_key.generate(PARIS)
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.SECURITY, Retry.NEVER)
    assert "wrong-key" not in str(caught.value)
    provider = provider_at(llama_server)
    with pytest.raises(ProviderError, match="context") as caught:
        await provider.generate(ModelRequest(prompt="word " * 3000))
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.CONTEXT_EXCEEDED, Retry.NEVER)
    assert "max_tokens" in str(caught.value.failure.help)
    await wrong_key.close()
    await provider.close()


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> str:
    choices = [{"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}]
    base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m-2026-01-01", "choices": choices}
    return f"data: {json.dumps({**base, **more})}\n\n"


DONE = "data: [DONE]\n\n"
USAGE = chunk(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11})
ANSWER = [chunk("Hel"), chunk("lo"), chunk(finish="stop"), USAGE, DONE]


async def test_the_request_carries_everything_and_nothing_more(
    api: StartApi, stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.example")
    site = await api(stream(ANSWER))
    provider = provider_at(site.url, temperature=0.5, extra={"headers": {"X-Team": "a"}, "body": {"top_k": 3}})
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    request = ModelRequest(
        prompt="P",
        system_prompt="S",
        max_tokens=7,
        top_p=0.9,
        stop_sequences=("x",),
        json_schema=schema,
        idempotency_key="i-1",
    )
    await provider.generate(request)
    asked = site.asked[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "P"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": False},
        },
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["x"],
        "top_k": 3,
    }
    assert (asked.headers["authorization"], asked.headers["x-team"]) == (f"Bearer {KEY}", "a")
    assert asked.headers["idempotency-key"] == "i-1"
    assert "openai-organization" not in asked.headers


async def test_usage_is_priced(api: StartApi, stream: Any) -> None:
    details = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    site = await api(stream([chunk("Hello", model="gpt-4o-2024-11-20"), chunk(finish="stop", usage=details), DONE]))
    provider = provider_at(site.url, extra={"price": {"input": "1", "output": "2", "cached": "0.5"}})
    answer = await provider.generate(ModelRequest(prompt="x"))
    assert (answer.usage.cached_tokens, answer.usage.cost_nanodollars) == (4, 5 * 1000 + 4 * 500 + 2 * 2000)


async def test_openai_itself_gets_the_newer_name_of_the_limit(api: StartApi, stream: Any) -> None:
    site = await api(stream(ANSWER))
    settings = ProviderSettings(base_url=f"{site.url}/v1", declared=True)
    provider = make_provider("openai", settings, environ={"OPENAI_API_KEY": KEY})
    await provider.generate(ModelRequest(prompt="x", max_tokens=5, model="gpt-5"))
    assert site.asked[0].body["max_completion_tokens"] == 5
    assert "max_tokens" not in site.asked[0].body


async def test_a_server_without_usage_gets_an_estimate(api: StartApi, stream: Any, status: Any) -> None:
    refusal = status(
        400, {"error": {"message": "Unrecognized argument: stream_options", "type": "invalid_request_error"}}
    )
    plain = stream([chunk("four"), chunk("chars"), chunk(finish="stop"), DONE])
    site = await api(refusal, plain)
    provider = provider_at(site.url)
    answer = await provider.generate(ModelRequest(prompt="12345678"))
    assert (answer.text, answer.usage.estimated) == ("fourchars", True)
    assert (answer.input_tokens, answer.output_tokens) == (2, 3)
    assert "stream_options" not in site.asked[1].body
    await provider.generate(ModelRequest(prompt="again"))
    assert len(site.asked) == 3  # it is remembered


async def test_a_server_without_schemas_is_told_in_words(api: StartApi, stream: Any, status: Any) -> None:
    refusal = status(400, {"error": {"message": "This model does not support response format `json_schema`"}})
    site = await api(refusal, stream(ANSWER))
    schema = {"type": "object", "properties": {"the_field": {"type": "string"}}}
    await provider_at(site.url).generate(ModelRequest(prompt="x", system_prompt="S", json_schema=schema))
    assert "response_format" not in site.asked[1].body
    system = site.asked[1].body["messages"][0]["content"]
    assert system.startswith("S\n")
    assert "the_field" in system


async def test_a_setting_that_the_model_does_not_take_is_left_out_with_a_warning(
    api: StartApi, stream: Any, status: Any, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = status(
        400, {"error": {"message": "Unsupported value: 'temperature' does not support 0.2 with this model."}}
    )
    site = await api(refusal, stream(ANSWER))
    provider = provider_at(site.url)
    await provider.generate(ModelRequest(prompt="x", temperature=0.2, top_p=0.5))
    assert "temperature" not in site.asked[1].body
    assert site.asked[1].body["top_p"] == 0.5
    assert "the model m takes no temperature" in caplog.text
    await provider.generate(ModelRequest(prompt="x", temperature=0.2, model="other"))
    assert site.asked[2].body["temperature"] == 0.2  # learnt for that model only


async def test_what_is_refused_for_another_reason_is_not_tried_again(api: StartApi, status: Any) -> None:
    site = await api(status(400, {"error": {"message": "temperature: too hot"}}))
    with pytest.raises(ProviderError, match="too hot"):
        await provider_at(site.url).generate(ModelRequest(prompt="x"))
    assert len(site.asked) == 1


CASES: list[tuple[int, Any, dict[str, str], str, str, int | None]] = [
    (400, {"message": "bad", "type": "invalid_request_error"}, {}, Code.PROVIDER, Retry.NEVER, None),
    (401, {"message": "no"}, {}, Code.SECURITY, Retry.NEVER, None),
    (403, {"message": "no"}, {}, Code.SECURITY, Retry.NEVER, None),
    (404, {"message": "no such model"}, {}, Code.PROVIDER, Retry.NEVER, None),
    (429, {"message": "slow"}, {"Retry-After": "2"}, Code.RATE_LIMITED, Retry.AFTER, 2000),
    (429, {"message": "slow"}, {"retry-after-ms": "150"}, Code.RATE_LIMITED, Retry.AFTER, 150),
    (429, {"message": "slow"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, Code.RATE_LIMITED, Retry.AFTER, 0),
    (429, {"message": "slow"}, {"Retry-After": "soon"}, Code.RATE_LIMITED, Retry.NOW, None),
    (429, {"message": "pay", "code": "insufficient_quota"}, {}, Code.RATE_LIMITED, Retry.NEVER, None),
    (500, {"message": "oops"}, {}, Code.CONNECTIVITY, Retry.NOW, None),
    (503, {"message": "busy"}, {"Retry-After": "1"}, Code.CONNECTIVITY, Retry.AFTER, 1000),
]


@pytest.mark.parametrize(("code", "error", "headers", "expected", "retry", "after"), CASES)
async def test_failures_say_whether_to_try_again(
    api: StartApi,
    status: Any,
    code: int,
    error: Any,
    headers: dict[str, str],
    expected: str,
    retry: str,
    after: int | None,
) -> None:
    site = await api(status(code, {"error": error}, headers))
    with pytest.raises(ProviderError) as caught:
        await provider_at(site.url).generate(ModelRequest(prompt="x"))
    failure = caught.value.failure
    assert (failure.code, failure.retry, failure.retry_after_ms) == (expected, retry, after)
    assert error["message"] in failure.message
    assert len(site.asked) == 1  # the SDK's own retries are off


async def test_keys_do_not_show_in_messages(api: StartApi, status: Any) -> None:
    site = await api(status(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}))
    with pytest.raises(ProviderError) as caught:
        await provider_at(site.url).generate(ModelRequest(prompt="x"))
    assert KEY not in str(caught.value.failure)


async def test_a_stream_that_breaks_off_may_be_tried_again(api: StartApi, stream: Any) -> None:
    for broken in (stream([chunk("Hel")], cut=True), stream([chunk("Hel"), DONE]), stream(["data: {oops\n\n"])):
        site = await api(broken)
        with pytest.raises(ProviderError) as caught:
            await provider_at(site.url).generate(ModelRequest(prompt="x"))
        assert (caught.value.failure.code, caught.value.failure.retry) == (Code.CONNECTIVITY, Retry.NOW)


async def test_an_error_within_the_stream_is_an_error(api: StartApi, stream: Any) -> None:
    error = {"error": {"message": "too many", "type": "rate_limit_exceeded"}}
    site = await api(stream([chunk("Hel"), f"data: {json.dumps(error)}\n\n"]))
    with pytest.raises(ProviderError, match="too many") as caught:
        await provider_at(site.url).generate(ModelRequest(prompt="x"))
    assert caught.value.failure.code == Code.RATE_LIMITED


async def test_a_refusal_is_said_as_one(api: StartApi, stream: Any) -> None:
    refused = chunk(choices=[{"index": 0, "delta": {"refusal": "I will not."}, "finish_reason": "stop"}])
    site = await api(stream([refused, USAGE, DONE]))
    pieces: list[str] = []
    answer = await provider_at(site.url).generate(ModelRequest(prompt="x"), pieces.append)
    assert (answer.text, answer.finish_reason, pieces) == ("I will not.", "refusal", ["I will not."])


async def test_cancelling_and_timeouts_hang_up(api: StartApi, stream: Any) -> None:
    site = await api(stream([chunk("x")] * 5000, delay_s=0.02))
    with pytest.raises(ProviderError) as caught:
        await provider_at(site.url).generate(ModelRequest(prompt="x", timeout_s=0.3))
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.TIMEOUT, Retry.NOW)
    await asyncio.wait_for(site.gone.wait(), 30)
    site.gone.clear()
    began = asyncio.Event()
    call = asyncio.create_task(provider_at(site.url).generate(ModelRequest(prompt="x"), lambda _: began.set()))
    await asyncio.wait_for(began.wait(), 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(site.gone.wait(), 30)


async def test_a_provider_that_redirects_to_metadata_is_refused(api: StartApi, status: Any) -> None:
    site = await api(status(307, {}, {"Location": "http://169.254.169.254/latest"}))
    with pytest.raises(EgressError, match="link-local"):
        await provider_at(site.url).generate(ModelRequest(prompt="x"))


def test_a_provider_outlives_its_event_loop(llama_server: str) -> None:
    provider = provider_at(llama_server)

    async def ask() -> str:
        answer = await provider.generate(ModelRequest(prompt="Hi", max_tokens=2))
        await provider.close()
        return str(answer.finish_reason)

    assert [asyncio.run(ask()) for _ in range(2)] == ["length", "length"]


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"type": "string"}, True),
    ],
)
def test_strict_mode_is_asked_for_only_where_it_fits(schema: dict[str, Any], fits: bool) -> None:
    assert fits_strict_mode(schema) is fits


def test_the_environment_of_the_tests_has_no_real_key() -> None:
    assert KEY not in os.environ.values()


async def test_the_beginning_of_a_prompt_is_kept_by_openai_where_that_is_wanted(
    api: StartApi, stream: Any, status: Any
) -> None:
    site = await api(stream(ANSWER))
    settings = ProviderSettings(base_url=f"{site.url}/v1", declared=True)
    wanted = ModelRequest(prompt="x", model="gpt-5", prompt_cache="of this stage")
    await make_provider("openai", settings, environ={"OPENAI_API_KEY": KEY}).generate(wanted)
    assert site.asked[0].body["prompt_cache_key"] == "of this stage"
    await provider_at(site.url).generate(wanted)
    assert "prompt_cache_key" not in site.asked[1].body  # other servers keep it by themselves
    body = {"error": {"message": "Unknown parameter: 'prompt_cache_key'.", "type": "invalid_request_error"}}
    site = await api(status(400, body), stream(ANSWER))
    settings = ProviderSettings(base_url=f"{site.url}/v1", declared=True)
    await make_provider("openai", settings, environ={"OPENAI_API_KEY": KEY}).generate(wanted)
    assert "prompt_cache_key" not in site.asked[1].body
