"""The time that a body may take, over a pause."""

from __future__ import annotations

import time

import pytest

from flowmason.assembly import hosting
from running.kit import Engine, Running, pipe, stage, touch


async def _paused_in_a_body(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, under_way_s: int, paused_s: int
) -> Running:
    """A body of 60 s: so many of them are over when it is paused in its middle, and so long it stays so."""
    ahead = 0
    monkeypatch.setattr(hosting, "now_ms", lambda: int(time.time() * 1000) + ahead * 1000)
    guard = stage("guard", "trycatch", try_stages=["a", "b"], catch_stages=[], timeout_ms=60_000)
    running = await engine.begin(pipe(guard, touch("a", seconds=0.3), touch("b", seconds=0.3, depends_on=["a"])))
    await running.began("a")
    ahead += under_way_s
    await running.command("pause")
    assert (await running.end()).status == "paused"
    ahead += paused_s
    return running


async def test_the_clock_of_a_body_stands_while_the_run_is_paused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await _paused_in_a_body(engine, monkeypatch, 0, 3600)
    assert (await running.resume()).status == "completed"


async def test_the_clock_of_a_body_goes_on_from_where_it_stood(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    running = await _paused_in_a_body(engine, monkeypatch, 61, 0)
    result = await running.resume()
    assert result.stages["guard"].status == "failed"
    assert result.error is not None and result.error.code == "TIMEOUT"
    assert (await running.resume()).status == "completed", "taken up after its failure it has all its time"
