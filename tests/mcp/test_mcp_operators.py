"""mcp_list_tools and mcp_tool_call against real servers: a child process, and one on the loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason.component import spec_of
from flowmason.egress import EgressPolicy
from flowmason.errors import Code, EgressError, Retry, StageError, UsageError
from flowmason.lab.operators.mcp import McpListTools, McpToolCall
from flowmason.mcp_client import Connections, read_server
from flowmason.policy import Effect
from flowmason.region.mcp import StageMcp

pytest.importorskip("mcp")

SERVER = str(Path(__file__).parent / "server_for_tests.py")
STDIO = {"command": sys.executable, "args": [SERVER], "env": {"SHOWN": "${GIVEN}!"}}


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, **fields: Any) -> None:
        self.lines.append(message)


class Stage:
    """What the operators use of a context."""

    def __init__(self, connections: Connections, org: str = "local") -> None:
        self.logger = Log()
        self.mcp = StageMcp(connections, self, org)  # type: ignore[arg-type]


def connections(**servers: Any) -> Connections:
    declared = {"parrots": STDIO, **servers}
    return Connections(declared, egress=EgressPolicy(), environ={"GIVEN": "seed", "HIDDEN": "no"})


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = connections()
    yield Stage(made)
    await made.close()


async def call(stage: Stage, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> McpToolCall.Output:
    inputs = {"server": "parrots", "tool_name": tool, "tool_arguments": arguments or {}, **more}
    if "command" in more or "url" in more:
        del inputs["server"]
    return await McpToolCall().execute(McpToolCall.Input.model_validate(inputs), stage)  # type: ignore[arg-type]


async def test_tools_are_listed_with_their_schemas(stage: Stage) -> None:
    found = await McpListTools().execute(McpListTools.Input(server="parrots"), stage)  # type: ignore[arg-type]
    assert (found.server_name, found.server_version) == ("parrots", "1.2")
    add = next(tool for tool in found.tools if tool["name"] == "add")
    assert add["description"] == "Add two numbers."
    assert add["input_schema"]["required"] == ["a", "b"]
    assert found.tool_count == len(found.tools) == 8


async def test_a_tool_answers_with_data_and_its_stderr_is_logged(stage: Stage) -> None:
    found = await call(stage, "add", {"a": 2, "b": 3})
    assert (found.data, found.is_error, found.error_message) == ({"total": 5}, False, None)
    assert "adding" in stage.logger.lines


async def test_an_error_of_the_tool_is_an_answer(stage: Stage) -> None:
    found = await call(stage, "fail")
    assert found.is_error
    assert "no seeds left" in (found.error_message or "")


async def test_a_child_has_the_declared_environment_only(stage: Stage) -> None:
    names = (await call(stage, "environment")).data["result"]
    assert set(names) - {"LC_CTYPE"} == {"PATH", "SHOWN"}
    assert (await call(stage, "value", {"name": "SHOWN"})).text == "seed!"


async def test_one_child_serves_many_calls_and_each_org_has_its_own() -> None:
    made = connections()
    one, other = Stage(made, "one"), Stage(made, "other")
    first, again, foreign = [(await call(each, "pid")).text for each in (one, one, other)]
    assert first == again != foreign
    await made.close()
    assert not alive(int(first)) and not alive(int(foreign))


async def test_a_command_must_be_declared_word_for_word(stage: Stage) -> None:
    assert (await call(stage, "add", {"a": 1, "b": 1}, command=sys.executable, args=[SERVER])).data == {"total": 2}
    with pytest.raises(UsageError, match="not that of a declared") as caught:
        await call(stage, "add", command=sys.executable, args=[SERVER, "--more"])
    assert caught.value.failure.code == Code.SECURITY
    with pytest.raises(StageError) as refused:
        await call(stage, "add", env={"LD_PRELOAD": "x"})
    assert refused.value.failure.code == Code.SECURITY
    with pytest.raises(UsageError, match="did you mean 'parrots'") as unknown:
        await McpListTools().execute(McpListTools.Input(server="parots"), stage)  # type: ignore[arg-type]
    assert unknown.value.failure.code == Code.NOT_FOUND


async def test_a_large_answer_is_refused_by_its_size(stage: Stage) -> None:
    with pytest.raises(StageError, match="5000 are allowed") as caught:
        await call(stage, "large", {"size": 100_000}, max_result_bytes=5000)
    assert caught.value.failure.code == Code.RESOURCE_EXHAUSTED
    assert (await call(stage, "add", {"a": 1, "b": 1})).data == {"total": 2}


async def test_a_message_beyond_all_bounds_ends_the_connection(stage: Stage) -> None:
    with pytest.raises(StageError, match="longer than") as caught:
        await call(stage, "large", {"size": 20 * 1024 * 1024})
    assert caught.value.failure.code == Code.RESOURCE_EXHAUSTED
    assert (await call(stage, "add", {"a": 1, "b": 1})).data == {"total": 2}, "a new child"


@pytest.mark.parametrize(
    ("effect", "code", "retry"),
    [("unsafe", Code.OUTCOME_UNKNOWN, Retry.NEVER), ("idempotent", Code.TIMEOUT, Retry.NOW)],
)
async def test_a_server_that_hangs(stage: Stage, effect: str, code: Code, retry: Retry) -> None:
    await call(stage, "pid")
    begun = time.monotonic()
    with pytest.raises(StageError, match="did not answer within") as caught:
        await call(stage, "hang", effect=effect, timeout=0.3)
    assert time.monotonic() - begun < 30
    assert (caught.value.failure.code, caught.value.failure.retry) == (code, retry)
    assert (await call(stage, "add", {"a": 1, "b": 1})).data == {"total": 2}


@pytest.mark.parametrize(
    ("effect", "code", "retry"),
    [("unsafe", Code.OUTCOME_UNKNOWN, Retry.NEVER), ("idempotent", Code.CONNECTIVITY, Retry.NOW)],
)
async def test_a_server_that_dies_amid_a_call(stage: Stage, effect: str, code: Code, retry: Retry) -> None:
    with pytest.raises(StageError, match="ended amid the call") as caught:
        await call(stage, "die", effect=effect)
    assert (caught.value.failure.code, caught.value.failure.retry) == (code, retry)
    assert (await call(stage, "add", {"a": 1, "b": 1})).data == {"total": 2}, "the next call has a new child"


async def test_a_command_that_is_no_server_says_so() -> None:
    made = connections(gone={"command": "no-such-program-here"}, false={"command": "false"})
    with pytest.raises(StageError, match="there is no program"):
        await call(Stage(made), "add", server="gone")
    with pytest.raises(StageError, match="cannot be reached"):
        await call(Stage(made), "add", server="false")
    await made.close()


def test_a_killed_worker_leaves_no_child(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from flowmason.egress import EgressPolicy
from flowmason.mcp_client import Connections
async def main():
    made = Connections({{"p": {STDIO!r}}}, egress=EgressPolicy(), environ={{"GIVEN": ""}})
    answer = await made.call_tool("o", made.server("p"), "pid", {{}}, timeout=30, tell=print, repeatable=True,
                                  at_most=10000)
    print("pid", answer["content"][0]["text"], flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        line = next(line for line in worker.stdout if line.startswith("pid"))
        child = int(line.split()[1])
        assert alive(child)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()
    deadline = time.monotonic() + 60
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, SERVER, str(number)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", number)) == 0:
                    break
            time.sleep(0.05)
        yield number
    finally:
        process.kill()
        process.wait()


async def test_a_declared_url_is_called(port: int) -> None:
    made = connections(web={"url": f"http://127.0.0.1:{port}/mcp", "headers": {"X-Key": "${GIVEN}"}})
    assert (await call(Stage(made), "add", {"a": 4, "b": 5}, server="web")).data == {"total": 9}
    with pytest.raises(StageError) as caught:
        await call(Stage(made), "hang", server="web", timeout=0.3)
    assert caught.value.failure.code == Code.OUTCOME_UNKNOWN
    await made.close()


async def test_an_undeclared_url_passes_the_egress_guard(port: int) -> None:
    made = connections()
    with pytest.raises(EgressError, match="loopback"):
        await call(Stage(made), "add", {"a": 4, "b": 5}, url=f"http://127.0.0.1:{port}/mcp")
    await made.close()


async def test_a_missing_variable_is_named() -> None:
    made = connections(web={"url": "https://mcp.example.com/", "headers": {"Authorization": "Bearer ${NOT_SET}"}})
    with pytest.raises(UsageError, match="NOT_SET") as caught:
        await call(Stage(made), "add", server="web")
    assert caught.value.failure.code == Code.SECRET_MISSING
    await made.close()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "either a command or a url"),
        ({"command": "x", "url": "https://a.b/"}, "either a command or a url"),
        ({"comand": "x"}, "did you mean 'command'"),
        ({"url": "ftp://a.b"}, "not an http"),
        ({"url": "https://a.b/", "args": ["x"]}, "goes with command only"),
        ({"command": "x", "timeout": 0}, "timeout"),
    ],
)
def test_a_wrong_declaration_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_server("s", given)


def test_a_call_is_unsafe_unless_the_stage_says_otherwise() -> None:
    spec: Callable[[dict[str, Any]], Effect] = lambda inputs: spec_of(McpToolCall).settle(inputs).effect  # noqa: E731
    assert spec({}) is Effect.UNSAFE
    assert spec({"effect": "idempotent"}) is Effect.IDEMPOTENT
    assert spec({"effect": "{{input.effect}}"}) is Effect.UNSAFE
    assert spec_of(McpListTools).effect is Effect.IDEMPOTENT


def test_workers_on_this_machine_are_given_the_variables_of_servers() -> None:
    import msgspec

    from flowmason.executor import WorkerSettings
    from flowmason_actors.launch import Launch, launch_of

    servers = {
        "a": {"command": "x", "env": ["LISTED"]},
        "b": {"command": "x", "env": {"SHOWN": "${INSIDE}!"}},
        "c": {"url": "https://a.b/", "headers": {"Authorization": "Bearer ${TOKEN}"}},
    }
    settings = WorkerSettings("file:///nowhere", options={"mcp_servers": servers})
    environ = {"LISTED": "1", "INSIDE": "2", "TOKEN": "3", "OTHER": "4"}
    launch = msgspec.msgpack.decode(launch_of(settings, environ, share=True), type=Launch)
    assert launch.environ == {"LISTED": "1", "INSIDE": "2", "TOKEN": "3"}


async def test_a_server_that_says_nothing_does_not_hold_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowmason.mcp_client import pool

    monkeypatch.setattr(pool, "_START_S", 0.5)
    made = connections(mute={"command": "sleep", "args": ["600"]})
    with pytest.raises(StageError, match=r"did not begin within 0\.5 s"):
        await call(Stage(made), "add", server="mute")
    await made.close()
