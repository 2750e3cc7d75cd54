"""Debugging over HTTP: breakpoints, conditions, hits, items, exceptions, steps, prompts, reruns, watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from flowmason.studio.identity.permissions import Role
from studio.conducting import awaited, conducting, hello, made
from studio.kit import Studio


def say(name: str, data: Any, **more: Any) -> dict[str, Any]:
    """A stage whose output is its data."""
    config = {"data": data, "jmespath_expression": "@"}
    return {"id": name, "component_type": "json_transform", "config": config, **more}


def pipe(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "debugged", "version": "1.0.0", "stages": list(stages), **more}


CHAIN = pipe(say("a", {"n": 1}), say("b", {"n": "{{upstream.a.result.n}}"}), say("c", "{{upstream.b.result}}"))
LOOP = pipe(
    {
        "id": "each",
        "component_type": "foreach",
        "config": {"items": [10, 20, 30, 40], "loop_stages": ["inner"]},
    },
    say("inner", {"value": "{{item}}"}),
)


class Debugged:
    """A run that somebody debugs over HTTP."""

    def __init__(self, studio: Studio, **body: Any) -> None:
        self.studio = studio
        answer = studio.client.post("/api/v1/debug/run", json=body, headers=studio.headers(Role.DEVELOPER))
        assert answer.status_code == 202, answer.text
        self.id: str = answer.json()["id"]

    def ask(self, method: str, path: str, body: Any = None, *, role: Role = Role.DEVELOPER) -> Any:
        address = f"/api/v1/runs/{self.id}/debug/{path}"
        return self.studio.client.request(method, address, json=body, headers=self.studio.headers(role))

    def do(self, path: str, body: Any = None, method: str = "POST") -> None:
        answer = self.ask(method, path, body)
        assert answer.status_code == 202, answer.text

    def state(self) -> dict[str, Any]:
        answer = self.ask("GET", "state", role=Role.VIEWER)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while True:
            found = self.state()
            if holds(found):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.01)

    def prompt(self, path: str, round_: int) -> dict[str, Any]:
        """What a stage asked; lines are stored a moment after the stage's end."""
        deadline = time.monotonic() + 20
        while True:
            found = self.ask("GET", f"stage/{path}/prompt", role=Role.VIEWER)
            assert found.status_code == 200, found.text
            shown: dict[str, Any] = found.json()
            if (shown["source"], shown["round"]) == ("asked", round_):
                return shown
            assert time.monotonic() < deadline, shown
            time.sleep(0.05)

    def stands(self, after: int = 0) -> dict[str, Any]:
        """Where it stands, or that it ended, once it went on from the seq."""
        return self.until(lambda at: at["seq"] > after and at["status"] not in ("queued", "running"))

    def go_on(self) -> dict[str, Any]:
        at = self.state()["seq"]
        self.do("continue")
        return self.stands(at)


def test_a_run_stops_at_a_breakpoint_and_survives_its_conductor(studio: Studio) -> None:
    run = Debugged(studio, pipeline=CHAIN, breakpoints=[{"stage": "b"}])
    with conducting(studio.services.settings):
        at = run.stands()
    assert (at["mode"], at["reason"], at["path"], at["breakpoint"], at["hit"]) == ("paused", "breakpoint", "b", "b", 1)
    assert at["next"] == ["b"] and at["inputs"]["data"] == {"n": 1}
    assert at["breakpoints"] == [
        {"stage": "b", "condition": "", "hit_condition": "", "hits": 1, "verified": True},
    ]
    run.do("resume")
    with conducting(studio.services.settings):  # another one, which knows nothing of the first
        done = awaited(studio, run.id, {"completed", "failed"})
    assert done["status"] == "completed" and done["stages"]["c"]["output"]["result"] == {"n": 1}
    assert run.ask("POST", "continue").status_code == 409


def test_a_paused_run_belongs_to_nobody(studio: Studio) -> None:
    run = Debugged(studio, pipeline=CHAIN, stop_on_entry=True)
    with conducting(studio.services.settings):
        at = run.stands()
        assert (at["reason"], at["path"]) == ("entry", "a")
        [row] = studio.client.portal.call(  # type: ignore[union-attr]
            studio.services.runs.ask, [(studio.org, "SELECT owner FROM runs WHERE run_id=?", (run.id,))]
        )
        assert row[0][0] is None


