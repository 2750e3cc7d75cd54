"""SIGKILL of Ray's workers, of node hosts, of `fm run` and of a whole cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.kit import Project, chain, stage, standing_cluster, wait_for
from flowmason import event as ev

pytestmark = pytest.mark.slow

FIRST_SIX = ("s1", "s2", "s3", "s4", "s5", "s6")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A warm cluster; its FLOWMASON_HOME."""
    with standing_cluster(tmp_path_factory.mktemp("cluster")) as owner:
        yield owner.home


@pytest.fixture
def warm(make_project: Callable[..., Project], cluster: Path) -> Project:
    """A project that runs on the warm cluster."""
    return make_project(on="ray", cluster=cluster)


@pytest.fixture
def alone(make_project: Callable[..., Project]) -> Project:
    """A project each of whose commands starts a Ray of its own."""
    return make_project(on="ray")


@pytest.mark.parametrize("component", ["step", "carry"])
def test_a_run_ends_by_itself_after_its_worker_was_killed_in_stage_7_of_10(warm: Project, component: str) -> None:
    gate = warm.gate()
    running = warm.run(warm.pipeline("ten", *chain(*[component] * 10, gates={7: gate})))
    worker = warm.began("s7").pid
    assert worker != running.pid
    warm.await_finished("s6")
    os.kill(worker, signal.SIGKILL)
    gate.touch()
    assert running.end().code == 0, repr(running)
    story = warm.verify()
    assert {path: story.times(path) for path in FIRST_SIX} == dict.fromkeys(FIRST_SIX, 1)
    assert story.times("s7") == 2
    assert len({entry.pid for entry in story.begins if entry.path == "s7"}) == 2
    # What is pure shared a region with others: that it was lost is on record only once a stage is to blame.
    assert len(story.kinds(ev.StageLost)) <= 1


def test_a_stage_that_kills_its_worker_every_time_fails_by_name(warm: Project) -> None:
    """The stages that travelled with it are not blamed, and come to their end on resume."""
    killer = stage("killer", "killer", after="s1")
    beside = [stage(f"b{n}", "step", after="s1", seconds=0.05) for n in range(4)]
    answer = warm.run(warm.pipeline("kills", stage("s1", "step"), killer, *beside)).end()
    assert answer.code == 1, repr(answer)
    assert (answer.json["error"]["code"], answer.json["error"]["stage"]) == ("LOST", "killer")
    story = warm.verify("failed")
    assert 4 <= story.times("killer") <= 5, story
    assert [ev.kind(event) for event in story.kinds(ev.StageFailed)] == ["stage.failed"]


def test_an_idempotent_call_is_repeated_under_its_key_after_its_host_was_killed(warm: Project) -> None:
    gate = warm.gate()
    running = warm.run(warm.pipeline("calls", *chain("deliver", "step", "deliver", "deliver", gates={3: gate})))
    host = warm.began("s3").pid
    os.kill(host, signal.SIGKILL)
    gate.touch()
    assert running.end().code == 0, repr(running)
    story = warm.verify()
    assert {path: story.times(path) for path in ("s1", "s2", "s3", "s4")} == {"s1": 1, "s2": 1, "s3": 2, "s4": 1}
    assert [event.attempt for event in story.kinds(ev.StageLost)] == [1]
    assert host not in {entry.pid for entry in warm.entries("end", "s3")}


def test_an_unsafe_call_is_not_repeated_after_its_host_was_killed_unless_asked(warm: Project) -> None:
    gate = warm.gate()
    running = warm.run(warm.pipeline("pays", *chain("deliver", "pay", "deliver", gates={2: gate})))
    os.kill(warm.began("s2").pid, signal.SIGKILL)
    gate.touch()
    assert running.end().code == 1, repr(running)
    assert running.json["error"]["code"] == "OUTCOME_UNKNOWN"
    assert "--rerun-unknown s2" in running.json["error"]["help"]
    story = warm.verify("failed")
    assert (story.times("s1"), story.times("s2"), story.times("s3")) == (1, 1, 0)
    refused = warm.fm("resume")
    assert refused.code == 2, repr(refused)
    assert "--rerun-unknown s2" in refused.err
    answer = warm.fm("resume", "--json", "--rerun-unknown", "s2")
    assert answer.code == 0, repr(answer)
    story = warm.verify()
    assert (story.times("s1"), story.times("s2"), story.times("s3")) == (1, 2, 1)


