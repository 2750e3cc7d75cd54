"""Secrets of an org: they go in, are told of by name, and never come out; what is kept opens in its own place only."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flowmason.errors import UsageError
from flowmason.studio import schema, secrets
from flowmason.studio.identity import audit
from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import Scope
from flowmason.studio.sealing import Sealer, key_id, key_of
from studio.kit import Studio, studio_in

VALUE = "sk-very-secret-indeed"
_table = schema.secrets


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> bytes:
    key = os.urandom(32)
    monkeypatch.setenv("FLOWMASON_MASTER_KEY", base64.b64encode(key).decode())
    return key


def put(studio: Studio, name: str, value: Any = VALUE, role: Role = Role.ADMIN) -> Any:
    return studio.client.put(f"/api/v1/secrets/{name}", json={"value": value}, headers=studio.headers(role))


def listed(studio: Studio, **query: Any) -> Any:
    answer = studio.client.get("/api/v1/secrets", params=query, headers=studio.headers(Role.DEVELOPER))
    assert answer.status_code == 200, answer.text
    return answer.json()


def rows(studio: Studio) -> list[Any]:
    with studio.services.store.system() as system:
        return list(system.execute(sa.select(_table).order_by(_table.c.version)).mappings())


def test_a_secret_is_set_and_told_of_but_never_shown(studio: Studio, tmp_path: Path) -> None:
    first, second = put(studio, "API-Key"), put(studio, "api_key", VALUE + "2")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json()["name"] == "api_key" and first.json()["set_at"].endswith("Z")
    assert [first.json()["version"], second.json()["version"], second.json()["versions"]] == [1, 2, 2]
    put(studio, "other")
    page = listed(studio, limit=1)
    assert [each["name"] for each in page["items"]] == ["api_key"]
    assert [each["name"] for each in listed(studio, cursor=page["next_cursor"])["items"]] == ["other"]
    said = first.text + second.text + str(listed(studio))
    assert VALUE not in said
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"api_key" in kept and VALUE.encode() not in kept
    with studio.services.store.scope(studio.org) as scope:
        assert secrets.read(scope, studio.services.sealer, ["api_key", "absent"]) == {"api_key": VALUE + "2"}
        told = audit.entries(scope, limit=10)
        assert [(each.action, each.resource_id) for each in told][:3] == [
            ("secret.set", name) for name in ("other", "api_key", "api_key")
        ]
        assert VALUE not in str(told)


def test_it_is_removed_with_all_its_versions_and_begins_anew(studio: Studio) -> None:
    put(studio, "key"), put(studio, "key")
    before = rows(studio)[0]["secret_id"]
    assert studio.client.delete("/api/v1/secrets/KEY", headers=studio.headers()).status_code == 204
    assert listed(studio)["items"] == [] == rows(studio)
    again = studio.client.delete("/api/v1/secrets/key", headers=studio.headers())
    assert again.status_code == 404
    assert put(studio, "key").json()["version"] == 1
    assert rows(studio)[0]["secret_id"] != before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("1st", VALUE),
        ("a b", VALUE),
        ("ok", "abc"),
        ("ok", "x" * 65_537),
        ("ok", "     "),
        ("ok", 12345678),
        ("ok", None),
    ],
)
def test_what_is_no_name_or_no_value_is_refused_and_not_repeated(studio: Studio, name: str, value: Any) -> None:
    answer = put(studio, name, value)
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert str(value) not in answer.text or value is None
    assert rows(studio) == []


def test_a_value_that_is_refused_is_not_told_back(studio: Studio) -> None:
    for body in ({"value": VALUE, "more": VALUE}, {"value": [VALUE]}, {"walue": VALUE}):
        answer = studio.client.put("/api/v1/secrets/key", json=body, headers=studio.headers())
        assert answer.status_code == 422 and VALUE not in answer.text


def test_who_may(studio: Studio) -> None:
    assert put(studio, "key", role=Role.DEVELOPER).status_code == 403
    assert put(studio, "key", role=Role.VIEWER).status_code == 403
    viewer = studio.client.get("/api/v1/secrets", headers=studio.headers(Role.VIEWER))
    assert viewer.status_code == 403
    put(studio, "key")
    other = studio.client.get("/api/v1/secrets", headers=studio.other_headers())
    assert other.json()["items"] == []
    assert studio.client.delete("/api/v1/secrets/key", headers=studio.other_headers()).status_code == 404
    for path in ("secrets/key", "secrets/rotate-keys"):
        assert studio.client.get(f"/api/v1/{path}", headers=studio.headers()).status_code == 405


def _moved(studio: Studio, **change: Any) -> None:
    with studio.services.store.system() as system:
        system.execute(sa.update(_table).where(_table.c.org_id == studio.org).values(**change))


def _read(scope: Scope, studio: Studio) -> dict[str, str]:
    return secrets.read(scope, studio.services.sealer, ["key"])


@pytest.mark.parametrize("change", [{"org_id": None}, {"secret_id": "secret_" + "0" * 24}, {"version": 2}])
def test_a_row_that_is_moved_does_not_open(studio: Studio, change: dict[str, Any]) -> None:
    put(studio, "key")
    org = studio.other if "org_id" in change else studio.org
    with studio.services.store.scope(studio.org) as scope:
        assert _read(scope, studio) == {"key": VALUE}
    _moved(studio, **({"org_id": studio.other} if "org_id" in change else change))
    with studio.services.store.scope(org) as scope, pytest.raises(UsageError, match="does not open"):
        _read(scope, studio)


def test_a_value_in_the_place_of_another_does_not_open(studio: Studio) -> None:
    put(studio, "key"), put(studio, "other", "another value")
    sealed = {row["name"]: row["sealed"] for row in rows(studio)}
    with studio.services.store.scope(studio.org) as scope:
        scope.change(_table, _table.c.name == "key", sealed=sealed["other"])
        with pytest.raises(UsageError, match="does not open"):
            _read(scope, studio)


def test_master_keys_are_exchanged(studio: Studio, _key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    put(studio, "key", "an older value"), put(studio, "key"), put(studio, "other")
    fresh = os.urandom(32)
    vars(studio.services)["sealer"] = Sealer([fresh, _key])
    answer = studio.client.post("/api/v1/secrets/rotate-keys", headers=studio.headers())
    assert answer.json() == {"rewrapped": 2, "dropped": 1}
    assert {key_of(row["sealed"]) for row in rows(studio)} == {key_id(fresh)} == {row["key_id"] for row in rows(studio)}
    vars(studio.services)["sealer"] = Sealer([fresh])
    with studio.services.store.scope(studio.org) as scope:
        assert _read(scope, studio) == {"key": VALUE}
    assert studio.client.post("/api/v1/secrets/rotate-keys", headers=studio.headers()).json()["rewrapped"] == 0
    assert put(studio, "key").json()["version"] == 3


def test_an_exchange_that_was_interrupted_goes_on(studio: Studio, _key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_AT_ONCE", 2)
    for number in range(5):
        put(studio, f"key{number}")
    fresh = os.urandom(32)
    store, good = studio.services.store, Sealer([fresh, _key])

    class Stops(Sealer):
        def rewrap(self, sealed: bytes, context: Any) -> bytes:
            calls.append(1)
            if len(calls) == 4:
                raise RuntimeError("the power is out")
            return super().rewrap(sealed, context)

    calls: list[int] = []
    with pytest.raises(RuntimeError):
        secrets.rewrap(store, Stops([fresh, _key]), studio.org)
    assert sum(row["key_id"] == key_id(fresh) for row in rows(studio)) == 2
    assert secrets.rewrap(store, good, studio.org) == 3
    with store.scope(studio.org) as scope:
        assert len(secrets.read(scope, Sealer([fresh]), [f"key{number}" for number in range(5)])) == 5


def test_without_the_right_master_key_nothing_opens(tmp_path: Path) -> None:
    with studio_in(tmp_path) as studio:
        put(studio, "key")
        vars(studio.services)["sealer"] = Sealer([os.urandom(32)])
        answer = studio.client.post("/api/v1/secrets/rotate-keys", headers=studio.headers())
        assert answer.status_code >= 400 and VALUE not in answer.text
        with studio.services.store.scope(studio.org) as scope, pytest.raises(UsageError, match="not here"):
            _read(scope, studio)
