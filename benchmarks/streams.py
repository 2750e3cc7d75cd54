"""`python -m benchmarks.streams`: how long after a model server sent the first piece of an answer a WebSocket has it.

A server in a process of its own plays OpenAI's protocol; its first piece is the time at which it is sent, and the rest
of the answer comes half a second later. The Studio's API listens in this process, its conductor walks the runs on Ray
(`--on local`: here), the journal is SQLite. Loopback alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from benchmarks.cli import machine
from flowmason.assembly.engine import make_executor
from flowmason.executor import Executor, WorkerSettings
from flowmason.values_fs import open_values
from flowmason_serve_apps.studio.services import Services

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from studio.conducting import conducting, listening, made, started
from studio.kit import Studio, studio_in

RUNS, REST_S = 30, 0.5
GOAL_MS = 30


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--on", default="ray", choices=["local", "ray"])
    parser.add_argument("--runs", type=int, default=RUNS)
    given = parser.parse_args()
    port = multiprocessing.get_context("spawn").Value("i", 0)
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    own = {"base_url": f"http://127.0.0.1:{port.value}/v1", "model": "m"}
    options = {"providers": {"default": "own", "own": own}}

    def executor(settings: WorkerSettings) -> Executor:
        return make_executor(given.on, settings, address="local" if given.on == "ray" else None)

    try:
        with tempfile.TemporaryDirectory() as folder, studio_in(Path(folder)) as studio:
            settings = studio.services.settings
            services = Services(settings, studio.services.store, open_values(settings.values_url))
            with (
                listening(services, "/api/v1/ws/runs") as address,
                conducting(settings, options, make=executor),
            ):
                times = asyncio.run(_measured(studio, address, given.runs))
    finally:
        server.terminate()
        server.join()
    ordered = sorted(times)
    told = {
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(len(ordered) * 0.95)], 1),
        "most": round(ordered[-1], 1),
        "runs": len(ordered),
    }
    found = {"machine": machine(), "on": given.on}
    print(json.dumps({**found, f"first piece, server to WebSocket, ms (goal {GOAL_MS})": told}, indent=2))


async def _measured(studio: Studio, address: str, runs: int) -> list[float]:
    stage = {"id": "ask", "component_type": "generator", "config": {"prompt": "hello"}}
    pipeline = made(studio, {"name": "ask", "version": "1.0.0", "stages": [stage]})["id"]
    times: list[float] = []
    async with connect(address, additional_headers=studio.headers()) as client:
        for number in range(runs + 1):
            run = await asyncio.to_thread(started, studio, pipeline)
            await client.send(json.dumps({"type": "subscribe", "run_id": run["id"]}))
            first: float | None = None
            async for text in client:
                message = json.loads(text)
                if message["type"] == "delta" and first is None:
                    first = (time.time() - float(message["text"].strip())) * 1000
                if message["type"] == "end":
                    break
            assert first is not None, "no piece came before the run had ended"
            if number:
                times.append(first)
    return times


def _serve(port: Any) -> None:
    asyncio.run(_serving(port))


async def _serving(port: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(asked.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                writer.write(_event({"content": f"{time.time():.6f} "}))
                await writer.drain()
                await asyncio.sleep(REST_S)
                writer.write(_event({"content": "the rest"}) + _event({}, "stop"))
                writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port.value = server.sockets[0].getsockname()[1]
    await server.serve_forever()


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return _chunk(f"data: {json.dumps(body)}\n\n".encode())


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


if __name__ == "__main__":
    main()
