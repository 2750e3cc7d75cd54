"""Ctrl-C, a killed process, `fm cancel`, `fm pause` and `fm resume`, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fm_project import Fm, Project, nap_chain


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until `what` gives something true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def started(mark: Path) -> list[str]:
    return mark.read_text().split() if mark.exists() else []


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file in which stages note that they started."""
    return tmp_path / "mark"


def run_until_second(project: Project, mark: Path, *, seconds: float = 30.0) -> subprocess.Popen[str]:
    project.pipeline(nap_chain(mark, seconds=seconds))
    process = project.start("run", "naps", "--on", "local", "--json")
    wait_for(lambda: "second" in started(mark))
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def only_run(fm: Fm) -> dict[str, Any]:
    items = fm("runs", "list", "--json").json["items"]
    assert len(items) == 1
    found: dict[str, Any] = items[0]
    return found


def test_ctrl_c_cancels_the_run(project: Project, fm: Fm, mark: Path) -> None:
    process = run_until_second(project, mark)
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert code == 3, err
    assert json.loads(out)["status"] == "cancelled"
    assert "once more leaves it to be resumed" in err
    assert "Traceback" not in err
    assert started(mark) == ["first", "second"]
    run = only_run(fm)
    assert run["status"] == "cancelled"
    again = fm("resume", run["run_id"])
    assert again.code == 2
    assert "final" in again.err


def test_a_terminated_process_leaves_the_run_resumable(project: Project, fm: Fm, mark: Path) -> None:
    process = run_until_second(project, mark)
    process.terminate()
    code, out, err = end(process)
    assert code == 130, err
    assert json.loads(out)["status"] == "running"
    assert only_run(fm)["status"] == "running"


def test_a_killed_process_is_taken_over_without_redoing_finished_stages(project: Project, fm: Fm, mark: Path) -> None:
    process = run_until_second(project, mark, seconds=1.0)
    wait_for(lambda: fm("runs", "list", "--json").json["items"][0]["status"] == "running")
    process.kill()
    process.communicate()
    run = only_run(fm)
    assert run["status"] == "running"
    answer = fm("resume", "--json")
    assert answer.code == 0, answer
    assert answer.json["run_id"] == run["run_id"]
    assert answer.json["output"]["value"] == "123"
    assert started(mark)[-1] == "third"
    assert answer.json["executor"] == "local"


def test_the_second_ctrl_c_leaves_the_run_to_be_resumed(project: Project, fm: Fm, mark: Path) -> None:
    project.write(
        "components/stubborn.py",
        """
import time
from flowmason import Context, OperatorInput, OperatorOutput, operator


@operator(name="stubborn", category="test", description="Blocks, whatever is asked of it.", effect="idempotent")
class Stubborn:
    class Input(OperatorInput):
        mark: str

    class Output(OperatorOutput):
        done: bool = True

    async def execute(self, input: Input, context: Context) -> Output:
        again = open(input.mark, "a+")
        again.seek(0)
        seen = again.read()
        again.write("second\\n")
        again.close()
        time.sleep(0 if "second" in seen else 120)
        return self.Output()
""",
    )
    project.pipeline(
        {
            "name": "block",
            "stages": [
                {"id": "before", "component_type": "nap", "config": {"value": "1", "mark": str(mark)}},
                {"id": "a", "component_type": "stubborn", "config": {"mark": str(mark)}, "depends_on": ["before"]},
            ],
        }
    )
    process = project.start("run", "block", "--on", "local")
    wait_for(lambda: "second" in started(mark))
    process.send_signal(signal.SIGINT)
    run_id = only_run(fm)["run_id"]
    wait_for(lambda: "run.cancelling" in fm("runs", "export", run_id).out)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    code, _, err = end(process)
    assert code == 130, err
    assert time.monotonic() - begun < 50, "the grace of a cancel, not the 120 s of the component"
    assert "Traceback" not in err
    assert "did not stop when cancelled: flowmason-" in err
    assert only_run(fm)["status"] == "running"
    again = fm("resume", "--json")
    assert again.code == 0, again
    assert again.json["output"] == {"done": True}
    assert started(mark) == ["before", "second", "second"]


