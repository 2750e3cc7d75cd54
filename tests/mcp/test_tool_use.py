"""A node whose model calls tools: operators and MCP servers, what is refused, and when it ends."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import flowmason
from flowmason.errors import Code
from fm_project import Project

pytest.importorskip("mcp")

SERVER = str(Path(__file__).parent / "server_for_tests.py")
TRANSFORM = {"data": {"a": {"b": 7}}, "jmespath_expression": "a.b"}


def calls(tool: str, arguments: Any) -> dict[str, Any]:
    return {"step": {"tool": tool, "arguments": arguments}}


def answers(text: str) -> dict[str, Any]:
    return {"step": {"answer": text}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path / "home"))
    made = Project(tmp_path / "shop", tmp_path / "home")
    made.root.mkdir()
    monkeypatch.chdir(made.root)
    return made


async def run(project: Project, script: list[Any], tools: list[Any], **config: Any) -> Any:
    """Run one generator with a scripted model."""
    providers = {"default": "mock", "mock": {"extra": {"answers": script}}}
    servers = {"parrots": {"command": sys.executable, "args": [SERVER]}}
    project.write("flowmason.json", {"name": "shop", "providers": providers, "mcp": {"servers": servers}})
    stage = {
        "id": "ask",
        "component": "generator",
        "config": {"prompt": "How much?", "tools": tools, **config},
        "retry_config": {"max_retries": 0},
    }
    project.write("ask.pipeline.json", {"name": "ask", "version": "1.0.0", "stages": [stage]})
    return await flowmason.load("ask").run_async()


async def test_an_operator_is_called_and_its_result_goes_back(project: Project) -> None:
    script = [calls("json_transform", TRANSFORM), answers("seven")]
    found = await run(project, script, ["operator:json_transform"])
    assert found.status == "completed", found.error
    assert found.output["content"] == "seven"
    (call,) = found.output["tool_calls"]
    assert (call["tool"], call["result"]["result"]) == ("json_transform", 7)
    assert found.usage.calls == 2
    assert found.output["tokens_used"] == found.usage.total_tokens


async def test_a_tool_of_an_mcp_server_is_called(project: Project) -> None:
    script = [calls("add", {"a": 2, "b": 3}), answers("five")]
    found = await run(project, script, [{"mcp": "parrots", "tools": ["add"], "effect": "idempotent"}])
    assert found.status == "completed", found.error
    assert found.output["tool_calls"] == [{"tool": "add", "arguments": {"a": 2, "b": 3}, "result": {"total": 5}}]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (calls("json_transform", {"date": 1}), "data"),
        (calls("add", {"a": "x", "b": 1}), "not of type 'integer'"),
        (calls("fail", {}), "no seeds left"),
    ],
)
async def test_what_a_tool_refuses_is_told_to_the_model(project: Project, bad: dict[str, Any], reason: str) -> None:
    tools = ["operator:json_transform", {"mcp": "parrots", "tools": ["add", "fail"], "effect": "idempotent"}]
    found = await run(project, [bad, answers("never mind")], tools)
    assert (found.status, found.output["content"]) == ("completed", "never mind"), found.error
    (call,) = found.output["tool_calls"]
    assert reason in call["error"]["message"]


async def test_the_limit_of_steps_is_a_typed_failure(project: Project) -> None:
    script = [calls("json_transform", TRANSFORM)] * 4
    found = await run(project, script, ["operator:json_transform"], max_steps=3)
    assert found.status == "failed"
    assert found.error.code == Code.TOOL_STEPS_EXCEEDED
    assert len(found.error.details["tool_calls"]) == 3


async def test_a_reply_that_is_no_step_is_repaired_twice(project: Project) -> None:
    found = await run(project, ["hm", calls("jsn_transform", {}), answers("ok")], ["operator:json_transform"])
    assert (found.status, found.output["content"]) == ("completed", "ok"), found.error
    found = await run(project, ["hm"] * 3, ["operator:json_transform"])
    assert (found.status, found.error.code) == ("failed", Code.BAD_ANSWER)


@pytest.mark.parametrize(
    ("tools", "code", "reason"),
    [
        ([{"mcp": "parrots", "tools": ["add"]}], Code.SECURITY, "must not happen twice"),
        (["operator:json_transfrom"], Code.INVALID_INPUT, "did you mean 'json_transform'"),
        ([{"mcp": "parrots", "tools": ["sub"], "effect": "idempotent"}], Code.INVALID_INPUT, "has no tool 'sub'"),
        (["operator:filter", "filter"], Code.INVALID_INPUT, "the same name"),
        ([{"server": "parrots"}], Code.INVALID_INPUT, "a server is written as"),
    ],
)
async def test_wrong_tools_are_refused(project: Project, tools: list[Any], code: str, reason: str) -> None:
    found = await run(project, [answers("no")], tools)
    assert found.status == "failed"
    assert found.error.code == code
    assert reason in found.error.message


async def test_a_model_cannot_make_a_repeatable_stage_do_what_must_not_happen_twice(project: Project) -> None:
    post = calls("http_request", {"url": "https://example.com/", "method": "POST"})
    found = await run(project, [post, answers("no")], ["operator:http_request"])
    assert found.status == "completed", found.error
    assert found.output["tool_calls"][0]["error"]["code"] == Code.SECURITY


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp is not installed")
async def test_the_local_model_keeps_to_the_steps(project: Project) -> None:
    servers = {"parrots": {"command": sys.executable, "args": [SERVER]}}
    settings = {"name": "shop", "providers": {"default": "llamacpp"}, "mcp": {"servers": servers}}
    project.write("flowmason.json", settings)
    tools = [{"mcp": "parrots", "tools": ["add"], "effect": "idempotent"}]
    config = {"prompt": "Add 2 and 3 with the tool add.", "tools": tools, "max_steps": 2, "max_tokens": 60}
    stage = {
        "id": "ask",
        "component": "generator",
        "config": config,
        "retry_config": {"max_retries": 0},
        "timeout_ms": 120000,
    }
    project.write("ask.pipeline.json", {"name": "ask", "version": "1.0.0", "stages": [stage]})
    found = await flowmason.load("ask").run_async()
    # So small a model may call on and on, or answer at once; what it cannot do is leave the grammar.
    if found.status == "failed":
        assert found.error is not None
        assert str(found.error.code) in ("TOOL_STEPS_EXCEEDED", "BAD_ANSWER"), str(found.error)
        done = (found.error.details or {}).get("tool_calls", [])
    else:
        done = found.output["tool_calls"]
    assert all(call["tool"] == "add" for call in done)
