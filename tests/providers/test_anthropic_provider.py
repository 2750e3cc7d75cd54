"""Anthropic's protocol, played by a server whose events are built from the SDK's own types."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from anthropic.types import (
    Message,
    MessageDeltaUsage,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawContentBlockStopEvent,
    RawMessageDeltaEvent,
    RawMessageStartEvent,
    RawMessageStopEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    Usage,
)
from anthropic.types.raw_message_delta_event import Delta

from flowmason.errors import Code, ProviderError, Retry
from flowmason.model import Message as Turn
from flowmason.model import ModelRequest, abilities_of
from flowmason.providers import make_provider, settings_of
from flowmason.providers.prices import price_of

StartApi = Callable[..., Awaitable[Any]]
KEY = "key-of-the-test-server"
MODEL = "claude-haiku-4-5-20251001"
SCHEMA = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}


def event(of: Any) -> str:
    return f"event: {of.type}\ndata: {of.model_dump_json()}\n\n"


def answer(*pieces: str, stop: Any = "end_turn", cached: int = 0, written: int = 0, end: bool = True) -> list[str]:
    """A whole answer: a thought, then the pieces of the text."""
    usage = Usage(input_tokens=10, output_tokens=1, cache_read_input_tokens=cached, cache_creation_input_tokens=written)
    message = Message.construct(
        id="msg_1",
        type="message",
        role="assistant",
        model=MODEL,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=usage,
    )
    thought = ThinkingBlock(type="thinking", thinking="", signature="")
    thinking = ThinkingDelta(type="thinking_delta", thinking="Hmm.")
    events = [
        event(RawMessageStartEvent(type="message_start", message=message)),
        event(RawContentBlockStartEvent(type="content_block_start", index=0, content_block=thought)),
        event(RawContentBlockDeltaEvent(type="content_block_delta", index=0, delta=thinking)),
        event(RawContentBlockStopEvent(type="content_block_stop", index=0)),
        event(
            RawContentBlockStartEvent(
                type="content_block_start", index=1, content_block=TextBlock(type="text", text="")
            )
        ),
        'event: ping\ndata: {"type": "ping"}\n\n',
    ]
    for piece in pieces:
        delta = TextDelta(type="text_delta", text=piece)
        events.append(event(RawContentBlockDeltaEvent(type="content_block_delta", index=1, delta=delta)))
    if end:
        final = MessageDeltaUsage(output_tokens=7)
        events += [
            event(RawContentBlockStopEvent(type="content_block_stop", index=1)),
            event(RawMessageDeltaEvent.construct(type="message_delta", delta=Delta(stop_reason=stop), usage=final)),
            event(RawMessageStopEvent(type="message_stop")),
        ]
    return events


def provider_at(url: str, **settings: Any) -> Any:
    providers = {"anthropic": {"base_url": url, **settings}}
    return make_provider("anthropic", settings_of("anthropic", providers), environ={"ANTHROPIC_API_KEY": KEY})


async def test_it_answers_streams_and_counts(api: StartApi, stream: Any) -> None:
    site = await api(stream(answer("Hel", "lo", cached=40, written=20)))
    pieces: list[str] = []
    got = await provider_at(
        site.url, extra={"price": {"input": "1", "output": "5", "cached": "0.1", "cache_write": "1.25"}}
    ).generate(ModelRequest(prompt="x"), pieces.append)
    assert (got.content, got.model, got.finish_reason, pieces) == ("Hello", MODEL, "stop", ["Hel", "lo"])
    usage = got.usage
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.calls) == (70, 40, 7, 1)
    assert usage.cost_nanodollars == 10 * 1000 + 40 * 100 + 20 * 1250 + 7 * 5000
    assert not usage.estimated


async def test_the_request_carries_everything(api: StartApi, stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://elsewhere.example")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-of-somebody")
    site = await api(stream(answer("ok")))
    request = ModelRequest(
        prompt="P",
        messages=(Turn("user", "a"), Turn("assistant", "b")),
        system_prompt="S",
        temperature=0.2,
        top_p=0.5,
        stop_sequences=("x",),
    )
    await provider_at(site.url, model="claude-opus-5", extra={"body": {"metadata": {"user_id": "u"}}}).generate(request)
    asked = site.asked[0]
    assert asked.path.startswith("/v1/messages")
    assert asked.body == {
        "model": "claude-opus-5",
        "max_tokens": 16_384,
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "P"},
        ],
        "system": "S",
        "temperature": 0.2,
        "top_p": 0.5,
        "stop_sequences": ["x"],
        "stream": True,
        "metadata": {"user_id": "u"},
    }
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["anthropic-version"] == "2023-06-01"  # the later ones take no temperature


async def test_without_sampling_settings_the_sdks_own_version_is_spoken(api: StartApi, stream: Any) -> None:
    site = await api(stream(answer("ok")))
    await provider_at(site.url).generate(ModelRequest(prompt="P", idempotency_key="i-1"))
    assert site.asked[0].headers["anthropic-version"] != "2023-06-01"
    assert site.asked[0].headers["idempotency-key"] == "i-1"
    assert site.asked[0].body["model"] == make_provider("anthropic", environ={"ANTHROPIC_API_KEY": "k"}).default_model


def test_the_default_model_is_not_about_to_be_switched_off() -> None:
    from anthropic.resources.messages.messages import DEPRECATED_MODELS

    model = make_provider("anthropic", environ={"ANTHROPIC_API_KEY": "k"}).default_model
    assert model not in DEPRECATED_MODELS
    assert price_of("anthropic", model) is not None


async def test_a_setting_that_the_model_does_not_take_is_left_out_with_a_warning(
    api: StartApi, stream: Any, status: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = {"type": "invalid_request_error", "message": "`temperature` is deprecated for this model."}
    site = await api(status(400, {"type": "error", "error": error}), stream(answer("ok")))
    assert (await provider_at(site.url).generate(ModelRequest(prompt="x", temperature=0.2))).text == "ok"
    assert site.asked[0].body["temperature"] == 0.2
    assert "temperature" not in site.asked[1].body
    assert "takes no temperature" in caplog.text


async def test_a_schema_is_sent_in_the_form_that_the_api_takes(api: StartApi, stream: Any) -> None:
    site = await api(stream(answer('{"mo', 'od": "good"}')))
    pieces: list[str] = []
    schema = {**SCHEMA, "properties": {"mood": {"type": "string", "maxLength": 9}}}
    got = await provider_at(site.url).generate(ModelRequest(prompt="x", json_schema=schema), pieces.append)
    assert json.loads(got.content) == {"mood": "good"}
    assert pieces == ['{"mo', 'od": "good"}']
    sent = site.asked[0].body["output_config"]["format"]
    assert sent["type"] == "json_schema"
    assert sent["schema"]["additionalProperties"] is False
    assert "maxLength" not in sent["schema"]["properties"]["mood"]
    assert "system" not in site.asked[0].body


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object"},
        {"description": "no type at all"},
    ],
)
async def test_a_schema_that_it_cannot_say_goes_into_the_system_prompt(
    api: StartApi, stream: Any, schema: dict[str, Any]
) -> None:
    site = await api(stream(answer("{}")))
    await provider_at(site.url).generate(ModelRequest(prompt="x", system_prompt="S", json_schema=schema))
    body = site.asked[0].body
    assert "output_config" not in body
    assert body["system"].startswith("S\n")
    assert json.dumps(schema) in body["system"]


async def test_a_model_that_takes_no_schemas_is_told_in_words(api: StartApi, stream: Any, status: Any) -> None:
    error = {"type": "invalid_request_error", "message": "output_config.format: not supported by this model"}
    site = await api(status(400, {"type": "error", "error": error}), stream(answer("{}")))
    await provider_at(site.url).generate(ModelRequest(prompt="x", json_schema=SCHEMA))
    assert "output_config" not in site.asked[1].body
    assert "mood" in site.asked[1].body["system"]


async def test_a_refusal_is_said_as_one(api: StartApi, stream: Any) -> None:
    site = await api(stream(answer("I will not.", stop="refusal")))
    got = await provider_at(site.url).generate(ModelRequest(prompt="x", json_schema=SCHEMA))
    assert (got.content, got.finish_reason) == ("I will not.", "refusal")


async def test_the_token_limit_is_told(api: StartApi, stream: Any) -> None:
    site = await api(stream(answer("Hel", stop="max_tokens")))
    got = await provider_at(site.url).generate(ModelRequest(prompt="x", max_tokens=1))
    assert (got.finish_reason, site.asked[0].body["max_tokens"]) == ("length", 1)


@pytest.mark.parametrize(
    ("code", "kind", "headers", "expected", "retry"),
    [
        (400, "invalid_request_error", {}, Code.PROVIDER, Retry.NEVER),
        (401, "authentication_error", {}, Code.SECURITY, Retry.NEVER),
        (404, "not_found_error", {}, Code.PROVIDER, Retry.NEVER),
        (429, "rate_limit_error", {"retry-after": "3"}, Code.RATE_LIMITED, Retry.AFTER),
        (500, "api_error", {}, Code.CONNECTIVITY, Retry.NOW),
        (529, "overloaded_error", {}, Code.CONNECTIVITY, Retry.NOW),
    ],
)
async def test_failures_say_whether_to_try_again(
    api: StartApi, status: Any, code: int, kind: str, headers: dict[str, str], expected: str, retry: str
) -> None:
    body = {"type": "error", "error": {"type": kind, "message": f"because, {KEY}"}}
    site = await api(status(code, body, headers))
    with pytest.raises(ProviderError, match="because") as caught:
        await provider_at(site.url).generate(ModelRequest(prompt="x"))
    assert (caught.value.failure.code, caught.value.failure.retry) == (expected, retry)
    assert KEY not in str(caught.value.failure)
    assert len(site.asked) == 1


async def test_an_error_within_the_stream_is_an_error(api: StartApi, stream: Any) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    site = await api(stream([*answer("Hel", end=False), f"event: error\ndata: {json.dumps(error)}\n\n"]))
    with pytest.raises(ProviderError, match="Overloaded") as caught:
        await provider_at(site.url).generate(ModelRequest(prompt="x"))
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.CONNECTIVITY, Retry.NOW)


@pytest.mark.parametrize("cut", [True, False])
async def test_a_stream_that_breaks_off_may_be_tried_again(api: StartApi, stream: Any, cut: bool) -> None:
    site = await api(stream(answer("Hel", end=False), cut=cut))
    with pytest.raises(ProviderError) as caught:
        await provider_at(site.url).generate(ModelRequest(prompt="x"))
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.CONNECTIVITY, Retry.NOW)


async def test_cancelling_hangs_up(api: StartApi, stream: Any) -> None:
    site = await api(stream(answer(*["x"] * 5000), delay_s=0.02))
    began = asyncio.Event()
    call = asyncio.create_task(provider_at(site.url).generate(ModelRequest(prompt="x"), lambda _: began.set()))
    await asyncio.wait_for(began.wait(), 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(site.gone.wait(), 30)


async def test_the_beginning_of_a_prompt_is_kept_where_that_is_wanted(api: StartApi, stream: Any, status: Any) -> None:
    site = await api(stream(answer("Hi", cached=40)))
    got = await provider_at(site.url).generate(ModelRequest(prompt="x", prompt_cache="of this stage"))
    assert site.asked[0].body["cache_control"] == {"type": "ephemeral"}
    assert got.usage.cached_tokens == 40 and got.usage.input_tokens == 50
    await provider_at(site.url).generate(ModelRequest(prompt="x"))
    assert "cache_control" not in site.asked[1].body
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": "cache_control: Extra inputs"}}
    site = await api(status(400, body), stream(answer("Hi")))
    await provider_at(site.url).generate(ModelRequest(prompt="x", prompt_cache="of this stage"))
    assert "cache_control" not in site.asked[1].body


@pytest.mark.parametrize(
    "model, can",
    [
        ("claude-3-5-haiku-latest", True),
        ("claude-opus-4-20250514", True),
        ("claude-sonnet-4-5-20250929", True),
        ("claude-opus-4-6", False),
        ("claude-sonnet-5-5", False),
    ],
)
def test_older_models_go_on_with_an_answer(model: str, can: bool) -> None:
    provider = make_provider("anthropic", environ={"ANTHROPIC_API_KEY": "k"})
    assert abilities_of(provider, ModelRequest(model=model)).continues is can
