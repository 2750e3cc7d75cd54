"""From the end of a stage to WebSocket clients: a run that many follow, seen from another process."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect

RUNS = 10


async def delays(url: str, key: str, pipeline: str, subscribers: int) -> dict[str, float]:
    """Milliseconds from the end of stages, by the worker's clock, to the arrival of `stage.finished` at each socket.

    Runs of a chain, one after another: each stands at its entry until all have subscribed, then goes on.
    """
    headers = {"Authorization": f"Bearer {key}"}
    found: list[float] = []
    address = url.replace("http", "ws", 1) + "/api/v1/ws/runs"
    opened = [connect(address, additional_headers=headers, compression=None) for _ in range(subscribers)]
    sockets = [await each for each in opened]
    try:
        async with httpx2.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=60) as client:
            for number in range(RUNS + 1):
                took = await _one(client, sockets, pipeline)
                found += took if number else []  # the first warms up
    finally:
        for socket in sockets:
            await socket.close()
    found.sort()
    return {
        "median": round(statistics.median(found), 1),
        "95 %": round(found[len(found) * 95 // 100], 1),
        "most": round(found[-1], 1),
        "messages": len(found),
    }


async def _one(client: httpx2.AsyncClient, sockets: list[ClientConnection], pipeline: str) -> list[float]:
    body = {"pipeline": pipeline, "stop_on_entry": True}
    run = (await client.post("/debug/run", json=body)).raise_for_status().json()["id"]
    while (await client.get(f"/runs/{run}")).json()["status"] != "paused":
        await asyncio.sleep(0.01)
    subscribe = json.dumps({"type": "subscribe", "run_id": run, "after": 0})
    for socket in sockets:
        await socket.send(subscribe)
    ready = asyncio.Semaphore(0)
    reading = [asyncio.create_task(_read(socket, ready)) for socket in sockets]
    for _ in sockets:
        await ready.acquire()
    (await client.post(f"/runs/{run}/debug/continue")).raise_for_status()
    return [each for took in await asyncio.gather(*reading) for each in took]


async def _read(socket: ClientConnection, ready: asyncio.Semaphore) -> list[float]:
    """All messages of a run; they are looked at when all have come, so that looking delays none."""
    texts: list[tuple[float, Any]] = []
    paused = False
    while True:
        text = await socket.recv()
        texts.append((time.time() * 1000, text))
        if not paused and "run.paused" in text:
            paused = True
            ready.release()
        if '"type":"end"' in text:
            break
    took = []
    for at, text in texts:
        message = json.loads(text)
        if message["type"] == "event" and message["data"]["kind"] == "stage.finished":
            data = message["data"]
            took.append(at - data["started_at"] - data["duration_ms"])
    assert took, "no stage was seen to end"
    return took
