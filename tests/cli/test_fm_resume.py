"""`fm resume` of failed runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fm_project import COMPONENTS, Fm, Project


@pytest.fixture
def failed(project: Project, fm: Fm, tmp_path: Path) -> str:
    """A run that failed in its second stage, because a file is missing."""
    project.pipeline(
        {
            "name": "files",
            "stages": [
                {"id": "one", "component_type": "nap", "config": {"value": "a", "mark": str(tmp_path / "mark")}},
                {
                    "id": "two",
                    "component_type": "needs_file",
                    "config": {"path": str(tmp_path / "there"), "after": "{{upstream.one.value}}"},
                },
                {"id": "three", "component_type": "nap", "config": {"value": "{{upstream.two.text}}!"}},
            ],
        }
    )
    answer = fm("run", "files", "--json")
    assert answer.code == 1
    run_id: str = answer.json["run_id"]
    return run_id


def test_a_failed_run_goes_on_where_it_failed(project: Project, fm: Fm, failed: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("now")
    answer = fm("resume", "--json")
    assert answer.code == 0, answer
    assert answer.json["run_id"] == failed
    assert answer.json["output"]["value"] == "now!"
    assert (tmp_path / "mark").read_text().split() == ["one"]
    assert fm("resume", failed).code == 2


def test_it_may_fail_again_and_stay_resumable(project: Project, fm: Fm, failed: str, tmp_path: Path) -> None:
    again = fm("resume", failed)
    assert again.code == 1
    assert "FILE_MISSING" in again.err
    (tmp_path / "there").write_text("later")
    assert fm("resume", failed).code == 0


def test_changed_code_is_refused_unless_it_is_accepted(project: Project, fm: Fm, failed: str, tmp_path: Path) -> None:
    project.write("components/tests.py", COMPONENTS.replace("read_text()", "read_text().upper()"))
    (tmp_path / "there").write_text("now")
    refused = fm("resume", failed)
    assert refused.code == 2
    assert "COMPONENT_CHANGED" in refused.err
    assert "--accept-changes" in refused.err
    answer = fm("resume", failed, "--accept-changes", "--json")
    assert answer.code == 0, answer
    assert answer.json["output"]["value"] == "NOW!"
    assert (tmp_path / "mark").read_text().split() == ["one"]
    events = [line for line in fm("runs", "export", failed, "--decode").out.splitlines() if "run.reopened" in line]
    assert len(events) == 1
    assert "needs_file" in events[0]


def test_rerun_unknown_must_name_a_failed_stage(project: Project, fm: Fm, failed: str) -> None:
    answer = fm("resume", failed, "--rerun-unknown", "tow")
    assert answer.code == 2
    assert "did you mean 'two'?" in answer.err


def test_there_may_be_nothing_to_resume(project: Project, fm: Fm) -> None:
    assert fm("resume").code == 2
    assert fm("resume", "run_nope").code == 2
    assert fm("run", "orders").code == 0
    assert "no run to resume" in fm("resume").err
