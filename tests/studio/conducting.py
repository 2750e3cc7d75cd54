"""A conductor in this process that walks the runs of a Studio, as one of the pool does elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from flowmason.conductor import Conductor
from flowmason.conductor.handing import Handing
from flowmason.executor import Executor, WorkerSettings
from flowmason.executor_local import LocalExecutor
from flowmason.ids import Ids
from flowmason.journal_sql import open_journal
from flowmason.providers import key_variables
from flowmason.region import Worker
from flowmason.secrets import OrgSecrets
from flowmason.studio.resolving import org_pipelines
from flowmason.values_fs import open_values
from flowmason_serve_apps.studio.app import make_app
from flowmason_serve_apps.studio.services import Services
from flowmason_serve_apps.studio.settings import StudioSettings
from studio.kit import Studio

POLL_S = 0.01


@contextmanager
def conducting(
    settings: StudioSettings,
    options: Mapping[str, Any] | None = None,
    *,
    make: Callable[[WorkerSettings], Executor] | None = None,
    packages: str | None = None,
    secrets: OrgSecrets | None = None,
) -> Iterator[Conductor]:
    """A conductor with the local executor (or what `make` gives), in a thread of its own, until the block ends."""
    ready, done = threading.Event(), threading.Event()
    held: list[Any] = []

    async def conduct() -> None:
        journal = open_journal(settings.database_url)
        worker = WorkerSettings(values_url=settings.values_url, packages_dir=packages, options=dict(options or {}))
        executor: Executor = make(worker) if make else LocalExecutor(lambda: Worker(worker).run, workers=4)
        if secrets is not None:
            executor = Handing(executor, secrets, key_variables(worker.options.get("providers", {})))
        await executor.start()
        conductor = Conductor(
            journal=journal,
            values=open_values(settings.values_url),
            executor=executor,
            now=lambda: int(time.time() * 1000),
            ids=Ids(time.time),
            rng=random.Random(7),
            host="here",
            pid=os.getpid(),
            resolve=org_pipelines(settings.database_url),
            poll_s=POLL_S,
        )
        held.extend((asyncio.get_running_loop(), conductor))
        ready.set()
        try:
            await conductor.run()
        finally:
            await executor.close()
            await journal.close()

    def work() -> None:
        try:
            asyncio.run(conduct())
        finally:
            ready.set()
            done.set()

    thread = threading.Thread(target=work, name="conductor", daemon=True)
    thread.start()
    assert ready.wait(20) and held, "the conductor did not start"
    try:
        yield held[1]
    finally:
        held[0].call_soon_threadsafe(held[1].stop)
        assert done.wait(30), "the conductor did not stop"
        thread.join(10)


@contextmanager
def listening(services: Services, path: str) -> Iterator[str]:
    """The WebSocket at `path` of some services' app, under uvicorn on loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does it for sockets of its own alone
    config = uvicorn.Config(make_app(services.settings, services), log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline and thread.is_alive(), "uvicorn did not start"
            time.sleep(0.01)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}{path}"
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


def hello(name: str = "hello", **more: Any) -> dict[str, Any]:
    """A pipeline that greets."""
    return {
        "name": name,
        "version": "1.0.0",
        "input_schema": {
            "type": "object",
            "properties": {"who": {"type": "string", "default": "world"}},
            "additionalProperties": False,
        },
        "sample_input": {"who": "you"},
        "stages": [
            {
                "id": "greet",
                "component_type": "json_transform",
                "config": {"data": {"text": "hello {{input.who}}"}, "jmespath_expression": "@"},
            }
        ],
        **more,
    }


def made(studio: Studio, document: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline that is kept in the Studio now."""
    answer = studio.client.post("/api/v1/pipelines", json=dict(document), headers=studio.headers())
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def started(studio: Studio, pipeline_id: str, given: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A run of a pipeline's draft."""
    body = {"input": dict(given) if given is not None else None, **more}
    answer = studio.client.post(f"/api/v1/pipelines/{pipeline_id}/run", json=body, headers=studio.headers())
    assert answer.status_code in (200, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(studio: Studio, run_id: str, timeout_s: float = 20.0) -> dict[str, Any]:
    """The run once it has ended or is paused."""
    return awaited(studio, run_id, {"completed", "failed", "cancelled", "paused"}, timeout_s)


def awaited(studio: Studio, run_id: str, states: set[str], timeout_s: float = 20.0) -> dict[str, Any]:
    """The run once it is in one of these states."""
    deadline = time.monotonic() + timeout_s
    while True:
        found: dict[str, Any] = studio.client.get(f"/api/v1/runs/{run_id}", headers=studio.headers()).json()
        if found["status"] in states:
            return found
        assert time.monotonic() < deadline, f"the run is still {found['status']}: {found}"
        time.sleep(0.01)


def sse(studio: Studio, run_id: str, **headers: str) -> list[dict[str, Any]]:
    """Every event of a run's stream, to its end: `id` (the reader's place), `event` and `data` (parsed)."""
    path, _, query = run_id.partition("?")
    address = f"/api/v1/runs/{path}/stream" + (f"?{query}" if query else "")
    answer = studio.client.get(address, headers={**studio.headers(), **headers})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parsed(answer.text)


def parsed(text: str) -> list[dict[str, Any]]:
    """The events in a text of Server-Sent Events, each with the `id` that its reader remembers after it."""
    found: list[dict[str, Any]] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append({**fields, "data": json.loads(fields["data"])})
        elif "id" in fields:  # no event, says the standard, but the place from which its reader goes on
            found[-1]["place"] = fields["id"]
    return found
