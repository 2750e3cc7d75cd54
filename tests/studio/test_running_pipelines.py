"""From a pipeline that is posted to a run that ended."""

from __future__ import annotations

from studio.conducting import conducting, ended, hello, made, sse, started
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
