"""Runs of an org from the command line: listed, shown, watched, steered; drawn as a run here is drawn."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from flowmason.remote.client import StudioClient
from flowmason.studio import schema
from flowmason.studio.identity.permissions import Role
from fm_project import ORDERS
from remote.conftest import Fm, greeting, write
from studio.kit import Studio

LOGGING = {
    "name": "logging",
    "version": "1.0.0",
    "stages": [
        {"id": "note", "component_type": "logger", "config": {"message": "here", "level": "warning", "data": {"n": 1}}}
    ],
}


@pytest.fixture
def held(studio: Studio) -> Iterator[Any]:
    """No run of the org has its turn until it is called."""
    with studio.services.store.scope(studio.org) as scope:
        scope.add(schema.org_limits, max_concurrent_runs=0, max_queued_runs=None, weight=1)

    def release() -> None:
        with studio.services.store.scope(studio.org) as scope:
            scope.system.execute(
                sa.update(schema.org_limits)
                .where(schema.org_limits.c.org_id == studio.org)
                .values(max_concurrent_runs=None)
            )

    yield release


def submitted(studio: Studio, name: str = "greeting") -> str:
    """A run that somebody started by the API."""
    answer = studio.client.post("/api/v1/run", json={"pipeline": name}, headers=studio.headers())
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def status(studio: Studio, run_id: str) -> str:
    return str(studio.client.get(f"/api/v1/runs/{run_id}", headers=studio.headers()).json()["status"])


def test_a_run_there_is_drawn_and_told_as_a_run_here(fm: Fm, project: Path) -> None:
    write(project, ORDERS)
    assert fm("deploy").exit_code == 0
    here, there = (fm("run", "orders", "--sample", *where) for where in (("--on", "local"), ("--studio",)))
    assert (here.exit_code, there.exit_code) == (0, 0), there.output
    assert there.stdout == here.stdout
    lines = [
        # What is said of a stage that is under way for long (●) is said by the clock.
        sorted(re.sub(r"\s+[\d.]+ m?s", "", line) for line in each.stderr.splitlines() if re.match(r"  [^●]", line))
        for each in (here, there)
    ]
    assert lines[0] == lines[1] and any("each" in line for line in lines[0])
    documents = [
        json.loads(fm("run", "orders", "--sample", "--json", "-q", *where).stdout)
        for where in (("--on", "local"), ("--studio",))
    ]
    assert [list(each) for each in documents] == [list(documents[0])] * 2
    stages = [{path: (list(each), each["output"]) for path, each in found["stages"].items()} for found in documents]
    assert stages[0] == stages[1]
    assert documents[0]["output"] == documents[1]["output"]


def test_a_run_there_is_foretold_by_the_runs_of_its_org(fm: Fm, project: Path) -> None:
    ask = {"id": "ask", "component_type": "generator", "config": {"prompt": "one two"}, "budget": {"max_tokens": 9000}}
    each = {"id": "each", "component_type": "foreach", "config": {"items": "{{input.items}}", "loop_stages": ["ask"]}}
    write(project, {"name": "asking", "version": "1.0.0", "stages": [each, ask]})
    assert fm("deploy").exit_code == 0
    before = json.loads(fm("usage", "--forecast", "asking", "--studio", "--json").stdout)
    assert before["worst"] == {"cost": None, "tokens": 9000} and before["usual"] is None
    asked = ("run", "asking", "--studio", "-i", '{"items": [1, 2]}', "--provider", "mock", "--max-tokens", "8000")
    done = fm(*asked, "--forecast", "--json")
    assert done.exit_code == 0, done.output
    assert "at most 8,000 tokens" in done.stderr and "mock/mock-1" in done.stderr
    assert "there is no completed run" in done.stderr
    used = json.loads(done.stdout)["usage"]
    after = json.loads(fm("usage", "--forecast", "asking", "-t", "acme", "--json").stdout)["usual"]
    assert (after["runs"], after["same"], after["calls"]["median"]) == (1, 1, 2)
    assert after["tokens"]["max"] == used["input_tokens"] + used["output_tokens"]
    assert fm("usage", "--forecast", "askin", "--studio").exit_code == 2


def test_an_org_has_a_switch_for_kept_answers_and_can_be_rid_of_them(
    fm: Fm, project: Path, url: str, studio: Studio
) -> None:
    ask = {"id": "ask", "component_type": "generator", "config": {"prompt": "one two"}}
    write(project, {"name": "asking", "version": "1.0.0", "stages": [ask]})
    assert fm("deploy").exit_code == 0
    assert fm("org", "login", "-a", "boss", "-u", url, "-k", studio.keys[Role.ADMIN]).exit_code == 0

    def calls() -> int:
        done = fm("run", "asking", "--target-org", "acme", "--provider", "mock", "--json", "-q")
        assert done.exit_code == 0, done.output
        return int(json.loads(done.stdout)["usage"]["calls"])

    assert "stages that say so" in fm("answers", "show", "-t", "acme").stdout
    assert fm("answers", "set", "60", "-t", "acme").exit_code != 0  # a developer may not
    assert fm("answers", "set", "soon", "-t", "boss").exit_code == 2
    assert json.loads(fm("answers", "set", "3600", "-t", "boss", "--json").stdout) == {"max_age_s": 3600}
    assert [calls(), calls()] == [1, 0]
    assert json.loads(fm("answers", "clear", "-t", "boss", "--json").stdout) == {"removed": 1}
    assert calls() == 1
    assert "no stage" in fm("answers", "set", "off", "-t", "boss").stderr
    assert calls() == 1
    page = studio.client.get("/api/v1/auth/audit-log", headers=studio.headers()).json()
    actions = [each["action"] for each in page["items"]]
    assert actions.count("org.kept_answers") == 2 and "org.answers_cleared" in actions


def test_runs_are_listed_page_by_page_and_shown_by_the_end_of_their_id(fm: Fm, project: Path) -> None:
    assert fm("deploy").exit_code == 0
    ids = [json.loads(fm("run", "greeting", "--studio", "--json", "-q").stdout)["run_id"] for _ in range(3)]
    page = json.loads(fm("runs", "list", "--studio", "-n", "2", "--json").stdout)
    rest = json.loads(fm("runs", "list", "--studio", "-n", "2", "--before", page["next_cursor"], "--json").stdout)
    assert [each["run_id"] for each in [*page["items"], *rest["items"]]] == ids[::-1]
    assert rest["next_cursor"] is None
    assert set(page["items"][0]) == {
        "run_id", "pipeline", "version", "status", "created_at", "updated_at", "parent", "summary"
    }  # fmt: skip
    table = fm("runs", "list", "-t", "acme", "--status", "completed").stdout
    assert all(each in table for each in ids)
    assert fm("runs", "list", "-t", "acme", "--status", "failed").stderr.strip() == "no runs"
    assert json.loads(fm("runs", "list", "--json").stdout)["items"] == []  # this machine ran none
    found = fm("runs", "show", ids[0][-8:], "--studio")
    assert found.exit_code == 0 and ids[0] in found.stdout and "greet" in found.stdout and "hello" in found.stdout
    document = json.loads(fm("runs", "show", ids[0], "--studio", "--json").stdout)
    assert document["run_id"] == ids[0] and document["output"]["result"] == "hello world"
    for wrong in ("nothing_such", "run_"):
        missing = fm("runs", "show", wrong, "--studio")
        assert missing.exit_code == 2, missing.output
    assert fm("runs", "show", ids[0], "--studio", "--items").exit_code == 2
    assert "no org 'elsewhere'" in fm("runs", "list", "-t", "elsewhere").stderr


def test_lines_and_events_are_fetched(fm: Fm, project: Path, tmp_path: Path) -> None:
    write(project, LOGGING)
    assert fm("deploy").exit_code == 0
    ran = fm("run", "logging", "--studio", "--json", "-v")
    assert "WARNING note: here" in " ".join(ran.stderr.upper().replace("NOTE: HERE", "note: here").split())
    run_id = json.loads(ran.stdout)["run_id"]
    for more in ((), ("--follow",)):
        lines = [
            json.loads(line) for line in fm("runs", "logs", run_id, "--studio", "--json", *more).stdout.splitlines()
        ]
        assert [(each["stage"], each["message"]) for each in lines] == [("note", "here")]
        assert set(lines[0]) == {"at", "level", "stage", "attempt", "message", "fields"}
    assert "note: here" in fm("runs", "logs", run_id, "--studio").stdout
    file = tmp_path / "events.jsonl"
    assert fm("runs", "export", run_id, "--studio", "-o", str(file)).exit_code == 0
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
    assert events[0]["kind"] == "run.submitted" and events[-1]["kind"] == "run.completed"
    assert fm("runs", "export", "nothing", "--studio", "-o", str(tmp_path / "none")).exit_code == 2
    assert not (tmp_path / "none").exists()


def test_a_run_is_paused_goes_on_and_is_watched(fm: Fm, project: Path, studio: Studio, held: Any) -> None:
    assert fm("deploy").exit_code == 0
    run_id = submitted(studio)
    paused = fm("pause", run_id, "--studio", "--json")
    assert json.loads(paused.stdout) == {"run_id": run_id, "status": "paused"}
    watched = fm("runs", "watch", run_id, "--studio")
    assert watched.exit_code == 130 and f"fm resume {run_id} --target-org acme" in watched.stderr
    held()
    resumed = fm("resume", run_id, "--studio")
    assert resumed.exit_code == 0, resumed.output
    assert "hello world" in resumed.stdout and "✓ greet" in resumed.stderr
    again = fm("runs", "watch", run_id, "-t", "acme", "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["status"] == "completed"
    final = fm("resume", run_id, "--studio")
    assert final.exit_code == 2 and "final" in final.stderr
    assert fm("resume", "--studio").exit_code == 2
    assert fm("resume", run_id, "--studio", "--accept-changes").exit_code == 2


def test_a_run_is_cancelled_once(fm: Fm, project: Path, studio: Studio, held: Any) -> None:
    assert fm("deploy").exit_code == 0
    first, second = submitted(studio), submitted(studio)
    cancelled = fm("cancel", first, "--studio", "--reason", "wrong input")
    assert cancelled.exit_code == 0 and f"{first} is cancelled" in cancelled.stderr
    assert fm("runs", "cancel", second, "-t", "acme").exit_code == 0
    assert [status(studio, each) for each in (first, second)] == ["cancelled", "cancelled"]
    again = fm("cancel", first, "--studio")
    assert again.exit_code == 2 and "CONFLICT" in again.stderr
    shown = fm("runs", "watch", first, "--studio")
    assert shown.exit_code == 3 and "wrong input" in shown.stderr


def test_ctrl_c_cancels_the_run_there(fm: Fm, project: Path, studio: Studio, held: Any) -> None:
    assert fm("deploy").exit_code == 0
    process = subprocess.Popen(
        [sys.executable, "-c", "from flowmason.cli import main; main()", "run", "greeting", "--studio", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    listed: list[Any] = []
    for _ in range(300):
        listed = studio.client.get("/api/v1/runs", headers=studio.headers()).json()["items"]
        if listed:
            break
        time.sleep(0.05)
    time.sleep(1.0)  # it has the answer, and follows
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3, err
    assert json.loads(out)["status"] == "cancelled" and json.loads(out)["run_id"] == listed[0]["id"]
    assert "once more leaves that to the Studio" in err and "Traceback" not in err
    assert status(studio, listed[0]["id"]) == "cancelled"


def test_a_studio_that_goes_away_meanwhile_ends_the_watching_and_not_the_run(
    fm: Fm, project: Path, studio: Studio, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fm("deploy").exit_code == 0

    def gone(*_: Any, **__: Any) -> Any:
        raise httpx2.ConnectError("refused")

    monkeypatch.setattr("flowmason.remote.following.TRIES", 1)
    monkeypatch.setattr(StudioClient, "streamed", gone)
    done = fm("run", "greeting", "--studio", "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 4, done.output
    assert document["error"]["code"] == "ENGINE_UNAVAILABLE"
    assert f"fm runs watch {document['run_id']} -t acme" in done.stderr
    assert status(studio, document["run_id"]) == "queued"


def test_a_run_that_failed_names_the_command_that_goes_on(fm: Fm, project: Path) -> None:
    stage = {
        "id": "check",
        "component_type": "schema_validate",
        "config": {"data": {"n": "{{input.who}}"}, "json_schema": {"type": "array"}, "strict": True},
    }
    write(project, greeting(name="failing", stages=[stage]))
    assert fm("deploy").exit_code == 0
    failed = fm("run", "failing", "--studio")
    run_id = re.findall(r"run_\w{26}", failed.stderr)[0]
    assert failed.exit_code == 1 and f"fm resume {run_id} --target-org acme" in failed.stderr
    again = fm("resume", run_id, "--target-org", "acme")
    assert again.exit_code == 1 and "✗ check" in again.stderr