def test_conditions_and_items(studio: Studio) -> None:
    point = {"stage": "inner", "condition": "item >= 20 and index < 3"}
    run = Debugged(studio, pipeline=LOOP, breakpoints=[point])
    with conducting(studio.services.settings):
        at = run.stands()
        assert (at["path"], at["locals"]) == ("each[1].inner", {"item": 20, "index": 1, "loop_total": 4})
        assert [frame["stage"] for frame in at["stack"]] == ["inner", "each"]
        assert at["stack"][1]["index"] == 1
        answer = run.ask("POST", "evaluate", {"expressions": ["item * 2", "context.run_id", "nobody.knows"]})
        assert answer.status_code == 200, answer.text
        first, second, third = answer.json()["items"]
        assert first["value"] == 40 and second["value"] == run.id and third["error"]
        at = run.go_on()
        assert at["path"] == "each[2].inner"
        assert run.go_on()["status"] == "completed"


def test_one_place_alone(studio: Studio) -> None:
    run = Debugged(studio, pipeline=LOOP, breakpoints=[{"stage": "each[3].inner"}])
    with conducting(studio.services.settings):
        assert run.stands()["path"] == "each[3].inner"
        assert run.go_on()["status"] == "completed"


@pytest.mark.parametrize(("hits", "places"), [("3", [2]), ("hits >= 3", [2, 3])])
def test_hit_counts(studio: Studio, hits: str, places: list[int]) -> None:
    run = Debugged(studio, pipeline=LOOP, breakpoints=[{"stage": "inner", "hit_condition": hits}])
    with conducting(studio.services.settings):
        at = run.stands()
        seen = []
        while at["mode"] == "paused":
            seen.append((at["path"], at["hit"]))
            at = run.go_on()
    assert seen == [(f"each[{place}].inner", place + 1) for place in places]


@pytest.mark.parametrize("name", ["all", "uncaught", "error"])
def test_exception_filters(studio: Studio, name: str) -> None:
    run = Debugged(studio, pipeline=pipe(broken()), exceptions=[name])
    with conducting(studio.services.settings):
        at = run.stands()
        assert (at["mode"], at["reason"], at["path"]) == ("paused", "exception", "bad")
        found = run.ask("GET", "exception-info", role=Role.VIEWER)
        assert found.status_code == 200, found.text
        assert found.json()["filter"] == name and found.json()["failure"]["message"]
        assert run.go_on()["status"] == "failed"
    assert run.ask("GET", "exception-info").json()["filter"] is None


@pytest.mark.parametrize("name", ["timeout", "connectivity", "warning"])
def test_filters_for_other_failures_do_not_stop_it(studio: Studio, name: str) -> None:
    run = Debugged(studio, pipeline=pipe(broken()), exceptions=[name])
    with conducting(studio.services.settings):
        assert run.stands()["status"] == "failed"


def broken() -> dict[str, Any]:
    config = {"data": "{{input.list}}", "jmespath_expression": "length(@)"}
    return {"id": "bad", "component_type": "json_transform", "config": config, "retry_config": {"max_retries": 0}}


def test_filters_are_put_and_breakpoints_stay(studio: Studio) -> None:
    run = Debugged(
        studio, pipeline=pipe(say("a", 1), say("b", "{{upstream.a}}"), broken()), breakpoints=[{"stage": "a"}]
    )
    with conducting(studio.services.settings):
        at = run.stands()
        run.do("breakpoints", {"breakpoints": [{"stage": "b"}]}, "PUT")
        run.do("exception-breakpoints", {"filters": ["error"]}, "PUT")
        at = run.until(lambda at: at["exceptions"] == ["error"])
        assert [point["stage"] for point in at["breakpoints"]] == ["b"]
        run.do("exception-breakpoints", {"filters": []}, "PUT")
        at = run.until(lambda at: not at["exceptions"])
        assert [point["stage"] for point in at["breakpoints"]] == ["b"]


def test_steps(studio: Studio) -> None:
    run = Debugged(studio, pipeline=CHAIN, stop_on_entry=True)
    with conducting(studio.services.settings):
        seen = [run.stands()["path"]]
        for _ in range(2):
            at = run.state()["seq"]
            run.do("step", {"kind": "over"})
            seen.append(run.stands(at)["path"])
        run.do("stop", {"reason": "seen enough"})
        done = awaited(studio, run.id, {"cancelled"})
    assert seen == ["a", "b", "c"] and done["reason"] == "seen enough"


