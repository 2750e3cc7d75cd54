"""Tools in the protocols of Anthropic and of OpenAI-shaped servers, and the steps of a node that uses them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowmason
from flowmason.errors import Code, ProviderError, Retry, UsageError
from flowmason.ids import OrgId
from flowmason.model import Message, ModelRequest, Tool, ToolCall
from flowmason.providers import make_provider, settings_of
from flowmason.providers.counting import estimate, worst_case
from flowmason.providers.mock import MockProvider
from flowmason.providers.openai_shaped import CallsInParts
from flowmason.region.answers import answer_key
from fm_project import Project

StartApi = Callable[..., Awaitable[Any]]
ADD = Tool("add", "Adds numbers.", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
CALL = ToolCall("call_1", "add", '{"a": 2}')
ASKED = ModelRequest(
    messages=(
        Message("user", "How much?"),
        Message("assistant", "Let me see.", (CALL, ToolCall("call_2", "add", "{}"))),
        Message("tool", "2", tool_call_id="call_1"),
        Message("tool", "no a", tool_call_id="call_2", failed=True),
    ),
    tools=(ADD, Tool("now", "The time.", {})),
)
TRANSFORM = {"data": {"a": {"b": 7}}, "jmespath_expression": "a.b"}


def openai_at(url: str, **extra: Any) -> Any:
    settings = settings_of("local", {"local": {"base_url": f"{url}/v1", "model": "m", "extra": extra}})
    return make_provider("local", settings, environ={})


def anthropic_at(url: str, **extra: Any) -> Any:
    settings = settings_of("anthropic", {"anthropic": {"base_url": url, "model": "claude-opus-5", "extra": extra}})
    return make_provider("anthropic", settings, environ={"ANTHROPIC_API_KEY": "k"})


def chunk(finish: str | None = None, **delta: Any) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return f"data: {json.dumps({'id': 'x', 'object': 'c', 'created': 1, 'model': 'm', 'choices': choices})}\n\n"


def part(index: int | None, arguments: str, name: str | None = None, id: str | None = None) -> dict[str, Any]:
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def openai_calls(*calls: tuple[str, str], finish: str = "tool_calls", text: str = "") -> list[str]:
    """An answer that calls tools, each call in three parts."""
    events = [chunk(content=text)] if text else []
    for index, (name, arguments) in enumerate(calls):
        events += [
            chunk(tool_calls=[part(index, "", name, f"id_{index}")]),
            chunk(tool_calls=[part(index, arguments[:4])]),
            chunk(tool_calls=[part(index, arguments[4:])]),
        ]
    return [*events, chunk(finish), "data: [DONE]\n\n"]


def openai_says(text: str) -> list[str]:
    return [chunk(content=text), chunk("stop"), "data: [DONE]\n\n"]


def anthropic_events(*blocks: dict[str, Any], stop: str) -> list[str]:
    """An answer of blocks; a text and the input of a call come in two parts."""
    usage = {"input_tokens": 10, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-opus-5", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}}
    ]
    for index, block in enumerate(blocks):
        begin, deltas = dict(block), [{"type": "text_delta", "text": block.get("text", "")}]
        if block["type"] == "tool_use":
            begin["input"] = {}
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in (block["input"][:5], block["input"][5:])]
        elif block["type"] == "thinking":
            begin["signature"] = ""
            deltas = [{"type": "signature_delta", "signature": block["signature"]}]
        else:
            begin["text"] = ""
        events.append({"type": "content_block_start", "index": index, "content_block": begin})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events += [
        {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


def anthropic_call(arguments: str, id: str = "toolu_1", name: str = "json_transform") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


async def test_an_openai_shaped_server_gets_tools_calls_and_results(api: StartApi, stream: Any) -> None:
    site = await api(stream(openai_calls(("add", '{"a": 1}'), ("now", ""), text="Well.")))
    pieces: list[str] = []
    answer = await openai_at(site.url, tools=True).generate(ASKED, pieces.append)
    assert answer.tool_calls == (ToolCall("id_0", "add", '{"a": 1}'), ToolCall("id_1", "now", ""))
    assert (answer.content, pieces, answer.finish_reason) == ("Well.", ["Well."], "tool_calls")
    body = site.asked[0].body
    assert body["tools"] == [
        {"type": "function", "function": {"name": "add", "description": "Adds numbers.", "parameters": ADD.parameters}},
        {
            "type": "function",
            "function": {
                "name": "now",
                "description": "The time.",
                "parameters": {"type": "object", "properties": {}},
            },
        },
    ]
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}},
                {"id": "call_2", "type": "function", "function": {"name": "add", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
        {"role": "tool", "tool_call_id": "call_2", "content": "no a"},
    ]


async def test_anthropic_gets_tools_calls_and_results(api: StartApi, stream: Any) -> None:
    events = anthropic_events(
        {"type": "text", "text": "Well."}, anthropic_call('{"a": 1}', name="add"), stop="tool_use"
    )
    site = await api(stream(events))
    answer = await anthropic_at(site.url).generate(ASKED)
    assert answer.tool_calls == (ToolCall("toolu_1", "add", '{"a": 1}'),)
    assert (answer.content, answer.finish_reason, answer.blocks) == ("Well.", "tool_calls", ())
    body = site.asked[0].body
    assert body["tools"][0] == {"name": "add", "description": "Adds numbers.", "input_schema": ADD.parameters}
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 2}},
                {"type": "tool_use", "id": "call_2", "name": "add", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "2"},
                {"type": "tool_result", "tool_use_id": "call_2", "content": "no a", "is_error": True},
            ],
        },
    ]


async def test_a_call_of_anthropic_that_cannot_be_read_may_be_tried_again(api: StartApi, stream: Any) -> None:
    site = await api(stream(anthropic_events(anthropic_call('{"a": oops'), stop="tool_use")))
    with pytest.raises(ProviderError, match="cannot be read") as caught:
        await anthropic_at(site.url).generate(ASKED)
    assert (caught.value.failure.code, caught.value.failure.retry) == (Code.CONNECTIVITY, Retry.NOW)


def test_who_takes_tools_is_known_or_declared() -> None:
    url = "http://127.0.0.1:1"
    assert anthropic_at(url).abilities(None).tools is True
    assert anthropic_at(url, tools=False).abilities(None).tools is False
    assert openai_at(url).abilities(None).tools is False
    assert openai_at(url, tools=True).abilities(None).tools is True
    assert make_provider("openai", environ={"OPENAI_API_KEY": "k"}).abilities(None).tools is True  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"extra\.tools must be true or false"):
        openai_at(url, tools="yes").abilities(None)


@given(
    st.lists(st.tuples(st.text(min_size=1), st.lists(st.text(), min_size=1)), max_size=4),
    st.sampled_from(["by index", "all at index 0", "without index"]),
)
def test_calls_are_put_together_however_servers_cut_them(calls: list[tuple[str, list[str]]], how: str) -> None:
    parts = CallsInParts()
    for number, (name, pieces) in enumerate(calls):
        index = {"by index": number, "all at index 0": 0, "without index": None}[how]
        for place, piece in enumerate(pieces):
            function = SimpleNamespace(name=None if place else name, arguments=piece)
            parts.take(SimpleNamespace(index=index, id=None if place else f"id_{number}", function=function))
    expected = [ToolCall(f"id_{number}", name, "".join(pieces)) for number, (name, pieces) in enumerate(calls)]
    assert list(parts.whole(1)) == expected


@given(st.text(min_size=1), st.text(min_size=1))
def test_tools_count_in_bound_estimate_and_key(description: str, argument: str) -> None:
    provider = MockProvider(max_tokens=10)
    plain = ModelRequest(prompt="x")
    tools = (Tool("t", description, {"properties": {argument: {}}}),)
    given_tools = msgspec.structs.replace(plain, tools=tools)
    least = len(description.encode()) + len(argument.encode())
    assert worst_case(provider, given_tools)[0].tokens - worst_case(provider, plain)[0].tokens >= least
    assert estimate(given_tools, "").input_tokens > estimate(plain, "").input_tokens
    keys = {answer_key(OrgId("o"), provider, {}, request) for request in (plain, given_tools)}
    assert len(keys) == 2


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    made = Project(tmp_path / "shop", tmp_path / "home")
    made.root.mkdir()
    monkeypatch.chdir(made.root)
    return made


async def run(
    project: Project, providers: dict[str, Any], settings: dict[str, Any] | None = None, **config: Any
) -> Any:
    project.write("flowmason.json", {"name": "shop", "providers": providers})
    stage = {
        "id": "ask",
        "component": "generator",
        "config": {"prompt": "How much?", "system_prompt": "S", "tools": ["operator:json_transform"], **config},
        "llm_settings": settings or {},
        "retry_config": {"max_retries": 0},
    }
    project.write("ask.pipeline.json", {"name": "ask", "version": "1.0.0", "stages": [stage]})
    return await flowmason.load("ask").run_async()


def local(url: str, **extra: Any) -> dict[str, Any]:
    return {"base_url": f"{url}/v1", "model": "m", "extra": extra}


def in_words(step: dict[str, Any]) -> list[str]:
    return openai_says(json.dumps({"step": step}))


WAYS: dict[str, list[list[str]]] = {
    "openai": [
        openai_calls(("json_transform", '{"date": 1}')),
        openai_calls(("json_transform", json.dumps(TRANSFORM))),
        openai_says("seven"),
    ],
    "words": [
        in_words({"tool": "json_transform", "arguments": {"date": 1}}),
        in_words({"tool": "json_transform", "arguments": TRANSFORM}),
        in_words({"answer": "seven"}),
    ],
    "anthropic": [
        anthropic_events(anthropic_call('{"date": 1}'), stop="tool_use"),
        anthropic_events(anthropic_call(json.dumps(TRANSFORM), "toolu_2"), stop="tool_use"),
        anthropic_events({"type": "text", "text": "seven"}, stop="end_turn"),
    ],
}


@pytest.mark.parametrize("way", list(WAYS))
async def test_the_steps_are_the_same_whichever_way_is_spoken(
    project: Project, api: StartApi, stream: Any, way: str
) -> None:
    site = await api(*(stream(events) for events in WAYS[way]))
    providers: dict[str, Any] = {"default": "local", "local": local(site.url, tools=way == "openai")}
    if way == "anthropic":
        providers = {"default": "anthropic", "anthropic": {"base_url": site.url, "model": "claude-opus-5"}}
    found = await run(project, providers)
    assert found.status == "completed", found.error
    assert (found.output["content"], found.usage.calls) == ("seven", 3)
    refused, called = found.output["tool_calls"]
    assert "data" in refused["error"]["message"]
    assert (called["arguments"], called["result"]["result"]) == (TRANSFORM, 7)
    assert [("tools" in asked.body) for asked in site.asked] == [way != "words"] * 3
    last = json.dumps(site.asked[2].body["messages"][-1])
    assert ('result\\": 7' in last) or ('result\\\\\\": 7' in last), last
    assert ("You called json_transform" in last) == (way == "words")


@pytest.mark.parametrize("way", ["openai", "anthropic"])
async def test_an_answer_that_breaks_off_amid_its_first_call_is_counted_by_what_had_come(
    project: Project, api: StartApi, stream: Any, way: str
) -> None:
    site = await api(stream(WAYS[way][1][:3], cut=True))
    providers: dict[str, Any] = {"default": "local", "local": local(site.url, tools=True)}
    if way == "anthropic":
        providers = {"default": "anthropic", "anthropic": {"base_url": site.url, "model": "claude-opus-5"}}
    found = await run(project, providers)
    assert (found.status, found.error.code) == ("failed", Code.CONNECTIVITY)
    used = found.usage
    assert (used.calls, used.estimated) == (1, True)
    assert used.input_tokens > 0 and used.output_tokens > 0


async def test_a_chain_goes_on_in_words_where_its_next_member_takes_no_tools(
    project: Project, api: StartApi, stream: Any, status: Any
) -> None:
    down = await api(stream(WAYS["openai"][1]), status(503, {"error": {"message": "busy"}}))
    plain = await api(stream(WAYS["words"][2]))
    providers = {
        "default": "both",
        "both": {"chain": ["first", "second"]},
        "first": local(down.url, tools=True),
        "second": local(plain.url),
    }
    found = await run(project, providers)
    assert (found.status, found.output["content"]) == ("completed", "seven"), found.error
    (asked,) = plain.asked
    assert "tools" not in asked.body
    assert asked.body["messages"][0]["content"].startswith("S\n\nYou can use tools.")
    assert "You called json_transform with" in asked.body["messages"][1]["content"]


async def test_several_calls_at_once_are_answered_in_order_and_count_one_each(
    project: Project, api: StartApi, stream: Any
) -> None:
    two = openai_calls(("json_transform", json.dumps(TRANSFORM)), ("jsn_transform", "[1"))
    site = await api(stream(two), stream(two), stream(openai_says("done")))
    providers = {"default": "local", "local": local(site.url, tools=True)}
    found = await run(project, providers, max_steps=3)
    assert found.error.code == Code.TOOL_STEPS_EXCEEDED
    first, second = found.error.details["tool_calls"]
    assert first["result"]["result"] == 7
    assert "did you mean 'json_transform'" in second["error"]["message"]
    sent = site.asked[1].body["messages"][2:]
    assert [call["function"]["arguments"] for call in sent[0]["tool_calls"]] == [json.dumps(TRANSFORM), "{}"]
    assert [turn["tool_call_id"] for turn in sent[1:]] == ["id_0", "id_1"]


@pytest.mark.parametrize(
    ("arguments", "finish", "reason"),
    [
        ("[1]", "tool_calls", "must be a JSON object"),
        ('{"data"', "stop", "must be a JSON object"),
        (json.dumps(TRANSFORM), "length", "cut off"),
    ],
)
async def test_arguments_that_are_none_are_answered_with_an_error_and_nothing_is_called(
    project: Project, api: StartApi, stream: Any, arguments: str, finish: str, reason: str
) -> None:
    site = await api(stream(openai_calls(("json_transform", arguments), finish=finish)), stream(openai_says("done")))
    found = await run(project, {"default": "local", "local": local(site.url, tools=True)}, max_steps=1)
    assert (found.status, found.output["content"]) == ("completed", "done"), found.error
    (call,) = found.output["tool_calls"]
    assert reason in call["error"]["message"]
    assert "result" not in call
    assert reason in site.asked[1].body["messages"][-1]["content"]


async def test_thoughts_go_back_to_anthropic_with_the_results(project: Project, api: StartApi, stream: Any) -> None:
    thought = {"type": "thinking", "thinking": "", "signature": "signed"}
    call = anthropic_call(json.dumps(TRANSFORM))
    first = anthropic_events(thought, {"type": "text", "text": "Well."}, call, stop="tool_use")
    site = await api(stream(first), stream(WAYS["anthropic"][2]))
    providers = {"default": "anthropic", "anthropic": {"base_url": site.url, "model": "claude-opus-5"}}
    found = await run(project, providers)
    assert found.status == "completed", found.error
    assert site.asked[1].body["messages"][1]["content"] == [
        thought,
        {"type": "text", "text": "Well."},
        {**call, "input": TRANSFORM},
    ]


async def test_calls_are_kept_like_answers(project: Project, api: StartApi, stream: Any) -> None:
    site = await api(stream(WAYS["openai"][1]), stream(openai_says("seven")))
    providers = {"default": "local", "local": local(site.url, tools=True)}
    found = [await run(project, providers, {"cache_s": 600}) for _ in range(2)]
    assert [each.output["content"] for each in found] == ["seven", "seven"]
    assert found[0].output["tool_calls"] == found[1].output["tool_calls"]
    assert len(site.asked) == 2
