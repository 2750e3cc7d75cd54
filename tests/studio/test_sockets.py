"""The WebSocket of runs: every event once, in order, from where the reader was; commands by those who may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import WebSocket
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect

from flowmason.studio import schema
from flowmason.studio.identity.permissions import Role
from flowmason.values_fs import open_values
from flowmason_serve_apps.studio import live, run_socket, wire
from flowmason_serve_apps.studio.live import Live
from flowmason_serve_apps.studio.routes import sockets
from flowmason_serve_apps.studio.run_socket import RunSocket
from flowmason_serve_apps.studio.services import Services
from studio.conducting import awaited, conducting, ended, hello, listening, made, sse, started
from studio.kit import HOST, Studio

ADDRESS = "/api/v1/ws/runs"


class Client:
    """A connected client, in a test."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def say(self, type: str, **fields: Any) -> None:
        self.session.send_text(json.dumps({"type": type, **fields}))

    def hear(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.session.receive_text())
        return found

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.say(kind, **fields)
        return self.hear()

    def until(self, kind: str) -> list[dict[str, Any]]:
        """Everything up to a message of that type."""
        found = [self.hear()]
        while found[-1]["type"] != kind:
            found.append(self.hear())
        return found


@contextmanager
def connected(studio: Studio, role: Role = Role.DEVELOPER, query: str = "", **more: Any) -> Iterator[Client]:
    """A client that a role's key let in."""
    headers = more.pop("headers", None) or studio.headers(role)
    with studio.client.websocket_connect(ADDRESS + query, headers=headers, **more) as session:
        client = Client(session)
        assert client.hear()["type"] == "connected"
        yield client


def slow_pipeline(stages: int = 6) -> dict[str, Any]:
    """Stages one after the other."""
    chain = hello()
    for number in range(stages):
        before = chain["stages"][-1]["id"]
        config = {"data": f"{{{{upstream.{before}.result}}}}", "jmespath_expression": "@"}
        chain["stages"].append({"id": f"s{number}", "component_type": "json_transform", "config": config})
    return chain


def done(studio: Studio) -> dict[str, Any]:
    """A run that has ended."""
    run = started(studio, made(studio, hello())["id"])
    with conducting(studio.services.settings):
        return ended(studio, run["id"])


def test_the_same_events_as_the_stream_of_http(studio: Studio) -> None:
    run = done(studio)
    with connected(studio, Role.VIEWER) as client:
        first = client.ask("subscribe", run_id=run["id"], id="one")
        assert first == {
            "type": "subscribed", "id": "one", "run_id": run["id"], "after": 0, "seq": run["seq"],
            "status": "completed",
        }  # fmt: skip
        *heard, end = client.until("end")
        events = [message for message in heard if message["type"] == "event"]
        assert [message["seq"] for message in events] == list(range(1, run["seq"] + 1))
        assert [each["data"] for each in events] == [e["data"] for e in sse(studio, run["id"]) if "id" in e]
        assert end == {"type": "end", "run_id": run["id"], "seq": run["seq"], "status": "completed"}
        client.ask("subscribe", run_id=run["id"], after=2, side=False)
        assert [message["seq"] for message in client.until("end")[:-1]] == list(range(3, run["seq"] + 1))
        assert client.ask("ping", id="p") == {"type": "pong", "id": "p"}
    assert studio.services.live.followed == 0 and not studio.services.sockets


def test_what_is_no_message_is_answered_and_the_socket_lives(studio: Studio) -> None:
    with connected(studio) as client:
        for text in (
            "x", "[]", "{}", '{"type":"fly"}', '{"type":"ping","extra":1}', '{"type":"ping","id":NaN}',
            '{"type":"ping","type":"ping"}', '{"type":"subscribe"}', '{"type":"subscribe","run_id":"r","after":-1}',
            "[" * 4000, '{"type":"step","run_id":"r","kind":"sideways"}',
        ):  # fmt: skip
            client.session.send_text(text)
            assert client.hear()["code"] == "USAGE", text
        assert client.ask("subscribe", run_id="run_nobody")["code"] == "NOT_FOUND"
        assert client.ask("unsubscribe", run_id="run_nobody")["code"] == "NOT_FOUND"
        assert client.ask("ping")["type"] == "pong"


def test_another_orgs_run_is_not_there(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])
    with connected(studio, headers=studio.other_headers()) as client:
        for kind in ("subscribe", "pause", "stop", "step", "continue", "resume"):
            answer = client.ask(kind, run_id=run["id"])
            assert (answer["type"], answer["code"]) == ("error", "NOT_FOUND"), kind


def test_a_viewer_follows_and_steers_nothing(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])
    with connected(studio, Role.VIEWER) as client:
        for kind in ("pause", "stop", "step", "continue", "resume"):
            assert client.ask(kind, run_id=run["id"])["code"] == "FORBIDDEN", kind
        assert client.ask("subscribe", run_id=run["id"], side=False)["type"] == "subscribed"
        assert client.hear()["seq"] == 1
        assert client.ask("subscribe", run_id=run["id"])["code"] == "CONFLICT"
        assert client.ask("unsubscribe", run_id=run["id"])["type"] == "unsubscribed"