def test_step_into_a_sub_pipeline(studio: Studio) -> None:
    made(studio, hello())
    call = {"id": "call", "component_type": "subpipeline", "config": {"pipeline": "hello", "input": {"who": "you"}}}
    run = Debugged(studio, pipeline=pipe(say("a", 1), call), breakpoints=[{"stage": "call"}])
    with conducting(studio.services.settings):
        at = run.stands()
        run.do("step", {"kind": "into"})
        at = run.stands(at["seq"])
        assert at["path"] == "call.greet" and at["stack"][0]["pipeline"] == "hello@1.0.0"
        assert run.go_on()["status"] == "completed"


def test_a_prompt_is_seen_edited_and_run_again(studio: Studio) -> None:
    ask = {"id": "ask", "component_type": "generator", "config": {"prompt": "say one"}}
    run = Debugged(
        studio,
        pipeline=pipe(ask, say("end", "{{upstream.ask}}")),
        breakpoints=[{"stage": "end"}],
        options={"provider": "mock"},
    )
    with conducting(studio.services.settings):
        run.stands()
        shown = run.prompt("ask", 1)
        assert shown["user_prompt"] == "say one" and shown["output"]
        at = run.state()["seq"]
        run.do("stage/ask/rerun", {"user_prompt": "say two"})
        stood = run.stands(at)
        assert stood["reason"] == "rerun" and stood["stale"] == ["ask"]
        again = run.prompt("ask", 2)
        assert again["user_prompt"] == "say two"
        assert again["edit"]["user_prompt"] == "say two"
        assert run.go_on()["path"] == "end"  # it stopped after the rerun, not yet before this one
        assert run.go_on()["status"] == "completed"
    missing = run.ask("GET", "stage/asl/prompt")
    assert missing.status_code == 404 and "ask" in missing.json()["help"]


def test_what_makes_no_sense_is_refused_with_its_place(studio: Studio) -> None:
    def refused(status: int, **body: Any) -> dict[str, Any]:
        answer = studio.client.post("/api/v1/debug/run", json=body, headers=studio.headers())
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    unknown = refused(422, pipeline=CHAIN, breakpoints=[{"stage": "d"}])
    assert unknown["faults"][0]["pointer"] == "$.breakpoints[0].stage"
    unreadable = refused(422, pipeline=CHAIN, breakpoints=[{"stage": "b", "condition": "1 +"}])
    assert unreadable["faults"][0]["pointer"] == "$.breakpoints[0].condition"
    refused(422, pipeline=CHAIN, exceptions=["everything"])
    refused(422, pipeline={"name": "x"})
    refused(404, pipeline="nobody-wrote-this")
    run = Debugged(studio, pipeline=CHAIN)
    assert run.ask("POST", "continue").status_code == 409
    assert run.ask("POST", "step", {"kind": "sideways"}).status_code == 422
    assert run.ask("POST", "stage/a/rerun").status_code == 409
    assert run.ask("PUT", "breakpoints", {"breakpoints": [{"stage": "z"}]}).status_code == 422
    assert run.ask("GET", "exception-info").status_code == 404
    assert run.ask("POST", "evaluate", {"expressions": ["1"], "stage": "z"}).status_code == 404


def test_a_viewer_may_look_and_others_see_nothing(studio: Studio) -> None:
    run = Debugged(studio, pipeline=CHAIN)
    for path in ("pause", "continue", "resume", "step", "stop", "stage/a/rerun"):
        assert run.ask("POST", path, role=Role.VIEWER).status_code == 403, path
        address = f"/api/v1/runs/{run.id}/debug/{path}"
        assert studio.client.post(address, headers=studio.other_headers()).status_code == 404, path
    assert run.ask("PUT", "breakpoints", {"breakpoints": []}, role=Role.VIEWER).status_code == 403
    for path in ("state", "exception-info", "stage/a/prompt"):
        address = f"/api/v1/runs/{run.id}/debug/{path}"
        assert studio.client.get(address, headers=studio.other_headers()).status_code == 404, path
