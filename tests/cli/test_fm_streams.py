"""What `fm` writes to, and what it writes there: closed and full streams, texts that would steer a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fm_project import Fm, Project


def shell(project: Project, line: str) -> tuple[int, str, str]:
    """Run a line of shell in which `$FM` is the command."""
    environ = {**project.environ, "FM": f"{sys.executable} -m flowmason.cli"}
    done = subprocess.run(["sh", "-c", line], cwd=project.root, env=environ, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")


def test_a_closed_stdout_is_no_fault_and_the_run_is_kept(project: Project) -> None:
    for closed in (">&-", "2>&-", "<&-", "<&- >&- 2>&-"):
        code, _, err = shell(project, f"$FM run orders --sample --on local {closed}")
        assert code == 0 and "Traceback" not in err, (closed, err)
    code, out, _ = shell(project, "$FM runs list --json")
    assert code == 0
    assert [run["status"] for run in json.loads(out)["items"]] == ["completed"] * 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_answer_that_cannot_be_written_is_told_in_a_line(project: Project) -> None:
    for command in ("list", "run orders --sample --on local --json", "runs list"):
        code, _, err = shell(project, f"$FM {command} > /dev/full")
        assert code == 1
        assert "[STORAGE] cannot write: No space left on device" in err
        assert "Traceback" not in err


def test_names_that_are_no_utf_8_are_told_also_as_json(project: Project, fm: Fm) -> None:
    name = os.fsdecode(b"pipelines/b\xffd.pipeline.json")
    project.write(name, {"name": "bad", "stages": []})
    answer = fm("validate", "--format", "json")
    assert answer.code == 2 and name in [report["file"] for report in answer.json["files"]]
    assert fm("list", "--json").code == 0


def test_a_file_cannot_steer_the_terminal_that_shows_its_faults(project: Project, fm: Fm) -> None:
    (project.root / "pipelines/evil.pipeline.yaml").write_text(
        'name: evil\n"wibble": "\x9b2J\u202e"  # \u2028\nwobble: "\x85"\n', encoding="utf-8"
    )
    answer = fm("validate", "pipelines/evil.pipeline.yaml")
    assert answer.code == 2
    assert not {"\x1b", "\x9b", "\u202e"} & set(answer.err), answer.err


def test_the_line_that_is_shown_is_the_line_of_the_fault(project: Project, fm: Fm) -> None:
    (project.root / "pipelines/odd.pipeline.json").write_text(
        '{"name": "odd", "description": "a\u2028b\x85c",\n "stags": []}', encoding="utf-8"
    )
    answer = fm("validate", "pipelines/odd.pipeline.json")
    assert '2 |  "stags": []}' in answer.err, answer.err


def test_what_a_component_says_cannot_steer_the_terminal(project: Project, fm: Fm) -> None:
    stage = {"id": "a", "component_type": "logger", "config": {"message": "\x1b]0;evil\x07 and \x1b[2J"}}
    project.pipeline({"name": "talk", "stages": [stage]})
    answer = fm("run", "talk", "--on", "local", "-v")
    assert answer.code == 0
    assert "evil" in answer.err and not {"\x1b", "\x07"} & set(answer.err)