def test_cancel_reaches_a_run_in_another_process(project: Project, fm: Fm, mark: Path) -> None:
    process = run_until_second(project, mark)
    run_id = only_run(fm)["run_id"]
    answer = fm("cancel", run_id[-8:], "--reason", "enough", "--json")
    assert answer.code == 0, answer
    assert answer.json == {"run_id": run_id, "status": "cancelled"}
    assert end(process)[0] == 3
    assert fm("cancel", run_id).code == 2


def test_cancel_ends_a_run_that_nobody_walks_without_starting_more_of_it(project: Project, fm: Fm, mark: Path) -> None:
    process = run_until_second(project, mark)
    process.kill()
    process.communicate()
    run_id = only_run(fm)["run_id"]
    before = started(mark)
    assert fm("cancel", run_id, "--json").json["status"] == "cancelled"
    assert started(mark) == before
    assert fm("runs", "show", run_id, "--json").json["status"] == "cancelled"


def test_pause_and_resume_across_processes(project: Project, fm: Fm, mark: Path) -> None:
    process = run_until_second(project, mark, seconds=1.5)
    run_id = only_run(fm)["run_id"]
    assert fm("pause", run_id, "--json").json["status"] == "paused"
    code, out, _ = end(process)
    assert code == 130
    assert json.loads(out)["status"] == "paused"
    assert started(mark) == ["first", "second"]
    answer = fm("resume", run_id, "--json")
    assert answer.code == 0, answer
    assert answer.json["output"]["value"] == "123"
    assert started(mark) == ["first", "second", "third"]


def test_a_run_that_somebody_walks_is_not_resumed(project: Project, fm: Fm, mark: Path) -> None:
    process = run_until_second(project, mark)
    run_id = only_run(fm)["run_id"]
    answer = fm("resume", run_id)
    assert answer.code == 2
    assert f"process {process.pid}@" in answer.err
    assert fm("resume").code == 2
    os.kill(process.pid, signal.SIGINT)
    assert end(process)[0] == 3


def test_watch_follows_a_run_in_another_process(project: Project, fm: Fm, mark: Path) -> None:
    process = run_until_second(project, mark, seconds=1.0)
    answer = fm("runs", "watch", only_run(fm)["run_id"])
    assert answer.code == 0, answer
    assert "✓ third" in answer.err
    assert json.loads(answer.out) == {"value": "123"}
    assert end(process)[0] == 0


def test_a_thread_that_a_component_started_does_not_hold_the_process(project: Project, fm: Fm, mark: Path) -> None:
    project.write(
        "components/threaded.py",
        """
import asyncio, time
from flowmason import Context, OperatorInput, OperatorOutput, operator


@operator(name="threaded", category="test", description="Sleeps in a thread.")
class Threaded:
    class Input(OperatorInput):
        mark: str

    class Output(OperatorOutput):
        done: bool = True

    async def execute(self, input: Input, context: Context) -> Output:
        open(input.mark, "a").write("begun")
        await asyncio.to_thread(time.sleep, 600)
        return self.Output()
""",
    )
    stage = {"id": "a", "component_type": "threaded", "config": {"mark": str(mark)}}
    project.pipeline({"name": "threads", "stages": [stage]})
    process = project.start("run", "threads", "--on", "local", "--json")
    wait_for(lambda: started(mark))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert json.loads(out)["status"] == "cancelled"
    assert "left behind, because it did not end: asyncio_" in err
    assert "Traceback" not in err


def test_a_cancel_reaches_whoever_took_the_run_up_meanwhile(
    project: Project, fm: Fm, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowmason.assembly import hosting

    process = run_until_second(project, mark)
    asked: list[object] = []
    real = hosting.living_owner

    async def late(journal: Any, row: Any, **options: Any) -> str | None:
        asked.append(row)
        return None if len(asked) == 1 else await real(journal, row, **options)

    monkeypatch.setattr(hosting, "living_owner", late)
    answer = fm("cancel", only_run(fm)["run_id"], "--json")
    assert answer.code == 0, answer
    assert answer.json["status"] == "cancelled"
    assert end(process)[0] == 3
