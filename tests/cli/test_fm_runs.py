"""`fm runs`: the journal, read."""

from __future__ import annotations

import json

import msgspec
import pytest

from flowmason.event import Recorded, RunCompleted, RunSubmitted
from fm_project import Fm, Project


@pytest.fixture
def run_id(project: Project, fm: Fm) -> str:
    found: str = fm("run", "orders", "--json").json["run_id"]
    return found


def test_list_is_newest_first_and_pages(project: Project, fm: Fm, run_id: str) -> None:
    second = fm("run", "orders", "--json").json["run_id"]
    page = fm("runs", "list", "--json", "-n", "1").json
    assert [item["run_id"] for item in page["items"]] == [second]
    rest = fm("runs", "list", "--json", "-n", "1", "--before", page["next_cursor"]).json
    assert [item["run_id"] for item in rest["items"]] == [run_id]
    assert fm("runs", "list", "--status", "failed", "--json").json == {"items": [], "next_cursor": None}
    assert "Did you mean 'failed'" in fm("runs", "list", "--status", "faild").err
    assert run_id in fm("runs", "list").out


def test_show_gives_the_same_object_as_the_run(project: Project, fm: Fm) -> None:
    ran = fm("run", "orders", "--json").json
    assert fm("runs", "show", ran["run_id"], "--json").json == ran
    assert fm("runs", "show", ran["run_id"][-6:], "--json").json == ran
    text = fm("runs", "show", ran["run_id"]).out
    assert "each" in text
    assert '"city": "Bonn"' in text
    assert fm("runs", "show", "run_nope").code == 2


def test_export_writes_every_event_and_nothing_is_lost(project: Project, fm: Fm, run_id: str) -> None:
    lines = fm("runs", "export", run_id).out.splitlines()
    events = [msgspec.json.decode(line, type=Recorded) for line in lines]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0].event, RunSubmitted)
    assert isinstance(events[-1].event, RunCompleted)
    readable = [json.loads(line) for line in fm("runs", "export", run_id, "--decode").out.splitlines()]
    assert readable[0]["kind"] == "run.submitted"
    assert readable[0]["input"]["shop"] == {"city": "Bonn"}
    assert readable[-1]["output"]["result"]["city"] == "Bonn"
    fm("runs", "export", run_id, "-o", "events.jsonl")
    assert (project.root / "events.jsonl").read_text().splitlines() == lines


def test_logs_are_what_components_logged(project: Project, fm: Fm) -> None:
    project.pipeline(
        {
            "name": "talk",
            "stages": [
                {"id": "say", "component_type": "logger", "config": {"message": "two words", "level": "warning"}}
            ],
        }
    )
    run = fm("run", "talk", "--json", "-v")
    assert "say: two words" in run.err
    found = [json.loads(line) for line in fm("runs", "logs", run.json["run_id"], "--json").out.splitlines()]
    assert [(line["stage"], line["level"], line["message"]) for line in found] == [("say", "warning", "two words")]
    assert "two words" in fm("runs", "logs", run.json["run_id"]).out


def test_prune_deletes_old_runs(project: Project, fm: Fm, run_id: str) -> None:
    assert fm("runs", "prune", "--older-than", "1d", "--json").json["runs"] == []
    dry = fm("runs", "prune", "--older-than", "0s", "--dry-run", "--json").json
    assert dry["runs"] == [run_id]
    assert fm("runs", "show", run_id).code == 0
    assert fm("runs", "prune", "--older-than", "0s", "--json").json["runs"] == [run_id]
    assert fm("runs", "show", run_id).code == 2
    assert fm("runs", "prune", "--older-than", "soon").code == 2


def test_watch_of_an_ended_run_shows_it_and_ends(project: Project, fm: Fm, run_id: str) -> None:
    answer = fm("runs", "watch", run_id)
    assert answer.code == 0, answer
    assert "✓ end" in answer.err
    assert json.loads(answer.out)["result"]["city"] == "Bonn"


def test_a_long_message_stays_one_line_of_the_list(project: Project, fm: Fm) -> None:
    project.write(
        "components/loud.py",
        "from flowmason import Context, OperatorInput, OperatorOutput, StageError, operator\n"
        '@operator(name="loud", category="test", description="Fails at length.")\n'
        "class Loud:\n"
        "    class Input(OperatorInput):\n        pass\n"
        "    class Output(OperatorOutput):\n        pass\n"
        "    async def execute(self, input: Input, context: Context) -> Output:\n"
        '        raise StageError("no\\n" * 3000)\n',
    )
    project.pipeline({"name": "noisy", "stages": [{"id": "a", "component_type": "loud"}]})
    assert fm("run", "noisy", "--on", "local").code == 1
    [_, row] = fm("runs", "list").out.splitlines()
    assert "failed" in row and row.endswith("…") and len(row) < 300