def test_a_run_is_debugged_over_the_socket(studio: Studio) -> None:
    body = {"pipeline": slow_pipeline(2), "breakpoints": [{"stage": "s0"}]}
    run = studio.client.post("/api/v1/debug/run", json=body, headers=studio.headers()).json()["id"]
    with connected(studio) as client, conducting(studio.services.settings):
        client.ask("subscribe", run_id=run)
        kinds: list[str] = []

        def until(kind: str) -> None:
            while not kinds or kinds[-1] != kind:
                message = client.hear()
                kinds.append(message["data"]["kind"] if message["type"] == "event" else message["type"])

        until("run.paused")
        client.say("step", run_id=run, kind="over")
        until("run.resumed")
        until("run.paused")
        client.say("continue", run_id=run)
        until("end")
        assert kinds.count("accepted") == 2 and kinds.count("breakpoint.hit") == 2
        assert client.ask("continue", run_id=run)["code"] == "CONFLICT"
        assert client.ask("stop", run_id=run)["code"] == "CONFLICT"


def test_older_names(studio: Studio) -> None:
    body = {"pipeline": hello(), "breakpoints": [{"stage": "greet"}]}
    run = studio.client.post("/api/v1/debug/run", json=body, headers=studio.headers()).json()["id"]
    with connected(studio, query="?compat=1") as client, conducting(studio.services.settings):
        client.ask("subscribe", run_id=run)
        stopped = client.until("execution_paused")
        assert [each["type"] for each in stopped][-2:] == ["breakpoint_hit", "execution_paused"]
        assert stopped[-2]["payload"]["stage_id"] == "greet"
        client.say("resume", run_id=run)
        rest = client.until("end")
    names = [each["type"] for each in rest]
    assert "execution_resumed" in names and names.index("stage_completed") < names.index("run_completed")
    stage = next(each for each in rest if each["type"] == "stage_completed")
    assert stage["payload"]["stage_id"] == "greet" and stage["payload"]["output"]["result"] == {"text": "hello world"}
    assert stage["seq"] and stage["timestamp"]


def test_tickets_let_in_once(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])

    def ticket() -> str:
        answer = studio.client.post("/api/v1/ws/tickets", headers=studio.headers(Role.VIEWER))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["ticket"])

    first = ticket()
    with studio.client.websocket_connect(f"{ADDRESS}?ticket={first}") as session:
        client = Client(session)
        client.hear()
        assert client.ask("pause", run_id=run["id"])["code"] == "FORBIDDEN"
    assert refused(studio, query=f"?ticket={first}") == 401
    second = ticket()
    with studio.client.websocket_connect(ADDRESS, ["flowmason", f"flowmason.ticket.{second}"]) as session:
        assert session.accepted_subprotocol == "flowmason"
    assert refused(studio, query=f"?ticket={ticket()}", headers=studio.headers()) == 401


def refused(studio: Studio, query: str = "", headers: dict[str, str] | None = None) -> int:
    """The status by which a handshake is denied."""
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        studio.client.websocket_connect(ADDRESS + query, headers=headers or {}),
    ):
        pass
    assert denied.value.headers["content-type"] == "application/problem+json"
    return int(denied.value.status_code)


def test_nobody_and_pages_of_others_are_not_let_in(studio: Studio) -> None:
    assert refused(studio) == 401
    assert refused(studio, headers={"Authorization": "Bearer fm_live_wrong"}) == 401
    assert refused(studio, query="?ticket=fm_ticket_wrong") == 401
    assert refused(studio, headers={**studio.headers(), "Origin": "https://evil.example"}) == 403
    own = {**studio.headers(), "Origin": studio.services.settings.public_url}
    with studio.client.websocket_connect(ADDRESS, headers=own) as session:
        assert session.receive_json()["type"] == "connected"


def test_sockets_of_one_user_are_bounded(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MOST_SOCKETS", 1)
    with connected(studio):
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            studio.client.websocket_connect(ADDRESS, headers=studio.headers(Role.DEVELOPER)),
        ):
            pass
        answer: Any = denied.value
        assert answer.status_code == 429 and answer.headers["Retry-After"] == "5"
        with connected(studio, Role.VIEWER):
            pass
    with connected(studio):
        pass


def closing(client: Client, act: Callable[[], None]) -> int:
    """The code by which the server closes after that."""
    with pytest.raises(WebSocketDisconnect) as closed:
        act()
        while True:
            client.session.receive_text()
    return int(closed.value.code)


def pings(client: Client) -> None:
    """More messages than a client may send at once."""
    for _ in range(80):
        client.say("ping")


