"""Pipelines over HTTP: revisions, kept versions, refusals with places."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from studio.conducting import conducting, ended, hello, made, started
from studio.kit import Studio

BASE = "/api/v1/pipelines"


def test_a_write_needs_the_revision_it_is_based_on_and_a_stale_one_is_shown_the_difference(studio: Studio) -> None:
    pipeline = made(studio, hello())
    address, mine = f"{BASE}/{pipeline['id']}", studio.headers()
    assert studio.client.put(address, json={"description": "a"}, headers=mine).status_code == 428
    first = studio.client.put(address, json={"description": "a"}, headers={**mine, "If-Match": '"1"'})
    assert first.status_code == 200 and first.headers["etag"] == '"2"', first.text
    stale = studio.client.put(address, json={"description": "b"}, headers={**mine, "If-Match": '"1"'})
    assert stale.status_code == 409, stale.text
    assert stale.json()["details"]["revision"] == 2
    assert {"pointer": "$.description", "change": "changed", "before": "a", "after": "b"} in stale.json()["details"][
        "diff"
    ]
    assert studio.client.delete(address, headers={**mine, "If-Match": '"1"'}).status_code == 409
    assert studio.client.delete(address, headers={**mine, "If-Match": '"2"'}).status_code == 204
    assert studio.client.get(address, headers=mine).status_code == 404


def test_a_version_that_was_run_keeps_its_content(studio: Studio) -> None:
    pipeline = made(studio, hello())
    address = f"{BASE}/{pipeline['id']}"
    started(studio, pipeline["id"])
    write = {**studio.headers(), "If-Match": '"1"'}
    given = studio.client.put(address, json={"description": "new", "version": "1.0.0"}, headers=write)
    assert given.status_code == 409 and given.json()["details"]["next_version"] == "1.0.1", given.text
    left = studio.client.put(address, json={"description": "new"}, headers=write)
    assert left.status_code == 200 and left.json()["version"] == "1.0.1", left.text
    kept = studio.client.get(f"{address}/versions/1.0.0", headers=studio.headers()).json()
    assert "description" not in kept["document"]
    by_name = studio.client.post("/api/v1/run", json={"pipeline": "hello@1.0.0"}, headers=studio.headers())
    assert by_name.status_code == 202 and by_name.json()["version"] == "1.0.0", by_name.text


def test_a_tested_draft_is_published_and_its_name_means_it_while_the_draft_goes_on(studio: Studio) -> None:
    pipeline = made(studio, hello())
    address = f"{BASE}/{pipeline['id']}"
    with conducting(studio.services.settings):
        test = studio.client.post(f"{address}/test", json={}, headers=studio.headers())
    assert test.status_code == 200 and test.json()["can_publish"], test.text
    write = {**studio.headers(), "If-Match": '"1"'}
    published = studio.client.post(f"{address}/publish", json={"test_run_id": test.json()["run_id"]}, headers=write)
    assert published.status_code == 200 and published.json()["status"] == "published", published.text
    etag = published.headers["etag"]
    changed = studio.client.put(address, json={"description": "x"}, headers={**write, "If-Match": etag})
    assert changed.json()["status"] == "draft" and changed.json()["published_version"] == "1.0.0"
    run = studio.client.post("/api/v1/run", json={"pipeline": "hello"}, headers=studio.headers()).json()
    assert run["version"] == "1.0.0"


def test_a_run_that_has_not_completed_publishes_nothing(studio: Studio) -> None:
    pipeline = made(studio, hello())
    run = started(studio, pipeline["id"])
    answer = studio.client.post(
        f"{BASE}/{pipeline['id']}/publish",
        json={"test_run_id": run["id"]},
        headers={**studio.headers(), "If-Match": '"1"'},
    )
    assert answer.status_code == 400 and "queued" in answer.json()["detail"]


def test_a_wrong_pipeline_is_refused_with_places_in_the_text_that_was_sent(studio: Studio) -> None:
    text = '{\n "name": "wrong",\n "stages": [\n  {"id": "a", "component_type": "http_requst"}\n ]\n}'
    answer = studio.client.post(BASE, content=text, headers={**studio.headers(), "Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    fault = answer.json()["faults"][0]
    assert fault["line"] == 4 and fault["nearest"] == "http_request" and fault["code"] == "COMPONENT_MISSING"


def test_a_pipeline_of_another_org_is_not_there(studio: Studio) -> None:
    pipeline = made(studio, hello())
    other = studio.other_headers()
    assert studio.client.get(f"{BASE}/{pipeline['id']}", headers=other).status_code == 404
    assert studio.client.get(BASE, headers=other).json()["items"] == []
    assert studio.client.post("/api/v1/run", json={"pipeline": "hello"}, headers=other).status_code == 404
    run = started(studio, pipeline["id"])
    for path in ("", "/events", "/stream", "/trace", "/logs"):
        assert studio.client.get(f"/api/v1/runs/{run['id']}{path}", headers=other).status_code == 404
    assert studio.client.post(f"/api/v1/runs/{run['id']}/cancel", headers=other).status_code == 404


def test_a_sub_pipeline_whose_name_is_known_at_run_time_is_that_of_the_same_org(studio: Studio) -> None:
    made(studio, hello("inner"))
    outer = made(
        studio,
        {
            "name": "outer",
            "input_schema": {"type": "object", "properties": {"which": {"type": "string"}}},
            "stages": [
                {
                    "id": "call",
                    "component_type": "subpipeline",
                    "config": {"pipeline_id": "{{input.which}}", "input_data": {"who": "Bo"}},
                }
            ],
        },
    )
    run = started(studio, outer["id"], {"which": "inner"})
    with conducting(studio.services.settings):
        done = ended(studio, run["id"])
    assert done["status"] == "completed", done
    assert done["stages"]["call.greet"]["output"]["result"] == {"text": "hello Bo"}


def test_what_hangs_in_the_air_is_mended(studio: Studio) -> None:
    document = {
        "name": "x",
        "output_stage_id": "gone",
        "stages": [{"id": "a", "component_type": "http-request", "config": {"url": "u"}, "depends_on": ["gone"]}],
    }
    answer = studio.client.post(f"{BASE}/fix-inline", json={"pipeline": document}, headers=studio.headers()).json()
    assert answer["fixed"]["stages"][0]["depends_on"] == [] and "output_stage_id" not in answer["fixed"]
    assert answer["fixed"]["stages"][0]["config"]["method"] == "GET"
    assert len(answer["applied_fixes"]) == 3


def test_the_same_idempotency_key_starts_one_run(studio: Studio) -> None:
    pipeline = made(studio, hello())
    address = f"{BASE}/{pipeline['id']}/run"
    keyed = {**studio.headers(), "Idempotency-Key": "k1"}
    first = studio.client.post(address, json={"input": {"who": "Ada"}}, headers=keyed).json()
    assert first == studio.client.get(f"/api/v1/runs/{first['id']}", headers=studio.headers()).json()
    assert (first["status"], first["input"]) == ("queued", {"who": "Ada"})
    with conducting(studio.services.settings):
        done = ended(studio, first["id"])
    assert studio.client.post(address, json={"input": {"who": "Ada"}}, headers=keyed).json() == done
    # Also where the pipeline has been written to since: that is what the request became.
    change = {**studio.headers(), "If-Match": f'"{pipeline["revision"]}"'}
    document = hello()
    document["stages"][0]["config"] = {**document["stages"][0]["config"], "data": "other"}
    answer = studio.client.put(f"{BASE}/{pipeline['id']}", json={"stages": document["stages"]}, headers=change)
    assert answer.status_code == 200, answer.text
    assert studio.client.post(address, json={"input": {"who": "Ada"}}, headers=keyed).json() == done


def test_a_key_that_stands_for_another_request_is_refused(studio: Studio) -> None:
    address = f"{BASE}/{made(studio, hello())['id']}/run"
    another = f"{BASE}/{made(studio, {**hello(), 'name': 'another'})['id']}/run"
    large = {"input": {"who": "A" * 100_000}}
    for key, first in (("k1", {"input": {"who": "Ada"}}), ("k2", large)):
        keyed = {**studio.headers(), "Idempotency-Key": key}
        run = studio.client.post(address, json=first, headers=keyed).json()["id"]
        assert studio.client.post(address, json=first, headers=keyed).json()["id"] == run
        for where, body in ((address, {"input": {"who": "Bo"}}), (another, first), (address, {})):
            answer = studio.client.post(where, json=body, headers=keyed)
            assert answer.status_code == 409 and run in answer.json()["detail"], answer.text
    assert len(studio.client.get("/api/v1/runs", headers=studio.headers()).json()["items"]) == 2


def test_a_wrong_input_beside_right_ones_is_refused_alone(studio: Studio) -> None:
    address = f"{BASE}/{made(studio, hello())['id']}/run"
    inputs = [{"who": name} for name in ("a", "b", "c", "d")] + [{"who": 1}]

    def submit(given: dict[str, Any]) -> int:
        return studio.client.post(address, json={"input": given}, headers=studio.headers()).status_code

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(submit, inputs)) == [202] * 4 + [422]


def test_what_is_not_known_in_a_body_is_refused_by_name(studio: Studio) -> None:
    pipeline = made(studio, hello())
    for field in ("callback_url", "output_config", "colour"):
        body = {"pipeline": "hello", field: "x"}
        answer = studio.client.post("/api/v1/run", json=body, headers=studio.headers())
        assert answer.status_code == 422 and field in answer.json()["detail"], answer.text
    assert pipeline["name"] == "hello"
