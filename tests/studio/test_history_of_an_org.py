"""The audit log of an org shows who started which run, and still does once the run is gone."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest

from flowmason.studio.identity.permissions import Role
from studio.conducting import conducting, ended, hello, made, started
from studio.kit import Studio
from studio.test_storage_over_http import age, upkeep, wish

LOG = "/api/v1/auth/audit-log"


def _log(studio: Studio, **asked: Any) -> list[dict[str, Any]]:
    """All of the log, two entries a page."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        more: dict[str, str] = {"cursor": cursor} if cursor else {}
        answer = studio.client.get(LOG, params={"limit": 2, **asked, **more}, headers=studio.headers(Role.ADMIN))
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return items


def _whoami(studio: Studio, role: Role) -> str:
    key: str = studio.client.get("/api/v1/auth/whoami", headers=studio.headers(role)).json()["key_id"]
    return key


def test_starts_of_runs_stand_among_the_entries_of_the_chain_by_time(studio: Studio) -> None:
    pipeline = made(studio, hello())["id"]
    runs = []
    for days in range(1, 6):
        runs.append(started(studio, pipeline)["id"])
        assert wish(studio, days=days).status_code == 200
    log = _log(studio)
    assert [each["action"] for each in log] == [*["org.retention", "run.start"] * 5, "pipeline.create"]
    assert len({each["audit_id"] or each["resource_id"] for each in log}) == len(log)
    starts = [each for each in log if each["action"] == "run.start"]
    assert [each["resource_id"] for each in starts] == runs[::-1]
    for each in starts:
        assert each["actor"] == _whoami(studio, Role.OWNER) and each["source"] == "journal"
        assert each["number"] is None and each["hash"] is None and each["details"]["pipeline"] == "hello"
    assert _log(studio, action="run.start") == starts == _log(studio, resource_type="run")
    assert [each["action"] for each in _log(studio, action="org.retention")] == ["org.retention"] * 5
    assert studio.client.get(f"{LOG}/verify", headers=studio.headers()).json()["entries"] == 6
    assert studio.client.get(LOG, headers=studio.other_headers()).json()["items"] == []


def test_who_started_a_run_goes_into_the_chain_when_the_run_goes(studio: Studio) -> None:
    pipeline = made(studio, hello())["id"]
    runs = [started(studio, pipeline)["id"] for _ in range(3)]
    with conducting(studio.services.settings):
        for run in runs:
            ended(studio, run)
    by = _whoami(studio, Role.OWNER)
    assert studio.client.delete(f"/api/v1/runs/{runs[0]}", headers=studio.headers()).status_code == 204
    wish(studio, days=30)
    for run in runs[1:]:
        age(studio, run, 40)
    assert asyncio.run(upkeep(studio).delete_runs()) == 2
    assert asyncio.run(upkeep(studio).delete_runs()) == 0
    expired, _, deleted, _ = _log(studio)
    assert expired["action"] == "run.expire" and expired["actor"] == "system"
    assert {(run, who) for run, who, _ in expired["details"]["runs"]} == {(run, by) for run in runs[1:]}
    assert deleted["action"] == "run.delete" and deleted["details"]["started_by"] == by
    assert studio.client.get(f"{LOG}/verify", headers=studio.headers()).json()["whole"] is True


@pytest.mark.parametrize("path", [LOG, "/api/v1/runs", "/api/v1/pipelines", "/api/v1/orgs/current/members"])
@pytest.mark.parametrize(
    "edge", [[2**63, 2**70, "x"], [None, -1, "\0"], [10**30, "\0"], "\0", ["\0", "\0"], {}, [[]], 2**64, True]
)
def test_a_cursor_that_somebody_wrote_is_refused_or_shows_nothing_of_others(
    studio: Studio, path: str, edge: Any
) -> None:
    path = path.replace("/orgs", "/auth/orgs")
    cursor = urlsafe_b64encode(msgspec.json.encode(edge) if edge != 10**30 else str(edge).encode()).decode()
    answer = studio.client.get(path, params={"cursor": cursor}, headers=studio.headers())
    assert answer.status_code in (200, 422, 400), answer.text
    assert answer.status_code != 200 or studio.other not in answer.text
