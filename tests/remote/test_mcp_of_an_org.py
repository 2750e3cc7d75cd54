"""`fm mcp serve --studio` as a process of its own, by the SDK's client: the pipelines of an org as tools."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from remote.conftest import Fm, greeting, write
from studio.kit import Studio

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters


def command(*more: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "flowmason.cli", "mcp", "serve", "--studio", *more],
        env={"FLOWMASON_HOME": os.environ["FLOWMASON_HOME"], "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"},
    )


async def _call(client: Client, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer
    return answer.structured_content


async def test_an_orgs_pipelines_are_listed_described_and_run(fm: Fm, studio: Studio, project: Path) -> None:
    assert fm("deploy", "-t", "acme").exit_code == 0
    write(project, greeting(name="here-only"))
    async with Client(command("-t", "acme")) as client:
        listed = (await _call(client, "list_pipelines"))["pipelines"]
        assert [each["name"] for each in listed] == ["greeting"], "the org's, not the project's"
        shown = await _call(client, "get_pipeline", pipeline_name="greeting")
        assert [stage["id"] for stage in shown["stages"]] == ["greet"]
        run = await _call(client, "run_pipeline", pipeline_name="greeting", input_data=json.dumps({"who": "Ada"}))
        assert (run["status"], run["output"]["result"]) == ("completed", "hello Ada"), run
        kept = studio.client.get(f"/api/v1/runs/{run['run_id']}", headers=studio.headers()).json()
        assert (kept["status"], kept["input"]) == ("completed", {"who": "Ada"})
        refused = await client.call_tool("get_pipeline", {"pipeline_name": "greting"})
        assert refused.is_error and "greeting" in refused.content[0].text  # type: ignore[union-attr]
