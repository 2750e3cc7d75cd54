"""What a model writes, over a real WebSocket: soon, whole and once, also for a reader that is cut off."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.client import connect

from flowmason.ids import RunId, StagePath
from flowmason.journal_sql import open_journal
from flowmason.report import Delta, LogLine
from flowmason.studio.identity.permissions import Role
from flowmason.values_fs import open_values
from flowmason_serve_apps.studio.services import Services
from studio.conducting import awaited, conducting, listening, made, parsed, sse, started
from studio.kit import Studio

WORDS = [f"word{number}" for number in range(60)]
MOCK = {"answers": {"tell": " ".join(WORDS), "wait": "and so on " * 15}, "delay_ms": 8}


def document() -> dict[str, Any]:
    """One stage that writes, and one after it, so that the run has not ended when all is written."""
    retry = {"max_retries": 1, "initial_delay_ms": 100, "max_delay_ms": 1000}
    first = {"id": "tell", "component_type": "generator", "config": {"prompt": "tell"}, "retry_config": retry}
    then = {"id": "wait", "component_type": "generator", "config": {"prompt": "wait"}, "depends_on": ["tell"]}
    return {"name": "teller", "version": "1.0.0", "stages": [first, then]}


class Reader:
    """Follows a run, and comes back with the last event and the last line that it saw."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.seq = self.side = self.cuts = 0
        self.deltas: list[tuple[str, int, int, str]] = []
        self.seqs: list[int] = []

    async def read(self, address: str, headers: dict[str, str], most: int | None) -> bool:
        """To the end (True), or, after `most` deltas, cut off without a goodbye."""
        begun = len(self.deltas)
        async with connect(address, additional_headers=headers) as client:
            asked = {"type": "subscribe", "run_id": self.run_id, "after": self.seq, "side_after": self.side}
            await client.send(json.dumps(asked))
            async for text in client:
                message = json.loads(text)
                if message["type"] == "event":
                    self.seq = message["seq"]
                    self.seqs.append(self.seq)
                elif message["type"] in ("delta", "log"):
                    self.side = message["number"]
                    if message["type"] == "delta":
                        self.deltas.append((message["path"], message["attempt"], message["n"], message["text"]))
                elif message["type"] == "end":
                    return True
                if most is not None and len(self.deltas) - begun >= most:
                    client.transport.abort()
                    self.cuts += 1
                    return False
        return False


def test_a_reader_that_is_cut_off_misses_no_token_and_sees_none_twice(studio: Studio) -> None:
    settings = studio.services.settings
    run = started(studio, made(studio, document())["id"])["id"]
    services = Services(settings, studio.services.store, open_values(settings.values_url))
    headers = studio.headers(Role.VIEWER)
    steady, other = Reader(run), Reader(run)

    async def follow(address: str) -> None:
        async def cut_off() -> None:
            while not await other.read(address, headers, 7):
                pass

        await asyncio.wait_for(asyncio.gather(steady.read(address, headers, None), cut_off()), 40)

    options = {"providers": {"default": "mock", "mock": {"extra": MOCK}}}
    with listening(services, "/api/v1/ws/runs") as address, conducting(settings, options):
        asyncio.run(follow(address))
    assert awaited(studio, run, {"completed", "failed"})["status"] == "completed"
    assert other.cuts > 3
    assert steady.seqs == other.seqs == list(range(1, steady.seq + 1))
    told = [each for each in other.deltas if each[0] == "tell"]
    assert told == [each for each in steady.deltas if each[0] == "tell"]
    assert "".join(text for *_, text in told) == " ".join(WORDS)
    assert len({each[:3] for each in other.deltas}) == len(other.deltas)


def test_a_reader_of_server_sent_events_that_comes_back_is_told_nothing_twice(studio: Studio) -> None:
    run = started(studio, made(studio, document())["id"])["id"]

    async def stored() -> None:
        journal = open_journal(studio.services.settings.database_url)
        lines = [LogLine(("wait",), 1, n, 5, "info", f"line {n}") for n in range(1, 4)]
        await journal.add_side(studio.org, RunId(run), lines[:2], [])
        await journal.add_side(studio.org, RunId(run), lines[2:], [])
        await journal.close()

    with conducting(studio.services.settings, {"providers": {"default": "mock", "mock": {}}}):
        done = awaited(studio, run, {"completed"})
    asyncio.run(stored())
    told = sse(studio, run)
    assert [each["data"]["message"] for each in told if each.get("event") == "log"] == ["line 1", "line 2", "line 3"]
    assert [int(each["id"]) for each in told if "event" not in each] == list(range(1, done["seq"] + 1))
    address = f"/api/v1/runs/{run}/stream"
    for number, last in enumerate(told[:-1]):
        place = last.get("place") or last["id"]
        answer = studio.client.get(address, headers={**studio.headers(), "Last-Event-ID": place})
        rest = parsed(answer.text)
        assert [each["data"] for each in rest] == [each["data"] for each in told[number + 1 :]][: len(rest)]
        # Nothing is left after the last line: who comes back then is told not to.
        assert answer.status_code == (204 if number == len(told) - 2 else 200), (place, answer.text)
        assert len(rest) == (0 if answer.status_code == 204 else len(told) - number - 1)


def test_an_event_after_lines_beside_it_says_where_its_reader_is_among_both(studio: Studio) -> None:
    run = started(studio, made(studio, document())["id"])["id"]
    with conducting(studio.services.settings, {"providers": {"default": "mock", "mock": {}}}):
        awaited(studio, run, {"completed"})
    events = sse(studio, f"{run}?side_after=7")
    assert [each["place"] for each in events[:-1]] == [f"{each['id']}.7" for each in events[:-1]]
    assert not any("place" in each for each in sse(studio, f"{run}?side=false"))


def test_another_attempt_is_marked_for_a_reader_that_was_away_when_the_first_one_ended(studio: Studio) -> None:
    run = started(studio, made(studio, document())["id"])["id"]

    async def stored() -> None:
        journal = open_journal(studio.services.settings.database_url)
        path: StagePath = ("tell",)
        pieces = [Delta(path, 1, 1, "The s"), Delta(path, 2, 1, "The ", reset=True), Delta(path, 2, 2, "sea")]
        await journal.add_side(studio.org, run, [], pieces)
        await journal.close()

    asyncio.run(stored())
    with studio.client.websocket_connect("/api/v1/ws/runs", headers=studio.headers()) as session:
        for side_after in (0, 1, 2):
            session.send_text(json.dumps({"type": "subscribe", "run_id": run, "side_after": side_after}))
            heard: list[dict[str, Any]] = []
            while not heard or heard[-1].get("text") != "sea":
                heard.append(json.loads(session.receive_text()))
            told = [(each["type"], each["attempt"]) for each in heard if each["type"] in ("delta", "reset")]
            assert told == [("delta", 1), ("reset", 2), ("delta", 2), ("delta", 2)][side_after and side_after * 2 - 1 :]
            session.send_text(json.dumps({"type": "unsubscribe", "run_id": run}))
            while json.loads(session.receive_text())["type"] != "unsubscribed":
                pass
