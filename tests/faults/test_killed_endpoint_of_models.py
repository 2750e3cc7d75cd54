"""The endpoint of served models is killed amid a call: what it held of its org's day is settled by who buries it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from flowmason.ids import LOCAL_ORG
from flowmason.journal_sql import open_journal
from flowmason.ledger import day_of
from flowmason.slices import Day
from flowmason.studio.identity import orgs
from flowmason.studio.identity.callers import by_api_key
from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import StudioStore
from flowmason.usage import Limit
from flowmason_actors.processes import free_port
from studio.conducting import conducting
from studio.kit import ACME, people_in, settings_in

pytestmark = pytest.mark.slow
SERVER = """
import asyncio, sys
import uvicorn
from flowmason_serve_apps.llm.app import make_gateway
from flowmason_serve_apps.llm.engines import Card

class Endless:
    async def answer(self, body):
        yield {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Well"}}]}
        await asyncio.Event().wait()

    async def cards(self):
        return {"m": await self.card("m")}

    async def card(self, model):
        return Card(model, "llamacpp")

uvicorn.run(make_gateway(Endless()), port=int(sys.argv[1]), log_level="warning")
"""


async def _day(url: str) -> Day:
    journal = open_journal(url)
    try:
        found = await journal.budget_day(ACME, day_of(int(time.time() * 1000)))
    finally:
        await journal.close()
    assert found is not None
    return found


def test_what_a_killed_endpoint_held_is_settled_as_lost_once_it_is_known_dead(tmp_path: Path) -> None:
    settings, port = settings_in(tmp_path), free_port()
    store = StudioStore.open(settings.database_url)
    keys = people_in(store, ACME, "acme")
    now = int(time.time() * 1000)
    orgs.set_budget(store, by_api_key(store, keys[Role.OWNER], now)[0], Limit(None, 10_000), now)
    store.close()
    environ = {**os.environ, "DATABASE_URL": settings.database_url, "FLOWMASON_VALUES_URL": settings.values_url}
    endpoint = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], env=environ, cwd=tmp_path)
    try:
        _asked(port, keys[Role.DEVELOPER], endpoint)
        held = asyncio.run(_day(settings.database_url)).reserved
        assert held.tokens > 100
        endpoint.kill()
        endpoint.wait(30)
    finally:
        endpoint.kill()
    with conducting(settings):
        deadline = time.monotonic() + 60
        while (stands := asyncio.run(_day(settings.database_url))).reserved:
            assert time.monotonic() < deadline, stands
            time.sleep(0.2)
    assert (stands.spent.tokens, stands.free.tokens) == (held.tokens, 0)

    async def usage() -> Any:
        journal = open_journal(settings.database_url)
        today = day_of(int(time.time() * 1000))
        found = await journal.usage(ACME, day_of(now), today), await journal.usage(LOCAL_ORG, day_of(now), today)
        await journal.close()
        return found

    (lost,), others = asyncio.run(usage())
    assert (lost.calls, lost.estimated, lost.input_tokens) == (1, 1, held.tokens) and others == []


def _asked(port: int, key: str, endpoint: subprocess.Popen[bytes]) -> None:
    """Ask, and hang up nothing: the answer has begun and does not end."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100, "stream": True}
    deadline = time.monotonic() + 60
    while True:
        assert endpoint.poll() is None and time.monotonic() < deadline
        try:
            client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"})
            stream = client.stream("POST", "/v1/chat/completions", json=body, timeout=60)
            answer = stream.__enter__()
        except httpx2.TransportError:
            time.sleep(0.1)
            continue
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()
        assert "Well" in next(lines)
        _OPEN.append((client, stream, lines))
        return


_OPEN: list[Any] = []
"""Kept: a caller who leaves would end the call."""