def test_bounds_of_what_a_client_may_send(studio: Studio) -> None:
    with connected(studio) as client:
        assert closing(client, lambda: client.session.send_text('"' + "x" * 5000 + '"')) == 1009
    with connected(studio) as client:
        assert closing(client, lambda: client.session.send_bytes(b"{}")) == 1003
    with connected(studio) as client:
        assert closing(client, lambda: pings(client)) == 4429


def test_bounds_of_what_a_socket_follows(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_socket, "MOST_RUNS", 2)
    pipeline = made(studio, hello())["id"]
    runs = [started(studio, pipeline)["id"] for _ in range(3)]
    with connected(studio) as client:
        for run in runs[:2]:
            client.say("subscribe", run_id=run, after=1)
            assert client.hear()["type"] == "subscribed"
        assert client.ask("subscribe", run_id=runs[2])["code"] == "RESOURCE_EXHAUSTED"
        assert client.ask("unsubscribe", run_id=runs[0])["type"] == "unsubscribed"
        assert client.ask("subscribe", run_id=runs[2], after=1)["type"] == "subscribed"


def test_a_revoked_key_loses_its_socket(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_socket, "RENEW_S", 0.1)
    with connected(studio) as client:

        def revoke() -> None:
            caller = studio.client.portal.call(  # type: ignore[union-attr]
                studio.services.authenticator.caller, studio.keys[Role.DEVELOPER], HOST
            )
            with studio.services.store.scope(studio.org) as scope:
                mine: sa.ColumnElement[bool] = schema.api_keys.c.key_id == caller.key_id
                scope.change(schema.api_keys, mine, revoked_at=studio.services.now())

        assert closing(client, revoke) == 4401


async def test_a_reader_that_takes_nothing_is_let_go(studio: Studio) -> None:
    """Its socket holds one message, whatever comes."""
    caller = await studio.services.authenticator.caller(studio.keys[Role.VIEWER], HOST)
    sent: list[Any] = []
    stuck = asyncio.Event()

    async def receive() -> Any:
        return {"type": "websocket.connect"} if not sent else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "websocket.send":
            await stuck.wait()

    websocket = WebSocket({"type": "websocket", "headers": [], "path": ADDRESS}, receive, send)
    await websocket.accept()
    await asyncio.wait_for(RunSocket(websocket, studio.services, caller, slow_s=0.1).serve(), 60)
    assert sent[-1]["type"] == "websocket.close" and sent[-1]["code"] == 4408


def test_two_readers_of_which_one_is_cut_off_see_every_event_once(studio: Studio) -> None:
    """Over real sockets; the one that was cut off comes back with the last seq that it saw."""
    settings = studio.services.settings
    run = started(studio, made(studio, slow_pipeline(20))["id"])["id"]
    services = Services(settings, studio.services.store, open_values(settings.values_url))
    headers = studio.headers(Role.VIEWER)

    async def read(address: str, after: int, most: int | None) -> tuple[list[int], bool]:
        """The seqs that a reader hears, and whether it heard the end."""
        seqs: list[int] = []
        async with connect(address, additional_headers=headers) as client:
            await client.send(json.dumps({"type": "subscribe", "run_id": run, "after": after}))
            async for text in client:
                message = json.loads(text)
                if message["type"] == "event":
                    seqs.append(message["seq"])
                if message["type"] == "end":
                    return seqs, True
                if most is not None and len(seqs) >= most:
                    client.transport.abort()  # cut off, without a goodbye
                    return seqs, False
        return seqs, False

    async def cut_off(address: str) -> list[int]:
        seqs: list[int] = []
        over, tries = False, 0
        while not over:
            tries += 1
            more, over = await read(address, seqs[-1] if seqs else 0, 4)
            seqs += more
        assert tries > 2
        return seqs

    async def both(address: str) -> tuple[list[int], list[int]]:
        steady, other = await asyncio.wait_for(asyncio.gather(read(address, 0, None), cut_off(address)), 40)
        return steady[0], other

    with listening(services, ADDRESS) as address, conducting(settings):
        steady, other = asyncio.run(both(address))
    last = awaited(studio, run, {"completed"})["seq"]
    assert steady == other == list(range(1, last + 1))


def test_a_hundred_followers_of_one_run_are_one_reader(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    run = started(studio, made(studio, slow_pipeline(10))["id"])["id"]
    asked = 0
    page = wire.events_page

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return await page(*args, **kwargs)

    monkeypatch.setattr(live, "events_page", counted)

    async def follow(following: Live) -> list[int]:
        return [item.number async for item in following.follow(studio.org, run) if item is not None]

    async def all_of_them() -> list[list[int]]:
        following = studio.services.live
        return await asyncio.gather(*(follow(following) for _ in range(100)))

    with conducting(studio.services.settings):
        heard = studio.client.portal.call(all_of_them)  # type: ignore[union-attr]
    last = awaited(studio, run, {"completed"})["seq"]
    assert heard == [list(range(1, last + 1))] * 100
    assert asked <= 2 * last
