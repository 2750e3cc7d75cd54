"""What stands before every handler: hosts, origins, strict bodies, limits; and the headers of every answer."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason.limiter import Rate, decide
from flowmason_serve_apps.studio.guard import door
from flowmason_serve_apps.studio.guard.limiting import MemoryLimiter, RedisLimiter, SharedLimiter
from studio.kit import HOST, Studio, settings_in, studio_in

RUN = "/api/v1/run"


def post(studio: Studio, body: bytes, **headers: str) -> Any:
    more = {"Content-Type": "application/json", **studio.headers(), **headers}
    return studio.client.post(RUN, content=body, headers=more)


@pytest.mark.parametrize(
    "body",
    [
        b'{"pipeline": "x", "input": {"n": NaN}}',
        b'{"pipeline": "x", "input": {"n": 1e999}}',
        b'{"pipeline": "x", "pipeline": "y"}',
        b'{"pipeline": "\\ud800"}',
        b'{"pipeline": "x"',
        b'{"pipeline": "\xff"}',
        b"[" * 100_000,
        b'{"pipeline": "x", "input": ' + b'{"a":' * 70 + b"1" + b"}" * 71,
        b'{"pipeline": "x", "input": {"n": 123456789012345678901234567890}}',
    ],
)
def test_a_body_that_is_no_strict_json_is_refused_and_never_an_error_of_ours(studio: Studio, body: bytes) -> None:
    answer = post(studio, body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["faults"]


def test_other_media_and_large_bodies_are_refused(tmp_path: Path) -> None:
    small = msgspec.structs.replace(settings_in(tmp_path), max_body_bytes=1000)
    with studio_in(tmp_path, small) as studio:
        assert post(studio, b"a=1", **{"Content-Type": "application/x-www-form-urlencoded"}).status_code == 415
        assert post(studio, b'{"pipeline": "' + b"x" * 2000 + b'"}').status_code == 413

        def chunks() -> Iterator[bytes]:
            for _ in range(30):
                yield b" " * 100

        chunked = studio.client.post(RUN, content=chunks(), headers=studio.headers())
        assert chunked.status_code == 413


async def test_a_body_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "BODY_S", 0.1)
    with studio_in(tmp_path) as studio:
        headers = [(b"host", HOST.encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": RUN,
            "query_string": b"",
            "headers": headers,
            "app": studio.app,
        }
        begun = iter([{"type": "http.request", "body": b"{", "more_body": True}])
        said: list[Any] = []

        async def receive() -> Any:
            first = next(begun, None)
            return first if first is not None else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            said.append(message)

        await asyncio.wait_for(studio.app({**scope, "client": ("127.0.0.1", 1)}, receive, send), 60)
    assert said[0]["status"] == 408
    assert json.loads(said[1]["body"])["code"] == "REQUEST_TIMEOUT"


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key"])
def test_two_credentials_of_one_kind_are_refused(studio: Studio, name: str) -> None:
    key = studio.headers()["Authorization"]
    ours = key if name == "Authorization" else key.removeprefix("Bearer ")
    given = [(name, ours), (name, "Bearer fm_live_" + "0" * 48)]
    assert studio.client.get("/api/v1/runs", headers=given[:1]).status_code == 200
    for both in (given, given[::-1]):
        answer = studio.client.get("/api/v1/runs", headers=both)
        assert answer.status_code == 401 and "Two different credentials" in answer.text


def test_a_name_that_is_not_ours_is_not_answered_under(studio: Studio) -> None:
    evil = studio.client.get("/api/v1/runs", headers={**studio.headers(), "Host": "evil.example"})
    assert evil.status_code == 421 and evil.json()["code"] == "MISDIRECTED"
    assert studio.client.get("/health", headers={"Host": "localhost:8999"}).status_code == 200


def test_only_listed_origins_are_let_in(tmp_path: Path) -> None:
    origin = "https://app.example.org"
    known = msgspec.structs.replace(settings_in(tmp_path), cors_origins=(origin,))
    with studio_in(tmp_path, known) as studio:
        ask = {"Access-Control-Request-Method": "POST"}
        allowed = studio.client.options(RUN, headers={"Origin": origin, **ask})
        assert allowed.status_code == 204 and allowed.headers["Access-Control-Allow-Origin"] == origin
        for other in ("https://app.example.org.evil.example", "null", "http://app.example.org"):
            refused = studio.client.options(RUN, headers={"Origin": other, **ask})
            assert refused.status_code == 403 and "Access-Control-Allow-Origin" not in refused.headers
        answer = studio.client.get("/api/v1/runs", headers={**studio.headers(), "Origin": origin})
        assert answer.headers["Access-Control-Allow-Origin"] == origin and "Origin" in answer.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_every_answer_has_its_headers(studio: Studio) -> None:
    for path, status in (("/api/v1/runs", 200), ("/api/v1/nothing", 404), ("/docs", 200)):
        answer = studio.client.get(path, headers=studio.headers())
        assert answer.status_code == status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Request-ID"]


def test_errors_have_one_shape_wherever_they_come_from(studio: Studio) -> None:
    asked = [
        studio.client.get("/api/v1/nothing", headers=studio.headers()),
        studio.client.delete("/api/v1/run", headers=studio.headers()),
        studio.client.get("/api/v1/runs"),
        studio.client.get("/api/v1/runs?limit=0", headers=studio.headers()),
        studio.client.get("/api/v1/runs/nothing", headers=studio.headers()),
        post(studio, b"{"),
        studio.client.get("/health", headers={"Host": "evil"}),
    ]
    assert [each.status_code for each in asked] == [404, 405, 401, 422, 404, 422, 421]
    for answer in asked:
        assert answer.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail", "code", "instance"} <= set(answer.json())
        assert answer.json()["status"] == answer.status_code


def test_whoever_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    tight = msgspec.structs.replace(settings_in(tmp_path), requests_per_minute=50, sign_ins_per_minute=3)
    with studio_in(tmp_path, tight) as studio:
        answers = [studio.client.get("/api/v1/runs", headers=studio.headers()) for _ in range(7)]
        assert [each.status_code for each in answers[:5]] == [200] * 5
        assert answers[-1].status_code == 429 and int(answers[-1].headers["Retry-After"]) >= 1
        assert answers[-1].json()["code"] == "RATE_LIMITED"
        assert studio.client.get("/api/v1/runs", headers=studio.other_headers()).status_code == 200
        assert studio.client.get("/health").status_code == 200
        login = {"email": "no@example.org", "password": "x"}
        signs = [studio.client.post("/api/v1/auth/login", json=login).status_code for _ in range(4)]
        assert signs == [401, 401, 401, 429]


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
    count=st.integers(1, 50),
    burst=st.integers(1, 20),
)
def test_no_window_holds_more_than_the_burst_and_what_its_time_allows(
    steps: list[float], count: int, burst: int
) -> None:
    rate = Rate(count, 10.0, burst)
    now, kept = 0.0, None
    taken: list[float] = []
    for step in steps:
        now += step
        verdict, kept = decide(kept, now, rate)
        if verdict.allowed:
            taken.append(now)
        else:
            assert verdict.wait_s > 0
            assert decide(kept, now + verdict.wait_s + 1e-6, rate)[0].allowed
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - taken[first]) / rate.interval_s + 1e-6


@given(replicas=st.integers(1, 5), asked=st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_replicas_alone_never_allow_more_than_the_limit_together(replicas: int, asked: int) -> None:
    rate, part = Rate(60, 60.0, 20), Rate(60, 60.0, 20).shared(replicas)
    allowed = 0
    for _ in range(replicas):
        kept = None
        for _ in range(asked):
            verdict, kept = decide(kept, 0.0, part)
            allowed += verdict.allowed
    assert allowed <= rate.burst


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    yield f"redis://127.0.0.1:{port}", server
    server.kill()
    server.wait()


async def test_replicas_share_one_limit_in_redis_and_their_parts_of_it_without(
    redis_server: tuple[str, subprocess.Popen[bytes]],
) -> None:
    url, server = redis_server
    rate = Rate(1, 60.0, 10)
    replicas = [SharedLimiter(RedisLimiter(url), 2) for _ in range(2)]
    allowed = [(await replicas[n % 2].take("a", rate)).allowed for n in range(14)]
    assert sum(allowed) == 10 and allowed[:10] == [True] * 10
    refused = await replicas[0].take("a", rate)
    assert not refused.allowed and 0 < refused.wait_s <= 60
    server.kill()
    server.wait()
    with pytest.raises(Exception, match="cannot be counted"):
        await replicas[0].take("sign-in", rate, strict=True)
    alone = [(await replicas[n % 2].take("b", rate)).allowed for n in range(20)]
    assert sum(alone) == 10, "each of the two replicas allows its half"
    for each in replicas:
        await each.close()


async def test_sign_ins_are_closed_where_nobody_can_count_them(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = msgspec.structs.replace(settings_in(tmp_path), redis_url=f"redis://127.0.0.1:{port}")
    with studio_in(tmp_path, away) as studio:
        login = studio.client.post("/api/v1/auth/login", content=json.dumps({"email": "a@b.c", "password": "x"}))
        assert login.status_code == 503 and login.headers["Retry-After"]
        assert studio.client.get("/api/v1/runs", headers=studio.headers()).status_code == 200


async def test_a_limiter_in_memory_recovers_with_time() -> None:
    now = 0.0
    limiter = MemoryLimiter(lambda: now)
    rate = Rate(60, 60.0, 2)
    assert [(await limiter.take("a", rate)).allowed for _ in range(3)] == [True, True, False]
    now = 1.01
    assert (await limiter.take("a", rate)).allowed
