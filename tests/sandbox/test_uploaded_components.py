"""Components of a package that an org uploaded run behind walls: they do their work, and reach nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowmason.component import ComponentSpec
from flowmason.executor import WorkerSettings
from flowmason.executor_local import LocalExecutor
from flowmason.ids import LOCAL_ORG, sha256
from flowmason.package import inspect_bytes, pack_bytes
from flowmason.policy import Placement
from flowmason.project import load_project
from flowmason.region import Worker
from flowmason.registry import packed_specs
from flowmason.sandbox import launch
from running.kit import PROVIDERS, Engine, Result, pipe, stage

COMPONENTS = """
import asyncio, os, pathlib, socket, sys, time
from flowmason import Context, Field, NodeInput, NodeOutput, OperatorInput, OperatorOutput, StageError, node, operator


@operator(name="double", category="test", description="Doubles.")
class Double:
    class Input(OperatorInput):
        value: int

    class Output(OperatorOutput):
        value: int

    async def execute(self, input: Input, context: Context) -> Output:
        context.logger.info("doubling", value=input.value)
        print("to nobody")
        return self.Output(value=input.value * 2)


@node(name="spy", category="test", description="Tries to see what is not its own.", secrets=["mine"])
class Spy:
    class Input(NodeInput):
        what: str
        target: str = ""

    class Output(NodeOutput):
        value: object

    async def execute(self, input: Input, context: Context) -> Output:
        if input.what == "environment":
            found = dict(os.environ)
        elif input.what == "file":
            found = pathlib.Path(input.target).read_text()
        elif input.what == "processes":
            found = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        elif input.what == "connect":
            host, port = input.target.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=2)
            found = "connected"
        elif input.what == "write":
            pathlib.Path(input.target).write_text("mine now")
            found = "written"
        elif input.what == "secret":
            found = context.secrets.get(input.target)
        elif input.what == "get":
            answer = await context.http.get(input.target)
            found = {"status": answer.status_code, "text": answer.text}
        elif input.what == "ask":
            answer = await context.llm.generate("ping", provider="mock")
            found = {"content": answer.content, "tokens": answer.total_tokens > 0}
        elif input.what == "blob":
            made = context.make_blob(b"bytes of mine", "text/plain")
            found = {"again": context.read_blob(made).decode(), "key": len(context.idempotency_key)}
        elif input.what == "die":
            os._exit(7)
        elif input.what == "block":
            time.sleep(60)
        elif input.what == "sleep":
            await asyncio.sleep(60)
        elif input.what == "fail":
            raise StageError("as it had to be", code="MY_OWN")
        elif input.what == "eat":
            found = len(bytearray(16 * 1024**3))
        return self.Output(value=found)
"""


class Uploaded(dict[str, ComponentSpec]):
    """Specs as the Studio hands them to the compiler."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    reason = launch.why_not()
    assert reason is None, reason
    os.environ["FLOWMASON_SECRET_MINE"] = "the secret of spy"
    os.environ["FLOWMASON_SECRET_OTHER"] = "the secret of a neighbour"
    root = tmp_path_factory.mktemp("project")
    (root / "components").mkdir()
    (root / "flowmason.json").write_text(json.dumps({"name": "spies", "version": "1.0.0"}))
    (root / "components" / "spies.py").write_text(COMPONENTS)
    data = pack_bytes(load_project(root))
    made = Engine(tmp_path_factory.mktemp("values"))
    digest = sha256(data)
    made.values.put(LOCAL_ORG, digest, data)
    specs = packed_specs(inspect_bytes(data, file="spies.fmpkg"))
    for each in specs:
        made.specs[each.name] = msgspec.structs.replace(each, archive=digest, placement=Placement.HOST)
    yield made
    asyncio.run(made.executor.close())
    del os.environ["FLOWMASON_SECRET_MINE"], os.environ["FLOWMASON_SECRET_OTHER"]


async def _spy(engine: Engine, what: str, target: str = "", **more: Any) -> Result:
    return await engine.run(
        pipe(stage("spy", "spy", what=what, target=target, retry_config={"max_retries": 0}, **more))
    )


async def test_they_work_as_any_component_does(engine: Engine) -> None:
    done = await engine.run(
        pipe(stage("one", "double", value=21), stage("two", "double", value="{{upstream.one.value}}"))
    )
    assert done.status == "completed", done.error
    assert done.out("two") == 84
    lines = [line for report in done.reports for line in report.logs]
    assert [(line.message, line.fields) for line in lines] == [("doubling", {"value": 21}), ("doubling", {"value": 42})]


