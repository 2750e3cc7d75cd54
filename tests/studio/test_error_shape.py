"""Errors of every route have one shape, quote no credential, and are not the database's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from flowmason.limiter import Rate
from flowmason.studio.identity.permissions import Role
from flowmason_serve_apps.studio.guard.limiting import SharedLimiter
from studio.kit import HOST, Studio, settings_in, studio_in

DEPLOY = "/api/v1/registry/deploy"
ANY_TYPE = {DEPLOY, "/api/v1/blobs"}
SHAPE = {"type", "title", "status", "detail", "code", "instance"}


def is_problem(answer: Any) -> None:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert set(answer.json()) >= SHAPE and answer.json()["status"] == answer.status_code
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["X-Request-ID"]


def test_every_route_refuses_in_one_shape(studio: Studio) -> None:
    paths = studio.app.openapi()["paths"]
    refused = 0
    for template, operations in paths.items():
        path = template.replace("{", "").replace("}", "")
        for method in operations:
            answers = [studio.client.request(method, path, headers={"Host": "evil.example"})]
            answers.append(studio.client.request(method, path + "%00", headers=studio.headers()))
            if "requestBody" in operations[method] and path not in ANY_TYPE:
                odd = {**studio.headers(), "Content-Type": "text/plain"}
                answers.append(studio.client.request(method, path, content=b"x", headers=odd))
                assert answers[-1].status_code == 415, (method, path)
            assert [each.status_code for each in answers[:2]] == [421, 400], (method, path)
            for each in answers:
                is_problem(each)
            refused += len(answers)
        wrong = studio.client.request("PROPFIND", path, headers=studio.headers())
        assert wrong.status_code == 405, path
        is_problem(wrong)
    assert refused > 100


@pytest.mark.parametrize("path", ["/api/v1/pipelines/", "/api/v1/secrets/", "/health/", "/mcp/", "/api/v1/auth/login/"])
def test_an_address_with_a_slash_too_many_is_not_found_and_sends_nobody_elsewhere(studio: Studio, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = studio.client.request(method, path, headers=studio.headers(), follow_redirects=False)
        assert answer.status_code in (404, 415) and "Location" not in answer.headers, (method, answer.status_code)
        is_problem(answer)


def test_what_nobody_foresaw_is_answered_like_the_rest(studio: Studio) -> None:
    def fails() -> None:
        raise ZeroDivisionError(studio.keys[Role.OWNER])

    studio.app.add_api_route("/api/v1/fails", fails)
    answer = TestClient(studio.app, base_url=f"http://{HOST}").get("/api/v1/fails", headers=studio.headers())
    assert answer.status_code == 500 and answer.json()["code"] == "INTERNAL"
    is_problem(answer)
    assert studio.keys[Role.OWNER] not in answer.text


def test_no_error_quotes_a_credential(studio: Studio) -> None:
    key = studio.keys[Role.OWNER]
    answers = [
        studio.client.get(f"/api/v1/runs/{key}", headers=studio.headers()),
        studio.client.post("/api/v1/run", json={"pipeline": f"\n{key}"}, headers=studio.headers()),
        studio.client.post("/api/v1/run", json={"pipeline": "x", key: 1}, headers=studio.headers()),
        studio.client.post("/api/v1/run", content=b"x", headers={**studio.headers(), "Content-Type": key}),
    ]
    assert [each.status_code for each in answers] == [404, 404, 422, 415]
    assert not [each.text for each in answers if key in each.text]
    assert all("fm_live_***" in each.text for each in answers)


def test_uploads_have_a_bound_before_anybody_reads_them(tmp_path: Path) -> None:
    small = msgspec.structs.replace(settings_in(tmp_path), max_body_bytes=1000)
    with studio_in(tmp_path, small) as studio:
        large = studio.client.post(DEPLOY, files={"file": ("a.fmpkg", b"x" * 80_000)})
        assert large.status_code == 413, "also for somebody who has not signed in"
        is_problem(large)

        def chunks() -> Iterator[bytes]:
            for _ in range(80):
                yield b"x" * 1000

        form = {**studio.headers(), "Content-Type": "multipart/form-data; boundary=x"}
        assert studio.client.post(DEPLOY, content=chunks(), headers=form).status_code == 413
        told = studio.client.post(DEPLOY, files={"file": ("a.fmpkg", b"x" * 2000)}, headers=studio.headers())
        assert told.status_code == 422 and "a package may have" in told.text
        assert studio.client.post(DEPLOY, json={}, headers=studio.headers()).status_code == 422


NUL_BODIES = [
    ("/api/v1/run", b'{"pipeline": "a\\u0000b"}', "application/json", 422),
    ("/api/v1/run", b'{"pipeline": "x", "input": {"a\\u0000": 1}}', "application/json", 422),
    ("/api/v1/auth/login", b'{"email": "a\\u0000@b.cc", "password": "correct horse battery"}', "application/json", 422),
    ("/api/v1/pipelines", b'name: "a\\0b"\n', "application/yaml", 422),
    ("/api/v1/run", b'{"pipeline": "a\\\\u0000b"}', "application/json", 404),
]


@pytest.mark.parametrize(("path", "body", "media", "status"), NUL_BODIES)
def test_no_text_has_the_character_nul(studio: Studio, path: str, body: bytes, media: str, status: int) -> None:
    answer = studio.client.post(path, content=body, headers={**studio.headers(), "Content-Type": media})
    assert answer.status_code == status, answer.text
    assert ("U+0000" in answer.text) == (status == 422)


@pytest.mark.postgres
def test_on_postgres_too_and_nothing_tells_where_the_database_is(postgres_url: str, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(settings_in(tmp_path), database_url=postgres_url)
    with studio_in(tmp_path, settings) as studio:
        headers = studio.headers()
        for path in ("runs/a%00b", "pipelines/a%00b", "runs?pipeline=a%00b", "pipelines?category=%00"):
            answer = studio.client.get(f"/api/v1/{path}", headers=headers)
            assert answer.status_code == 400 and "postgresql" not in answer.text, answer.text
        for path, body, media, status in NUL_BODIES:
            answer = studio.client.post(path, content=body, headers={**headers, "Content-Type": media})
            assert answer.status_code == status, answer.text


def test_a_database_that_refuses_is_not_described(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowmason.errors import Code, UsageError

    def refuses() -> None:
        raise UsageError("postgresql://somebody@db.internal refused", code=Code.STORAGE)

    studio.app.add_api_route("/api/v1/refuses", refuses)
    answer = studio.client.get("/api/v1/refuses", headers=studio.headers())
    assert answer.status_code == 503 and "db.internal" not in json.dumps(answer.json())
    is_problem(answer)


@pytest.mark.parametrize(("replicas", "burst"), [(5, 3), (10, 1), (4, 5), (2, 20)])
async def test_replicas_that_count_alone_keep_the_rate_even_where_they_are_many(replicas: int, burst: int) -> None:
    now, allowed = 0.0, 0
    parts = [SharedLimiter(None, replicas, clock=lambda: now) for _ in range(replicas)]
    for step in range(601):
        now = step / 10
        for each in parts:
            while (await each.take("a", Rate(60, 60.0, burst))).allowed:
                allowed += 1
    assert allowed <= 60 + max(burst, replicas)
