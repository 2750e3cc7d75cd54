"""Why a run waits, and how an org's runs went, over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import sqlalchemy as sa

from flowmason.studio import schema
from flowmason.studio.identity.permissions import Role
from flowmason_serve_apps.studio import counting
from flowmason_serve_apps.studio.counting import rank
from studio.conducting import awaited, conducting, ended, hello, made, started
from studio.kit import Studio


@pytest.fixture(autouse=True)
def impatient(studio: Studio) -> None:
    """Nobody waits long for a beat that does not come."""
    studio.services.beats.watch_s = 0.1


def why(studio: Studio, run_id: str) -> dict[str, Any]:
    answer = studio.client.get(f"/api/v1/runs/{run_id}/why", headers=studio.headers(Role.VIEWER))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_run_waits_for_a_conductor_then_behind_others_then_ends(studio: Studio) -> None:
    pipeline = made(studio, hello())["id"]
    first = started(studio, pipeline)["id"]
    found = why(studio, first)
    assert found["waiting"] and found["causes"][0]["code"] == "NO_CONDUCTOR"
    assert found["stages"][0]["path"] == "greet"
    second = started(studio, pipeline)["id"]
    owner(studio, "a")  # one that beats
    beat(studio, "a")
    assert why(studio, first)["causes"][0]["code"] == "CAPACITY"
    behind = why(studio, second)["causes"][0]
    assert (behind["code"], behind["count"]) == ("QUEUE", 1)
    urgent = started(studio, pipeline, priority=5)["id"]
    assert why(studio, urgent)["causes"][0]["code"] == "CAPACITY"
    assert why(studio, second)["causes"][0]["count"] == 2
    limited(studio, 0)
    assert why(studio, second)["causes"][0]["code"] == "ORG_CONCURRENCY"
    limited(studio, None)
    with conducting(studio.services.settings):
        ended(studio, second)
    assert why(studio, second)["causes"][0]["code"] == "ENDED"


def test_a_stage_that_waits_for_its_turn_at_a_provider_says_so(studio: Studio) -> None:
    ask = {"component_type": "generator", "config": {"prompt": "hello"}}
    pipeline = {"name": "two", "version": "1.0.0", "stages": [{"id": "a", **ask}, {"id": "b", **ask}]}
    run = started(studio, made(studio, pipeline)["id"])["id"]
    mock = {"limits": {"concurrency": 1}, "extra": {"delay_ms": 1500, "answers": ["one", "two"]}}
    with conducting(studio.services.settings, {"providers": {"default": "mock", "mock": mock}}):
        deadline = time.monotonic() + 20
        while not (waits := [each for each in why(studio, run)["stages"] if each["code"] == "PROVIDER_LIMIT"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(waits) == 1 and waits[0]["on"] == ["mock"]
        assert ended(studio, run)["status"] == "completed"


def test_a_pause_says_by_whom(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])["id"]
    asked = studio.client.post(f"/api/v1/runs/{run}/pause", headers=studio.headers(Role.DEVELOPER))
    assert asked.status_code == 202
    with conducting(studio.services.settings):
        awaited(studio, run, {"paused"})
    found = why(studio, run)
    assert found["causes"][0]["code"] == "PAUSED" and " by key_" in found["causes"][0]["explanation"]


def test_a_run_at_a_breakpoint_says_which(studio: Studio) -> None:
    body = {"pipeline": hello(), "breakpoints": [{"stage": "greet"}]}
    run = studio.client.post("/api/v1/debug/run", json=body, headers=studio.headers()).json()["id"]
    with conducting(studio.services.settings):
        awaited(studio, run, {"paused"})
    found = why(studio, run)
    assert found["causes"][0]["on"] == ["greet"] and "breakpoint on greet" in found["causes"][0]["explanation"]


def test_a_run_whose_conductor_shows_no_sign_of_life(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])["id"]
    owner(studio, "dead")
    sql(studio, "UPDATE runs SET owner='dead', status='running' WHERE run_id=:run", run=run)
    assert why(studio, run)["causes"][0]["code"] == "NO_CONDUCTOR"
    owner(studio, "b")
    beat(studio, "b")
    assert why(studio, run)["causes"][0]["code"] == "CONDUCTOR_LOST"


def test_others_see_nothing(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])["id"]
    assert studio.client.get(f"/api/v1/runs/{run}/why", headers=studio.other_headers()).status_code == 404
    assert studio.client.get("/api/v1/stats", headers=studio.other_headers()).json()["counted"] == 0


def test_stats(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = made(studio, hello())["id"]
    runs = [started(studio, pipeline)["id"] for _ in range(4)]
    usage = {"input_tokens": 10, "output_tokens": 5, "cost_nanodollars": 1_500_000, "calls": 1}
    for number, run in enumerate(runs[:3]):
        summary = json.dumps({"duration_ms": 100 * (number + 1), "usage": usage})
        sql(studio, "UPDATE runs SET status='completed', summary=:summary WHERE run_id=:run", run=run, summary=summary)
    day = 24 * 3600 * 1000
    sql(studio, f"UPDATE runs SET created_at=created_at-{day} WHERE run_id=:run", run=runs[0])
    found = stats(studio)
    assert found["runs"] == {"completed": 3, "queued": 1} and found["counted"] == 4 and found["complete"]
    assert found["duration_ms"] == {"p50": 200, "p95": 300}
    assert (found["usage"]["total_tokens"], found["usage"]["cost"], found["usage"]["calls"]) == (45, "0.0045", 3)
    assert [each["runs"] for each in found["by_day"]] == [{"completed": 1}, {"completed": 2, "queued": 1}]
    sql(studio, f"UPDATE runs SET created_at=created_at-{2 * day} WHERE run_id=:run", run=runs[0])
    assert stats(studio, "?days=2")["counted"] == 3
    monkeypatch.setattr(counting, "MOST_RUNS", 2)
    bounded = stats(studio)
    assert bounded["counted"] == 2 and not bounded["complete"]
    wrong = studio.client.get("/api/v1/stats?days=0", headers=studio.headers())
    assert wrong.status_code == 422


def test_ranks() -> None:
    assert rank([], 0.5) is None
    assert rank([1.0], 0.95) == 1.0
    assert rank([float(number) for number in range(1, 101)], 0.95) == 95.0


def stats(studio: Studio, query: str = "") -> dict[str, Any]:
    answer = studio.client.get(f"/api/v1/stats{query}", headers=studio.headers(Role.VIEWER))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def sql(studio: Studio, text: str, **values: Any) -> None:
    """Change what no door of ours changes so."""
    with studio.services.store.system() as system:
        system.execute(sa.text(text).bindparams(**values))


def owner(studio: Studio, name: str) -> None:
    """A conductor that is listed."""
    sql(studio, "INSERT INTO conductors (conductor_id, beat, host, pid) VALUES (:name, 1, 'h', 1)", name=name)


def beat(studio: Studio, name: str) -> None:
    """It beats while somebody looks."""
    studio.client.portal.call(studio.services.beats.look, studio.org)  # type: ignore[union-attr]
    sql(studio, "UPDATE conductors SET beat=beat+1 WHERE conductor_id=:name", name=name)


def limited(studio: Studio, most: int | None) -> None:
    """How many runs the org may have at once."""
    with studio.services.store.scope(studio.org) as scope:
        if scope.one(schema.org_limits) is None:
            scope.add(schema.org_limits, max_concurrent_runs=most, max_queued_runs=None, weight=1)
        else:
            scope.change(schema.org_limits, max_concurrent_runs=most)


def test_usage_is_told_by_day_pipeline_and_model_and_outlives_its_runs(studio: Studio) -> None:
    asked = {"id": "ask", "component_type": "generator", "config": {"prompt": "one two"}}
    asked["llm_settings"] = {"provider": "mock"}
    pipeline = made(studio, {"name": "asks", "version": "1.0.0", "stages": [asked]})["id"]
    run = started(studio, pipeline, options={"budget": {"max_tokens": 500_000}})["id"]
    with conducting(studio.services.settings):
        ended(studio, run)
    detail = studio.client.get(f"/api/v1/runs/{run}", headers=studio.headers(Role.VIEWER)).json()
    assert (detail["status"], detail["options"]["budget"]) == ("completed", {"max_tokens": 500_000})
    assert studio.client.delete(f"/api/v1/runs/{run}", headers=studio.headers(Role.ADMIN)).status_code == 204
    answer = studio.client.get("/api/v1/usage?days=2", headers=studio.headers(Role.VIEWER))
    assert answer.status_code == 200, answer.text
    (item,) = answer.json()["items"]
    assert (item["pipeline"], item["provider"], item["calls"], item["cost"]) == ("asks", "mock", 1, "0")
    assert item["input_tokens"] == detail["usage"]["input_tokens"] > 0
    other = studio.client.get("/api/v1/usage?pipeline=none", headers=studio.headers(Role.VIEWER))
    assert other.json() == {"items": [], "next_cursor": None}


def test_what_an_org_may_spend_a_day_is_said_by_admins_audited_and_held(studio: Studio) -> None:
    path, wanted = "/api/v1/usage/budget", {"max_tokens_per_day": 6_000}
    assert studio.client.put(path, json=wanted, headers=studio.headers(Role.DEVELOPER)).status_code == 403
    answer = studio.client.put(path, json=wanted, headers=studio.headers(Role.ADMIN))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["max_cost_per_day"], answer.json()["max_tokens_per_day"]) == (None, 6_000)
    asked = {"component_type": "generator", "config": {"prompt": "one two"}, "llm_settings": {"provider": "mock"}}
    pipeline = made(studio, {"name": "asks", "version": "1.0.0", "stages": [{**asked, "id": "ask"}]})["id"]
    first = started(studio, pipeline)["id"]
    with conducting(studio.services.settings):
        assert ended(studio, first)["status"] == "completed"
        stands = studio.client.get(path, headers=studio.headers(Role.VIEWER)).json()
        assert stands["spent_tokens"] > 0 and stands["reserved_tokens"] == 0
        assert studio.client.put(path, json={"max_tokens_per_day": 100}, headers=studio.headers(Role.OWNER)).is_success
        second = started(studio, pipeline)["id"]
        failed = ended(studio, second)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "BUDGET_EXCEEDED")
    assert "today's budget of the org is 100 tokens" in failed["error"]["message"]
    log = studio.client.get("/api/v1/auth/audit-log?action=org.budget", headers=studio.headers(Role.OWNER)).json()
    assert [entry["details"]["max_tokens_per_day"] for entry in log["items"]] == [100, 6_000]
    strange = studio.client.put(path, json={"max_cost_per_day": "a lot"}, headers=studio.headers(Role.OWNER))
    assert strange.status_code == 422