async def test_wrong_input_and_own_errors_come_out_as_they_are(engine: Engine) -> None:
    wrong = await engine.run(pipe(stage("one", "double", value="{{input.x}}")), {"x": "text"})
    assert wrong.error is not None and wrong.error.code == "INVALID_INPUT" and "double" in wrong.error.message
    failed = await _spy(engine, "fail")
    assert failed.error is not None and failed.error.code == "MY_OWN" and failed.error.message == "as it had to be"


async def test_models_blobs_and_keys_are_there(engine: Engine) -> None:
    asked = await _spy(engine, "ask")
    assert asked.status == "completed" and asked.out("spy")["tokens"]
    assert asked.usage.calls == 1
    blob = await _spy(engine, "blob")
    assert blob.out("spy") == {"again": "bytes of mine", "key": 32}


async def test_the_environment_is_empty(engine: Engine) -> None:
    seen = (await _spy(engine, "environment")).out("spy")
    assert set(seen) <= {"PATH", "HOME", "LANG", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PWD", "LC_CTYPE"}


async def test_only_declared_secrets_are_handed_over(engine: Engine) -> None:
    own = await _spy(engine, "secret", "mine")
    assert own.status == "completed"
    stolen = await _spy(engine, "secret", "other")
    assert stolen.error is not None and stolen.error.code == "SECRET_MISSING"
    assert "neighbour" not in str(stolen.error)


async def test_no_other_process_and_no_file_outside_can_be_seen(engine: Engine, tmp_path: Path) -> None:
    assert max((await _spy(engine, "processes")).out("spy")) < 10  # a name space of its own
    secret = tmp_path / "neighbour.txt"
    secret.write_text("the secret of a neighbour")
    for target in (str(secret), f"/proc/{os.getpid()}/environ", "/etc/passwd", str(Path.home() / ".flowmason")):
        seen = await _spy(engine, "file", target)
        assert seen.error is not None and seen.error.type == "FileNotFoundError", target
    wrote = await _spy(engine, "write", str(Path(msgspec.__file__).parent / "mine.py"))
    assert wrote.error is not None and "Read-only" in wrote.error.message


class _Server:
    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"hello")

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


async def test_the_network_is_reached_through_the_egress_guard_alone(engine: Engine) -> None:
    server = _Server()
    try:
        direct = await _spy(engine, "connect", server.address)
        assert direct.error is not None and direct.error.type in ("ConnectionRefusedError", "OSError", "TimeoutError")
        refused = await _spy(engine, "get", f"http://{server.address}/")
        assert refused.error is not None and refused.error.code == "EGRESS_DENIED"
        settings = WorkerSettings(engine.url, options={"providers": PROVIDERS, "egress_allow": [server.address]})
        allowed = LocalExecutor(lambda: Worker(settings).run, workers=1)
        engine.executor, kept = allowed, engine.executor
        try:
            got = await _spy(engine, "get", f"http://{server.address}/")
        finally:
            engine.executor = kept
            await allowed.close()
        assert got.out("spy") == {"status": 200, "text": "hello"}, got.error
    finally:
        server.server.shutdown()
        server.server.server_close()


async def test_a_child_that_dies_or_eats_fails_its_stage_and_the_next_call_gets_a_new_one(engine: Engine) -> None:
    died = await _spy(engine, "die")
    assert died.error is not None and died.error.code == "LOST"
    ate = await _spy(engine, "eat")
    assert ate.error is not None and ate.error.code in ("RESOURCE_EXHAUSTED", "LOST")
    assert (await _spy(engine, "ask")).status == "completed"


@pytest.mark.parametrize("what", ["block", "sleep"])
async def test_a_timeout_holds_whether_the_component_waits_or_blocks(engine: Engine, what: str) -> None:
    late = await _spy(engine, what, timeout_ms=500)
    assert late.error is not None and late.error.code == "TIMEOUT"
    assert (await _spy(engine, "ask")).status == "completed"


async def test_without_a_sandbox_they_are_refused_by_name(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowmason.sandbox.launch.why_not", lambda: "bubblewrap (bwrap) is not installed")
    refused = await engine.run(pipe(stage("one", "double", value=21)))
    assert refused.error is not None and refused.error.code == "NOT_SUPPORTED"
    assert "double" in refused.error.message and "bubblewrap" in refused.error.message
