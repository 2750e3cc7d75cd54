"""`python -m benchmarks.studio [REPLICAS]`: the Studio's API on Ray Serve behind HAProxy, as ratios in one run.

Starts a Studio of its own in a temporary folder, on SQLite, and stops it. Loopback alone; some thousand requests. The
engine's own W5 is run in turns with W5 over HTTP, on another Ray of this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.sending import send_all
from benchmarks.serving import Server
from benchmarks.subscribers import delays
from benchmarks.workloads import workloads

ROUNDS, REQUESTS = 5, 200
RUNS, STAGES = 100, 5
SUBSCRIBERS = 100
_FM = [str(Path(sys.executable).with_name("fm"))]
_ENDED = ("completed", "failed", "cancelled")


def main() -> None:
    """Measure, and print one JSON object."""
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "FLOWMASON_HOME": home, "FLOWMASON_REQUESTS_PER_MINUTE": "10000000"}
        replicas = sys.argv[1] if len(sys.argv) > 1 else "1"
        started = subprocess.run(
            [*_FM, "studio", "start", "--port", "0", "--replicas", replicas],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            if started.returncode != 0:
                raise SystemExit(started.stderr)
            said = started.stdout + started.stderr
            url = re.search(r"started: (\S+)", said)
            token = re.search(r"fm_bootstrap_\w+", said)
            assert url and token, said
            print(json.dumps(_measured(url[1], token[0]), indent=2))
        finally:
            subprocess.run([*_FM, "studio", "stop"], env=environ, capture_output=True, check=False)


def _measured(url: str, token: str) -> dict[str, Any]:
    with httpx2.Client(base_url=url + "/api/v1", timeout=60) as client:
        body = {"token": token, "org_name": "Bench", "org_slug": "bench", "email": "b@example.org", "name": "B"}
        key = client.post("/auth/bootstrap", json=body).json()["api_key"]
        client.headers["Authorization"] = f"Bearer {key}"
        pipeline = client.post("/pipelines", json=_chain()).json()["id"]
        run = _ended(client, _start(client, pipeline))
        asked = {
            "open": lambda: client.get("/health"),
            "authenticated": lambda: client.get("/storage/retention"),
            "run": lambda: client.get(f"/runs/{run['id']}"),
        }
        times: dict[str, list[float]] = {name: [] for name in asked}
        for number in range(ROUNDS + 1):
            for name, ask in asked.items():
                took = _per_request(ask)
                if number:
                    times[name].append(took)
        medians = {name: statistics.median(each) for name, each in times.items()}
        waits = [_first_stage_ms(_ended(client, _start(client, pipeline))) for _ in range(20)]
        rates = _in_turns(client, pipeline)
        late = asyncio.run(delays(url, key, "chain", SUBSCRIBERS))
    return {
        "ms_per_request": {name: [round(value * 1000, 3) for value in sorted(each)] for name, each in times.items()},
        "run ÷ authenticated (goal 2)": round(medians["run"] / medians["authenticated"], 2),
        "authenticated ÷ open (goal 3)": round(medians["authenticated"] / medians["open"], 2),
        "submit to first stage, ms (goal 50)": {"median": statistics.median(waits), "most": max(waits)},
        "runs per second, W5": {name: [round(rate) for rate in sorted(each)] for name, each in rates.items()},
        "W5 over HTTP ÷ the engine's own (goal 0.25)": round(
            statistics.median(rates["http"]) / statistics.median(rates["engine"]), 3
        ),
        f"stage end to {SUBSCRIBERS} WebSockets, ms (goal 50)": late,
    }


def _per_request(ask: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    for _ in range(REQUESTS):
        assert ask().status_code == 200
    return (time.perf_counter() - begun) / REQUESTS


def _chain() -> dict[str, Any]:
    stages = []
    for number in range(STAGES):
        data = f"{{{{upstream.s{number - 1}.result}}}}" if number else 1
        config = {"data": {"n": data}, "jmespath_expression": "n"}
        stages.append({"id": f"s{number}", "component_type": "json_transform", "config": config})
    return {"name": "chain", "version": "1.0.0", "stages": stages}


def _start(client: httpx2.Client, pipeline: str) -> str:
    answer = client.post(f"/pipelines/{pipeline}/run", json={"input": {}})
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


def _ended(client: httpx2.Client, run_id: str) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = client.get(f"/runs/{run_id}").json()
        if found["status"] in _ENDED:
            assert found["status"] == "completed", found["error"]
            return found
        time.sleep(0.01)


def _first_stage_ms(run: dict[str, Any]) -> float:
    """From the record of the run to the start of its first stage, by the Studio's own clock."""
    begun = min(stage["started_at"] for stage in run["stages"].values())
    took = datetime.fromisoformat(begun) - datetime.fromisoformat(run["created_at"])
    return round(took.total_seconds() * 1000, 1)


def _in_turns(client: httpx2.Client, pipeline: str) -> dict[str, list[float]]:
    """W5 in runs per second, over HTTP and of the engine by itself, in turns; the first two rounds are not counted."""
    own = next(each for each in workloads() if each.name == "W5")
    rates: dict[str, list[float]] = {"http": [], "engine": []}
    server = Server(["ours-ray"])
    try:
        for number in range(-2, ROUNDS):
            over_http, seconds = _together(client, pipeline), server.run("ours-ray", own)
            assert seconds is not None
            if number >= 0:
                rates["http"].append(over_http)
                rates["engine"].append(own.runs / seconds)
    finally:
        server.close()
    return rates


def _together(client: httpx2.Client, pipeline: str) -> float:
    """Runs per second, from the first request to the last run's end."""
    path, body = f"{client.base_url.path}pipelines/{pipeline}/run", json.dumps({"input": {}}).encode()
    begun = time.perf_counter()
    answers = asyncio.run(send_all(client.base_url.netloc, path, client.headers["Authorization"], [body] * RUNS))
    while client.get("/runs", params={"status": ["queued", "running"], "limit": 1}).json()["items"]:
        time.sleep(0.01)
    took = time.perf_counter() - begun
    page = client.get("/runs", params={"status": "completed", "limit": RUNS}).json()["items"]
    assert {each["id"] for each in page} == {json.loads(answer)["id"] for answer in answers}
    return RUNS / took


if __name__ == "__main__":
    main()
