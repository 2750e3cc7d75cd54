"""`python -m benchmarks.llm`: what FlowMason adds to a model call, and how many calls one node host overlaps.

A server in a process of its own plays OpenAI's protocol and says with each answer how long it took itself. Loopback
alone. `--on local` measures the same in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cli import machine
from benchmarks.engines.ours import Ours
from benchmarks.workloads import Workload

CALLS, ROUNDS = 100, 5
"""One after the other, in one attempt; measured after one round that warms up."""
TOGETHER, ANSWER_S = 200, 10.0


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm", description=__doc__)
    parser.add_argument("--on", default="ray", choices=["local", "ray"])
    parser.add_argument("--only", choices=["overhead", "together"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(_measured(given)), indent=2))


async def _measured(given: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"machine": machine(), "on": given.on}
    with _Server() as server:
        own = {"base_url": server.url, "model": "m"}
        # Another name, another address: a line of its own.
        limited: dict[str, Any] = {**own, "base_url": server.url.replace("127.0.0.1", "localhost")}
        limited["limits"] = {"concurrency": 500, "per_minute": 10_000_000}
        engine = Ours(given.on, {"default": "own", "own": own, "limited": limited})
        folder = Path(tempfile.mkdtemp(prefix="flowmason-bench-"))
        try:
            await engine.start(folder)
            if given.only != "together":
                found["overhead"] = await _overhead(engine, server, given.rounds)
            if given.only != "overhead":
                found["together"] = await _together(engine, server, given.rounds)
            await engine.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


async def _overhead(engine: Ours, server: _Server, rounds: int) -> dict[str, Any]:
    """Milliseconds that a call takes beyond the server's own time, in turns."""
    server.answer_after(0.0)
    ways = {
        "flowmason": {"provider": "own"},
        "with shared limits": {"provider": "limited"},
        "sdk": {"bare": server.url},
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            stage = {"id": "ask", "component": "bench-ask", "config": {"calls": CALLS, **way}}
            (output,) = (await _run(engine, f"overhead-{name}", [stage]))[1]
            if number:
                times[name] += output["over_ms"]
    return {name: _spread(each) for name, each in times.items()} | {"goal": "flowmason: median < 3 ms"}


async def _together(engine: Ours, server: _Server, rounds: int) -> dict[str, Any]:
    """`TOGETHER` calls at once, each answered after `ANSWER_S`; the memory of the host before and after each round."""
    warm = {"id": "ask", "component": "bench-ask", "config": {"provider": "own"}}
    server.answer_after(0.0)
    pid = int((await _run(engine, "warm", [warm]))[1][0]["pid"])
    stages = [{**warm, "id": f"ask{n}"} for n in range(TOGETHER)]
    server.answer_after(ANSWER_S)
    found = []
    for _ in range(rounds):
        before, peak = _rss_mb(pid), 0.0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, _rss_mb(pid))
                await asyncio.sleep(0.2)

        watching = asyncio.create_task(watch())
        seconds, (output,) = await _run(engine, "together", stages)
        watching.cancel()
        pids = {each["pid"] for each in output.values()}
        assert pids == {pid}, f"more than one node host: {pids}"
        percent = 100 * ANSWER_S / seconds
        found.append({"s": round(seconds, 3), "% of ideal": round(percent, 1)})
        found[-1] |= {"host_mb_before": before, "host_mb_peak": peak, "host_mb_after": _rss_mb(pid)}
    return {"calls": TOGETHER, "answer_s": ANSWER_S, "rounds": found, "goal": ">= 90 % of ideal, memory flat"}


async def _run(engine: Ours, name: str, stages: list[dict[str, Any]]) -> tuple[float, list[Any]]:
    document = {"name": f"bench-{name.replace(' ', '-')}", "version": "1.0.0", "stages": stages}
    workload = Workload(name, "", "graph", len(stages), "ms/stage", document, {}, None)
    await engine.prepare(workload)
    return await engine.run(workload)


def _spread(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median_ms": round(statistics.median(ordered), 3),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 3),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)], 3),
        "calls": len(ordered),
    }


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1024**2, 1)


class _Server:
    """The fake provider, in a process of its own."""

    def __enter__(self) -> _Server:
        context = multiprocessing.get_context("spawn")
        port, self._seconds = context.Value("i", 0), context.Value("d", 0.0)
        self._process = context.Process(target=_serve, args=(port, self._seconds), daemon=True)
        self._process.start()
        while not port.value:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{port.value}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def answer_after(self, seconds: float) -> None:
        """From now on every answer comes after so long."""
        self._seconds.value = seconds


def _serve(port: Any, seconds: Any) -> None:
    asyncio.run(_serving(port, lambda: float(seconds.value)))


async def _serving(port: Any, seconds: Callable[[], float]) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                begun = time.perf_counter()
                length = int(asked.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                if wait := seconds():
                    await asyncio.sleep(wait)
                took = f"{(time.perf_counter() - begun) * 1000:.3f}"
                writer.write(head + b"".join(map(_chunk, _events(took))) + b"0\r\n\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
    port.value = server.sockets[0].getsockname()[1]
    await server.serve_forever()


def _events(text: str) -> list[bytes]:
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ]
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return [f"data: {json.dumps({**base, **chunk})}\n\n".encode() for chunk in chunks] + [b"data: [DONE]\n\n"]


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


if __name__ == "__main__":
    main()
