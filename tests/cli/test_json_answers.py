"""`--json`: one object on stdout, whatever became of the command."""

from __future__ import annotations

import json
from collections.abc import Coroutine

import pytest

from fm_project import Fm, Project


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run --json --bogus", "--bogus"),
        ("run --json --max-concurrency many", "--max-concurrency"),
        ("run orders --json --ray a:1 --on local", "--ray goes with --on ray"),
        ("resume --json --bogus", "--bogus"),
        ("run nothing --json", "there is no pipeline 'nothing'"),
        ("resume nothing --json", "there is no run 'nothing'"),
    ],
)
def test_a_run_that_did_not_begin_is_an_object_with_every_key(
    project: Project, fm: Fm, command: str, told: str
) -> None:
    answer = fm(*command.split())
    assert answer.code == 2, answer
    found = answer.json
    assert list(found) == [
        *("run_id", "pipeline", "version", "status", "output", "error", "stages", "usage", "executor")
    ]
    assert told in found["error"]["message"] and found["run_id"] is None


@pytest.mark.parametrize(
    "command",
    [
        "runs show nothing --json",
        "runs list --json --status gone",
        "cancel --json",
        "info --json nothing",
        "install --json nothing.fmpkg",
        "uninstall --json nothing",
        "-C /nowhere list --json",
        "prompts show --json nothing",
        "bogus --json",
    ],
)
def test_what_is_refused_is_an_object_with_the_error(project: Project, fm: Fm, command: str) -> None:
    answer = fm(*command.split())
    assert answer.code == 2, answer
    assert list(answer.json) == ["error"]
    assert answer.json["error"]["message"] and answer.err
    without = fm(*(word for word in command.split() if word != "--json"))
    assert (without.code, without.out) == (2, "")


def test_a_fault_of_ours_is_told_there_too(project: Project, fm: Fm, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("flowmason.assembly.workspace.Workspace.at", broken)
    answer = fm("list", "--json")
    assert answer.code == 1
    assert json.loads(answer.out)["error"]["code"] == "INTERNAL"


@pytest.mark.parametrize("command", ["run orders --json --on local", "runs list --json", "runs list"])
def test_ctrl_c_before_there_is_anything_to_tell(
    project: Project, fm: Fm, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(coroutine: Coroutine[object, object, object]) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    monkeypatch.setattr("flowmason.cli.console.run_async", interrupted)
    answer = fm(*command.split())
    assert answer.code == 130, answer
    assert "interrupted" in answer.err
    if "--json" in command:
        assert answer.json["error"]["code"] == "CANCELLED"
    else:
        assert answer.out == ""