@pytest.mark.parametrize("journal", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_resume_attaches_to_a_call_that_outlived_fm_run(
    make_project: Callable[..., Project], cluster: Path, journal: str, request: pytest.FixtureRequest
) -> None:
    """The host belongs to the cluster: even an unsafe call goes on, and nobody pays twice."""
    database = request.getfixturevalue("postgres_url") if journal == "postgres" else None
    warm = make_project(on="ray", cluster=cluster, database=database)
    gate = warm.gate()
    running = warm.run(warm.pipeline("pays", *chain("deliver", "pay", "step", gates={2: gate})))
    warm.began("s2")
    running.kill()
    resuming = warm.start("resume", "--json")
    wait_for(lambda: any(isinstance(each.event, ev.RunAdopted) for each in warm.events()), what="the run is adopted")
    gate.touch()
    assert resuming.end().code == 0, repr(resuming)
    story = warm.verify()
    assert (story.times("s1"), story.times("s2"), story.times("s3")) == (1, 1, 1)


def test_a_call_that_ended_while_nobody_walked_its_run_is_not_repeated(warm: Project) -> None:
    gate = warm.gate()
    running = warm.run(warm.pipeline("pays", *chain("deliver", "pay", "step", gates={2: gate})))
    warm.began("s2")
    running.kill()
    gate.touch()
    wait_for(lambda: warm.entries("end", "s2"), what="the call ends by itself")
    answer = warm.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    assert warm.verify().times("s2") == 1


def test_fm_run_and_its_host_are_killed(warm: Project) -> None:
    gate = warm.gate()
    stages = [*chain("deliver", "pay", gates={2: gate}), stage("other", "deliver", after="s1", gate=gate)]
    running = warm.run(warm.pipeline("both", *stages))
    host = warm.began("s2").pid
    warm.began("other")
    running.kill()
    os.kill(host, signal.SIGKILL)
    gate.touch()
    answer = warm.fm("resume", "--json")
    assert answer.code == 1, repr(answer)
    assert answer.json["error"]["code"] == "OUTCOME_UNKNOWN"
    answer = warm.fm("resume", "--json", "--rerun-unknown", "s2")
    assert answer.code == 0, repr(answer)
    story = warm.verify()
    assert (story.times("s1"), story.times("s2"), story.times("other")) == (1, 2, 2)


@pytest.mark.parametrize(("component", "recorded"), [("deaf", {"s1", "s2"}), ("deaf_step", {"s1"})])
def test_a_result_that_arrives_after_the_cancel_changes_nothing(
    warm: Project, component: str, recorded: set[str]
) -> None:
    late = stage("s2", component, after="s1", seconds=3.0)
    running = warm.run(warm.pipeline("deaf", stage("s1", "deliver"), late, stage("s3", "deliver", after="s2")))
    warm.began("s2")
    running.send(signal.SIGINT)
    assert running.end().code == 3, repr(running)
    assert "Traceback" not in running.err
    story = warm.verify("cancelled")
    assert {path for path, _ in story.results} <= recorded
    assert story.times("s3") == 0
    wait_for(lambda: warm.entries("end", "s2") or component == "deaf_step", what="the late result")
    assert warm.verify("cancelled").recorded == story.recorded


def test_a_killed_run_takes_its_own_ray_with_it_and_is_resumed_on_another(alone: Project) -> None:
    gate = alone.gate()
    mixed = ("step", "deliver", "carry", "step", "deliver", "carry", "deliver", "step")
    running = alone.run(alone.pipeline("mixed", *chain(*mixed, gates={5: gate})))
    alone.began("s5")
    running.kill()
    wait_for(lambda: not workers(alone), what="every process that ran a stage is gone")
    gate.touch()
    answer = alone.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    assert answer.json["executor"] == "ray"
    story = alone.verify()
    paths = [f"s{n}" for n in range(1, 9)]
    assert [story.times(path) for path in paths] == [1, 1, 1, 1, 2, 1, 1, 1]
    assert not workers(alone)


@pytest.mark.parametrize("kind", ["warm", "own"])
def test_a_run_whose_whole_cluster_was_killed_says_so_and_is_resumed_on_another(alone: Project, kind: str) -> None:
    if kind == "warm":
        up = alone.fm("cluster", "up", "--num-cpus", "2", "--no-dashboard")
        assert up.code == 0, repr(up)
    gate = alone.gate()
    more = stage("long", "step", gate=gate)
    running = alone.run(alone.pipeline("calls", *chain("deliver", "step", "deliver", "step", gates={3: gate}), more))
    alone.began("s3")
    alone.began("long")
    for pid in alone.processes():
        if pid != running.pid:
            os.kill(pid, signal.SIGKILL)
    gate.touch()
    assert running.end(30).code == 4, repr(running)
    told, row = running.json, alone.only_run()
    assert (told["run_id"], told["status"], row.status) == (row.run_id, "running", "running")
    assert told["error"]["code"] == "ENGINE_UNAVAILABLE"
    assert "is gone" in told["error"]["message"] and f"fm resume {row.run_id}" in told["error"]["help"]
    assert told["stages"]["s1"]["status"] == "completed"
    assert "Traceback" not in running.err
    assert not any(isinstance(each.event, ev.StageLost | ev.StageFailed) for each in alone.events())
    answer = alone.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    story = alone.verify()
    assert [story.times(path) for path in ("s1", "s2", "s3", "s4", "long")] == [1, 1, 2, 1, 2]


def test_a_run_whose_head_alone_was_killed_says_so(alone: Project) -> None:
    gate = alone.gate()
    running = alone.run(alone.pipeline("calls", *chain("deliver", "deliver", gates={2: gate})))
    alone.began("s2")
    [head] = [pid for pid in alone.processes() if b"gcs_server" in command(pid)[:200]]
    os.kill(head, signal.SIGKILL)
    assert running.end(30).code == 4, repr(running)
    assert "GCS" in running.json["error"]["message"]
    gate.touch()
    answer = alone.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    assert [alone.verify().times(path) for path in ("s1", "s2")] == [1, 2]


def command(pid: int) -> bytes:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def workers(project: Project) -> set[int]:
    """The living processes that ran stages."""
    return {entry.pid for entry in project.entries()} & set(project.processes())
