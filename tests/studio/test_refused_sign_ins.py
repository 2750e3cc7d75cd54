"""Sign-ins that were refused: they stand in the audit log of the org whose they were, and flood no log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from flowmason.studio import schema
from flowmason.studio.identity import passwords
from flowmason.studio.identity.permissions import Role
from flowmason.studio.identity.refusals import EACH, Refusals
from flowmason.studio.scope import StudioStore
from studio.kit import OTHER, Studio, settings_in, studio_in

PASSWORD, WRONG = "correct horse battery", "hunter2 is not it"
EMAIL = f"{Role.VIEWER}@acme.example"
AUDIT = "/api/v1/auth/audit-log"
ENDS_S = 60.0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Studio]:
    """A Studio whose viewer has a password; on PostgreSQL behind the second wall."""
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path))
    settings = msgspec.structs.replace(settings_in(tmp_path), sign_ins_per_minute=1000)
    if request.param == "postgres":
        settings = msgspec.structs.replace(settings, database_url=request.getfixturevalue("postgres_url"))
    with studio_in(tmp_path, settings) as studio:
        # The clock stands: a lock of a second is not over by the next attempt, however slow the machine is.
        studio.services.now = partial(int, studio.services.now())
        users = schema.users.c
        _change(studio, sa.update(schema.users).where(users.email == EMAIL), password_hash=_hashed())
        yield studio


def _hashed() -> str:
    return passwords.hash_password(PASSWORD)


def _change(studio: Studio, statement: Any, **values: Any) -> None:
    store = StudioStore.open(studio.services.settings.database_url)
    with store.system() as system:
        system.execute(statement.values(**values))
    store.close()


def _login(studio: Studio, password: str = PASSWORD, email: str = EMAIL) -> Any:
    return studio.client.post("/api/v1/auth/login", json={"email": email, "password": password})


def _told(studio: Studio, headers: dict[str, str], action: str, until: Callable[[list[Any]], bool]) -> list[Any]:
    """The entries of an action, the newest first, once they are as is waited for; they are written after the answer."""
    ends = time.monotonic() + ENDS_S
    while True:
        found: list[Any] = studio.client.get(AUDIT, params={"action": action}, headers=headers).json()["items"]
        if until(found) or time.monotonic() > ends:
            return found
        time.sleep(0.02)


def _whole(studio: Studio, headers: dict[str, str]) -> bool:
    return bool(studio.client.get(f"{AUDIT}/verify", headers=headers).json()["whole"])


def test_wrong_passwords_and_locked_attempts_stand_in_every_org_of_the_user_and_no_password_does(
    studio: Studio,
) -> None:
    store = StudioStore.open(studio.services.settings.database_url)
    with store.scope(OTHER) as scope:
        user = scope.system.execute(sa.select(schema.users).where(schema.users.c.email == EMAIL)).mappings().one()
        user_id = user["user_id"]
        scope.add(schema.members, member_id="mem_second", user_id=user_id, role="viewer", created_at=1_700_000_000_001)
    store.close()
    assert [_login(studio, f"{WRONG} {n}").status_code for n in range(6)] == [401] * 5 + [429]
    for headers in (studio.headers(), studio.other_headers()):
        log = _told(studio, headers, "user.login_failed", lambda found: len(found) == EACH.burst)
        assert {each["resource_id"] for each in log} == {user_id} and {each["actor"] for each in log} == {"system"}
        assert {each["details"]["reason"] for each in log} == {"wrong password"}
        assert log[0]["details"]["address"] == "testclient"
        assert WRONG not in str(studio.client.get(AUDIT, headers=headers).json())
        assert _whole(studio, headers)


def test_whoever_keeps_guessing_does_not_flood_the_log_of_an_org_and_is_counted(studio: Studio) -> None:
    clock = [1000.0]
    studio.services.refusals = Refusals(studio.services.store, studio.services.now, clock=lambda: clock[0])
    for n in range(30):
        _login(studio, f"{WRONG} {n}")
    log = _told(studio, studio.headers(), "user.login_failed", lambda found: len(found) == EACH.burst)
    assert len(log) == EACH.burst
    clock[0] += 60.0
    _login(studio, WRONG)
    log = _told(studio, studio.headers(), "user.login_failed", lambda found: len(found) == EACH.burst + 1)
    assert log[0]["details"] == {"reason": "too many failed attempts", "address": "testclient", "left_out": 25}
    assert "left_out" not in log[1]["details"]


def test_attempts_that_name_nobody_are_in_no_org_and_bounded_in_the_log(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    studio.services.refusals = Refusals(studio.services.store, studio.services.now, clock=lambda: 1000.0)
    with caplog.at_level(logging.WARNING, "flowmason.studio.signins"):
        for n in range(EACH.burst + 2):
            _login(studio, WRONG, email=f"s3cret-typed-as-address-{n}@example.org")
        studio.services.refusals.close()
    lines = [each.getMessage() for each in caplog.records if each.name == "flowmason.studio.signins"]
    assert len(lines) == EACH.burst and all("testclient" in each for each in lines)
    assert WRONG not in caplog.text and "s3cret" not in caplog.text
    for headers in (studio.headers(), studio.other_headers()):
        assert studio.client.get(AUDIT, params={"action": "user.login_failed"}, headers=headers).json()["items"] == []


def test_a_revoked_key_that_is_used_stands_in_the_log_of_its_org_alone(studio: Studio) -> None:
    made = studio.client.post("/api/v1/auth/api-keys", json={"name": "ci"}, headers=studio.headers()).json()
    key = {"X-API-Key": made["api_key"]}
    studio.client.delete(f"/api/v1/auth/api-keys/{made['key_id']}", headers=studio.headers())
    assert studio.client.get("/api/v1/runs", headers=key).status_code == 401
    assert studio.client.get("/api/v1/runs", headers={"X-API-Key": made["api_key"][:-1] + "x"}).status_code == 401
    log = _told(studio, studio.headers(), "api_key.refused", lambda found: len(found) == 1)
    assert [(each["resource_id"], each["details"]["reason"]) for each in log] == [(made["key_id"], "it was revoked")]
    assert made["api_key"] not in str(log) and _whole(studio, studio.headers())
    params = {"action": "api_key.refused"}
    assert studio.client.get(AUDIT, params=params, headers=studio.other_headers()).json()["items"] == []


def test_tokens_of_a_session_that_has_ended_stand_in_the_log(studio: Studio) -> None:
    pair = _login(studio).json()
    bearer = {"Authorization": f"Bearer {pair['access_token']}"}
    assert studio.client.post("/api/v1/auth/logout", headers=bearer).status_code == 204
    assert studio.client.get("/api/v1/auth/whoami", headers=bearer).status_code == 401
    refreshed = studio.client.post("/api/v1/auth/refresh", json={"refresh_token": pair["refresh_token"]})
    assert refreshed.status_code == 401
    log = _told(studio, studio.headers(), "session.refused", lambda found: len(found) == 2)
    assert len({each["resource_id"] for each in log}) == 1 and len(log) == 2
    assert pair["access_token"] not in str(log) and pair["refresh_token"] not in str(log)


def test_whoever_guesses_at_the_old_password_is_slowed_down_and_noted(studio: Studio) -> None:
    bearer = {"Authorization": f"Bearer {_login(studio).json()['access_token']}"}
    body = {"old": WRONG, "new": "another long password"}
    path = "/api/v1/auth/password/change"
    answers = [studio.client.post(path, json=body, headers=bearer).status_code for _ in range(6)]
    assert answers == [403] * 5 + [429]
    log = _told(studio, studio.headers(), "user.password_refused", lambda found: len(found) == EACH.burst)
    assert {each["details"]["reason"] for each in log} == {"wrong password"} and WRONG not in str(log)
