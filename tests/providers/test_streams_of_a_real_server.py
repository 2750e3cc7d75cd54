"""At a real llama.cpp server: a broken answer is gone on with; who cancels ends the generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code
from flowmason.providers import MOST_RESUMPTIONS
from providers.llama_process import cutting, served, slot
from running.kit import Engine, pipe, stage
from running.spending import calls_of

KEY = "key-of-the-test-server"
COUNT = "Count from one to ten in words."
Make = Callable[..., Engine]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with served(KEY) as address:
        yield address


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setenv("LOCAL_KEY", KEY)
    made: list[Engine] = []

    def engine(address: str, **extra: Any) -> Engine:
        found = Engine(tmp_path)
        local = {"base_url": f"{address}/v1", "model": "m", "api_key_env": "LOCAL_KEY", "temperature": 0.0}
        found.settings.options["providers"] = {"default": "local", "local": {**local, "extra": extra}}
        made.append(found)
        return found

    yield engine
    for each in made:
        await each.executor.close()


def ask(prompt: str, **own: Any) -> dict[str, Any]:
    return stage("a", "ask", prompt=prompt, llm_settings={"max_tokens": own.pop("max_tokens", 24)}, **own)


async def test_a_broken_answer_is_gone_on_with_from_where_it_was(server: str, make: Make) -> None:
    whole = await make(server).run(pipe(ask(COUNT)))
    async with cutting(server, 3000) as wire:
        broken = await make(wire, continues=True).run(pipe(ask(COUNT)))
    assert broken.status == whole.status == "completed", broken.error
    assert [(entry.call.end, entry.call.resumed) for entry in calls_of(broken)] == [
        ("aborted", False), ("answered", True),
    ]  # fmt: skip
    text = broken.stages["a"].output["text"]
    assert text == "".join(delta.text for report in broken.reports for delta in report.deltas)
    assert text == whole.stages["a"].output["text"]
    assert broken.stages["a"].attempts == 1 and MOST_RESUMPTIONS >= 1


async def _generating(server: str) -> None:
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(slot, server, KEY))[1] < 5:
            await asyncio.sleep(0.05)


async def _stops(server: str, since: float) -> None:
    """The server's slot is idle soon, and its count of tokens stands still."""
    while (await asyncio.to_thread(slot, server, KEY))[0]:
        assert time.monotonic() - since < 15.0, "the server still generates"
        await asyncio.sleep(0.05)
    at = await asyncio.to_thread(slot, server, KEY)
    await asyncio.sleep(0.2)
    assert await asyncio.to_thread(slot, server, KEY) == at


async def test_a_cancelled_run_ends_the_generation_at_the_engine(server: str, make: Make) -> None:
    running = await make(server).begin(pipe(ask("Write a very long story about the sea.", max_tokens=1900)))
    await _generating(server)
    since = time.monotonic()
    await running.command("cancel", reason="enough")
    await _stops(server, since)
    found = await running.end()
    assert found.status == "cancelled"
    (entry,) = calls_of(found)
    assert (entry.call.end, entry.call.estimated) == ("aborted", True) and entry.call.output_tokens > 0


async def test_a_stages_timeout_ends_the_generation_at_the_engine(server: str, make: Make) -> None:
    own = {"timeout_ms": 1500, "retry_config": {"max_retries": 0}, "max_tokens": 1900}
    found = await make(server).run(pipe(ask("Write a very long story about the moon.", **own)))
    await _stops(server, time.monotonic())
    assert found.error is not None and found.error.code == Code.TIMEOUT
    assert [entry.call.end for entry in calls_of(found)] == ["aborted"]
