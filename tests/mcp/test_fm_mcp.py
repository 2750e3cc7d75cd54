"""`fm mcp serve` by the SDK's client, as a process of its own; `fm mcp test` and `fm mcp config`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fm_project import COMPONENTS, Project

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters

PIPELINE = {
    "name": "greet",
    "version": "1.1.0",
    "description": "Says hello.",
    "input_schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "seconds": {"type": "number", "default": 0}},
        "required": ["name"],
    },
    "stages": [
        {"id": "wait", "component": "nap", "config": {"seconds": "{{input.seconds}}", "value": "x"}},
        {"id": "say", "component": "nap", "config": {"value": "hello {{input.name}}"}, "depends_on": ["wait"]},
    ],
    "output_stage_id": "say",
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "shop", tmp_path / "home")
    made.write("flowmason.json", {"name": "shop"})
    made.write("components/tests.py", COMPONENTS)
    made.pipeline(PIPELINE)
    return made


def command(project: Project, *args: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "flowmason.cli", "-C", str(project.root), *args],
        env={"FLOWMASON_HOME": str(project.home)},
    )


@pytest.fixture
async def client(project: Project) -> AsyncIterator[Client]:
    holding: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    end = asyncio.Event()

    async def hold() -> None:  # the SDK wants it entered and left in one task
        async with Client(command(project, "mcp", "serve")) as found:
            holding.set_result(found)
            await end.wait()

    task = asyncio.create_task(hold())
    waiting: list[asyncio.Future[Any]] = [task, holding]
    await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    yield holding.result()
    end.set()
    await task


async def ask(client: Client, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> Any:
    answer = await client.call_tool(tool, arguments or {}, **more)
    assert not answer.is_error, answer
    return answer.structured_content


async def test_the_five_tools_describe_and_run_a_project(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"list_pipelines", "get_pipeline", "run_pipeline", "list_components", "get_component"}
    assert all(tool.output_schema for tool in tools.values())
    assert await ask(client, "list_pipelines") == {
        "pipelines": [{"name": "greet", "version": "1.1.0", "description": "Says hello."}]
    }
    shown = await ask(client, "get_pipeline", {"pipeline_name": "greet"})
    assert shown["input_schema"]["required"] == ["name"]
    assert [stage["id"] for stage in shown["stages"]] == ["wait", "say"]
    names = {each["name"] for each in (await ask(client, "list_components"))["components"]}
    assert {"nap", "generator", "mcp_tool_call"} <= names
    component = await ask(client, "get_component", {"component_type": "nap"})
    assert (component["effect"], component["input_schema"]["properties"]["seconds"]["type"]) == ("pure", "number")

    told: list[tuple[float, float | None]] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    given = {"pipeline_name": "greet", "input_data": json.dumps({"name": "Ada"})}
    run = await ask(client, "run_pipeline", given, progress_callback=progress)
    assert (run["status"], run["output"]) == ("completed", {"value": "hello Ada"})
    assert run["stages"] == {"wait": "completed", "say": "completed"}
    assert told[-1] == (2, 2)


@pytest.mark.parametrize(
    ("tool", "arguments", "reason"),
    [
        ("run_pipeline", {"pipeline_name": "greet", "input_data": "{}"}, "name"),
        ("run_pipeline", {"pipeline_name": "greet", "input_data": "[1]"}, "input_data"),
        ("run_pipeline", {"pipeline_name": "greet", "input_data": "{"}, "is no JSON"),
        ("get_pipeline", {"pipeline_name": "gret"}, "did you mean 'greet'"),
        ("get_pipeline", {"pipeline_name": "../greet.pipeline.json"}, "PIPELINE_NOT_FOUND"),
        ("get_component", {"component_type": "nop"}, "COMPONENT_MISSING"),
    ],
)
async def test_what_is_refused_is_an_error_with_its_reason(
    client: Client, tool: str, arguments: dict[str, Any], reason: str
) -> None:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    assert reason in answer.content[0].text  # type: ignore[union-attr]


async def test_a_cancelled_request_cancels_the_run(client: Client, project: Project) -> None:
    from flowmason.assembly.engine import open_stores
    from flowmason.ids import LOCAL_ORG

    given = {"pipeline_name": "greet", "input_data": {"name": "Ada", "seconds": 50}}
    started = asyncio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        started.set()

    call = asyncio.create_task(client.call_tool("run_pipeline", given, progress_callback=progress))
    await asyncio.wait_for(started.wait(), 30)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    stores = open_stores(project.root, {**os.environ, "FLOWMASON_HOME": str(project.home)})
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            rows = await stores.journal.rows(LOCAL_ORG)
            if [row.status for row in rows] == ["cancelled"]:
                break
            await asyncio.sleep(0.1)
        assert [row.status for row in rows] == ["cancelled"]
    finally:
        await stores.close()
    assert (await ask(client, "list_pipelines"))["pipelines"], "the server goes on"


def test_fm_mcp_test_and_config(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from flowmason.cli.app import app

    monkeypatch.setenv("FLOWMASON_HOME", str(project.home))
    server = str(Path(__file__).parent / "server_for_tests.py")
    declared = {"parrots": {"command": sys.executable, "args": [server]}}
    project.write("flowmason.json", {"name": "shop", "mcp": {"servers": declared}})
    monkeypatch.chdir(project.root)

    def fm(*args: str) -> Any:
        return CliRunner().invoke(app, list(args), prog_name="fm")

    own = fm("mcp", "test", "--json")
    assert own.exit_code == 0, own
    assert {tool["name"] for tool in json.loads(own.stdout)["tools"]} >= {"run_pipeline", "list_components"}
    other = fm("mcp", "test", "parrots", "--json")
    assert json.loads(other.stdout)["name"] == "parrots"
    unknown = fm("mcp", "test", "parots")
    assert unknown.exit_code != 0
    printed = json.loads(fm("mcp", "config").stdout)["mcpServers"]["flowmason"]
    assert printed["args"][-2:] == ["mcp", "serve"] and str(project.root) in printed["args"]
