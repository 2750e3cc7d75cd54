"""From a pipeline that is posted to a run that ended."""

from __future__ import annotations

from studio.conducting import awaited, conducting, ended, hello, made, sse, started
from studio.kit import Studio


def test_a_pipeline_is_posted_run_and_its_end_is_seen(studio: Studio) -> None:
    pipeline = made(studio, hello())
    assert pipeline["revision"] == 1 and pipeline["status"] == "draft"
    run = started(studio, pipeline["id"], {"who": "Ada"})
    assert run["status"] == "queued" and run["pipeline_id"] == pipeline["id"]
    with conducting(studio.services.settings):
        done = ended(studio, run["id"])
    assert done["status"] == "completed", done
    assert done["stages"]["greet"]["output"]["result"] == {"text": "hello Ada"}
    assert done["input"] == {"who": "Ada"}


def test_a_run_is_followed_to_its_end_as_server_sent_events(studio: Studio) -> None:
    run = started(studio, made(studio, hello())["id"])
    with conducting(studio.services.settings):
        events = sse(studio, run["id"])
    assert [event["data"]["seq"] for event in events if "id" in event] == list(range(1, len(events)))
    assert events[0]["data"]["kind"] == "run.submitted"
    assert events[-2]["data"]["kind"] == "run.completed"
    assert events[-1]["event"] == "end"


def test_a_run_that_failed_for_its_budget_goes_on_with_a_larger_one(studio: Studio) -> None:
    price = {"price": {"input": "1000", "output": "2000"}}
    options = {"providers": {"default": "mock", "mock": {"max_tokens": 200, "extra": price}}}
    stage = {"id": "ask", "component_type": "generator", "config": {"prompt": "hello"}}
    pipeline = made(studio, {"name": "asker", "version": "1.0.0", "stages": [stage]})["id"]
    run = started(studio, pipeline, options={"budget": {"max_cost": "0.1"}})["id"]
    address = f"/api/v1/runs/{run}/resume"

    def resumed(budget: dict[str, object]) -> int:
        answer = studio.client.post(address, json={"budget": budget}, headers=studio.headers())
        return answer.status_code

    assert resumed({"max_cost": "5"}) == 409  # it has not ended: it keeps its budget
    with conducting(studio.services.settings, options):
        assert ended(studio, run)["error"]["code"] == "BUDGET_EXCEEDED"
        assert resumed({"max_cost": "much"}) == 422
        assert resumed({"max_cost": "5"}) == 202
        assert awaited(studio, run, {"completed"})["usage"]["calls"] == 1
