"""Runs as Ray jobs: `ray job submit -- fm run …` as typed, and `fm run --submit`."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.ray

OWN = """
import os
import time

from actors.people import who
from cluster import mine
from flowmason import OperatorInput, OperatorOutput, operator


@operator(name="own", category="test", description="Uses modules of the project.")
class Own:
    class Input(OperatorInput):
        until: str = ""
        fail: bool = False

    class Output(OperatorOutput):
        text: str

    async def execute(self, input, context):
        while input.until and not os.path.exists(input.until):
            time.sleep(0.05)
        if input.fail:
            raise ValueError("it was asked to fail")
        return Own.Output(text=f"{mine()} and {who()}")
"""


class Office:
    """A project whose modules are named as parts of other software are, and a warm cluster."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.home = root / "home"
        self.database = root / "kept" / "runs.db"
        self.database.parent.mkdir()
        for folder in ("pipelines", "components", "actors"):
            (self.root / folder).mkdir(parents=True)
        self.write("flowmason.json", '{"name": "office", "version": "1.0.0"}')
        self.write("cluster.py", 'def mine():\n    return "my cluster"\n')
        self.write("actors/__init__.py", "")
        self.write("actors/people.py", 'def who():\n    return "my actors"\n')
        self.write("components/own.py", OWN)
        self.pipeline("x", {"until": "{{input.until}}"}, {})
        self.pipeline("bad", {}, {"fail": True})

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def pipeline(self, name: str, first: dict[str, object], second: dict[str, object]) -> None:
        stages = [
            {"id": "first", "component": "own", "config": first},
            {"id": "second", "component": "own", "config": second, "depends_on": ["first"]},
        ]
        schema = {"type": "object", "properties": {"until": {"type": "string", "default": ""}}}
        content = {"name": name, "version": "1.0.0", "input_schema": schema, "stages": stages}
        self.write(f"pipelines/{name}.pipeline.json", json.dumps(content))

    @property
    def environ(self) -> dict[str, str]:
        left_out = ("RAY_", "FLOWMASON_", "DATABASE_URL")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
        return {**kept, "FLOWMASON_HOME": str(self.home), "NO_COLOR": "1"}

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.root,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return completed(self.start(*command, **environ))

    def statuses(self) -> dict[str, str]:
        """The state of every run in the database that the head was given."""
        with sqlite3.connect(self.database) as connection:
            return dict(connection.execute("SELECT run_id, status FROM runs"))


def completed(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a process."""
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    made = Office(tmp_path_factory.mktemp("office"))
    url = f"sqlite:///{made.database}"
    begun = made.run("fm", "cluster", "up", "--num-cpus", "2", DATABASE_URL=url)
    assert begun.returncode == 0, begun.stderr
    yield made
    made.run("fm", "cluster", "down")


Jobs = dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def jobs(office: Office) -> Jobs:
    """What came of four jobs that were submitted at once: each spends most of its time on getting started."""
    begun = {
        "x": as_typed(office, "fm", "run", "pipelines/x.pipeline.json"),
        "bad": as_typed(office, "fm", "run", "bad"),
        "x --submit": office.start("fm", "run", "x", "--submit"),
        "bad --submit": office.start("fm", "run", "bad", "--submit", "--json"),
    }
    return {name: completed(process) for name, process in begun.items()}


def as_typed(office: Office, *arguments: str) -> subprocess.Popen[str]:
    """`ray job submit --working-dir .`, with what `fm cluster status` says to export."""
    state = json.loads((office.home / "cluster.json").read_text())
    exported = {
        "RAY_API_SERVER_ADDRESS": state["dashboard"],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": state["token_path"],
    }
    return office.start("ray", "job", "submit", "--working-dir", ".", "--", *arguments, **exported)


def test_ray_job_submit_works_as_typed(jobs: Jobs) -> None:
    done = jobs["x"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ first" in done.stdout and "✓ second" in done.stdout and "my cluster and my actors" in done.stdout


def test_the_journal_outlives_the_job_in_the_database_that_the_head_was_given(office: Office, jobs: Jobs) -> None:
    assert Counter(office.statuses().values()) == {"completed": 2, "failed": 2}
    assert len(jobs) == 4 and not list(office.root.rglob("flowmason.db"))
    assert (office.home / "database_url").stat().st_mode & 0o777 == 0o600


def test_a_failed_run_fails_the_job(jobs: Jobs) -> None:
    done = jobs["bad"]
    assert done.returncode == 1, done.stdout + done.stderr
    assert "✗ second" in done.stdout and "it was asked to fail" in done.stdout


def test_fm_submits_follows_and_answers_as_a_run_here_would(jobs: Jobs) -> None:
    done = jobs["x --submit"]
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"text": "my cluster and my actors"}
    assert "✓ first" in done.stderr and "my cluster" not in done.stderr


def test_the_exit_code_and_the_json_are_those_of_the_run(jobs: Jobs) -> None:
    done = jobs["bad --submit"]
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "failed" and document["error"]["message"] == "it was asked to fail"


@pytest.mark.usefixtures("jobs")
def test_ctrl_c_stops_the_job_and_cancels_its_run(office: Office) -> None:
    before = office.statuses()
    with (office.root.parent / "err").open("w+") as log:
        command = [str(BIN / "fm"), "run", "x", "--submit", "--input", '{"until": "/nowhere"}']
        process = subprocess.Popen(command, cwd=office.root, env=office.environ, stdout=log, stderr=log)
        wait_for(lambda: len(office.statuses()) > len(before))
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 3, (office.root.parent / "err").read_text()
    [cancelled] = [status for run_id, status in office.statuses().items() if run_id not in before]
    assert cancelled == "cancelled"


def test_what_cannot_be_submitted_is_refused_before_anything_is_uploaded(office: Office, tmp_path: Path) -> None:
    wrong = office.run("fm", "run", "x", "--submit", "--set", "until=5")
    assert wrong.returncode == 2 and "job" not in wrong.stderr
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    lost = office.run("fm", "run", "x", "--submit", "--set", f"other=@{outside}")
    assert lost.returncode == 2 and "lies outside of the folder that is uploaded" in lost.stderr
    nowhere = office.run("fm", "run", "x", "--submit", FLOWMASON_HOME=str(tmp_path / "no-cluster"))
    assert nowhere.returncode == 4 and "fm cluster up" in nowhere.stderr


def wait_for(look: Callable[[], bool], within_s: float = 300.0) -> None:
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)
