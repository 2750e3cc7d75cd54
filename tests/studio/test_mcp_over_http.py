"""The Studio's MCP endpoint by the SDK's own client: the caller's rights, other orgs, hosts, progress, cancellation."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import uvicorn

from flowmason.studio.identity.permissions import Role
from studio.conducting import conducting, hello, made
from studio.kit import Studio, settings_in, studio_in

pytest.importorskip("mcp")

from mcp.client.streamable_http import streamable_http_client

from mcp import Client


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Studio, str]]:
    """A Studio that listens, with a conductor."""
    folder = tmp_path_factory.mktemp("mcp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWMASON_HOME", str(folder))
        with studio_in(folder) as studio, conducting(settings_in(folder)):
            made(studio, hello("greeting"))
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            # A second application over the same services: the first one's lifespan belongs to the test client.
            from flowmason_serve_apps.studio.app import make_app

            config = uvicorn.Config(
                make_app(studio.services.settings), host="127.0.0.1", port=port, log_level="error", lifespan="on"
            )
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            deadline = time.monotonic() + 30
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.02)
            assert server.started
            yield studio, f"http://127.0.0.1:{port}"
            server.should_exit = True
            thread.join(10)


async def ask(
    served: tuple[Studio, str], key: str, tool: str, arguments: dict[str, Any] | None = None, **more: Any
) -> Any:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{served[1]}/mcp", http_client=http)) as client,
    ):
        return await client.call_tool(tool, arguments or {}, **more)


async def test_the_tools_list_describe_and_run(served: tuple[Studio, str]) -> None:
    key = served[0].keys[Role.DEVELOPER]
    listed = (await ask(served, key, "list_pipelines")).structured_content["pipelines"]
    assert [each["name"] for each in listed] == ["greeting"]
    shown = (await ask(served, key, "get_pipeline", {"pipeline_name": "greeting"})).structured_content
    assert [stage["id"] for stage in shown["stages"]]
    told: list[float] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    given = {"pipeline_name": "greeting", "input_data": {"who": "Ada"}}
    answer = await ask(served, key, "run_pipeline", given, progress_callback=progress)
    run = answer.structured_content
    assert (run["status"], answer.is_error) == ("completed", False), run
    assert set(run["stages"].values()) == {"completed"}
    assert told and told[-1] == len(run["stages"])
    row = served[0].client.get(f"/api/v1/runs/{run['run_id']}", headers=served[0].headers()).json()
    assert row["status"] == "completed"
    components = (await ask(served, key, "list_components")).structured_content["components"]
    assert {"generator", "logger"} <= {each["name"] for each in components}
    found = (await ask(served, key, "get_component", {"component_type": "logger"})).structured_content
    assert found["input_schema"]["required"] == ["message"]


async def test_a_viewer_cannot_run(served: tuple[Studio, str]) -> None:
    key = served[0].keys[Role.VIEWER]
    assert not (await ask(served, key, "list_pipelines")).is_error
    answer = await ask(served, key, "run_pipeline", {"pipeline_name": "greeting", "input_data": {"who": "x"}})
    assert answer.is_error
    assert "FORBIDDEN" in answer.content[0].text


async def test_another_org_sees_nothing(served: tuple[Studio, str]) -> None:
    key = served[0].other_keys[Role.OWNER]
    assert (await ask(served, key, "list_pipelines")).structured_content == {"pipelines": []}
    for tool in ("get_pipeline", "run_pipeline"):
        answer = await ask(served, key, tool, {"pipeline_name": "greeting"})
        assert answer.is_error
        assert "NOT_FOUND" in answer.content[0].text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer fm_live_made_up"}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
async def test_strangers_are_refused(served: tuple[Studio, str], headers: dict[str, str], status: int) -> None:
    if "Origin" in headers:
        headers = {**headers, **served[0].headers()}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    async with httpx2.AsyncClient() as http:
        answer = await http.post(f"{served[1]}/mcp", json=message, headers=headers)
    assert answer.status_code == status, answer.text


async def test_a_cancelled_request_cancels_the_run(served: tuple[Studio, str]) -> None:
    studio = served[0]
    waits = {
        "name": "waits",
        "version": "1.0.0",
        "stages": [
            {
                "id": "each",
                "component": "trycatch",
                "config": {"try_stages": ["fail"], "max_retries": 5, "retry_delay_ms": 20000},
            },
            {
                "id": "fail",
                "component": "schema_validate",
                "config": {"data": 1, "json_schema": {"type": "string"}, "strict": True},
                "depends_on": ["each"],
            },
        ],
    }
    made(studio, waits)
    started = asyncio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        started.set()

    call = asyncio.create_task(
        ask(served, studio.keys[Role.DEVELOPER], "run_pipeline", {"pipeline_name": "waits"}, progress_callback=progress)
    )
    await asyncio.wait_for(started.wait(), 30)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    deadline = time.monotonic() + 20
    status = ""
    while status != "cancelled" and time.monotonic() < deadline:
        runs = await asyncio.to_thread(
            studio.client.get, "/api/v1/runs", params={"pipeline": "waits"}, headers=studio.headers()
        )
        status = runs.json()["items"][0]["status"]
        await asyncio.sleep(0.1)
    assert status == "cancelled"
