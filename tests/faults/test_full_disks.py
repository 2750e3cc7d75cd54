"""The disk under values and journal is full: a clear failure, nothing lost, and the run goes on once there is room."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.kit import Project, chain, stage
from faults.small_disk import Disk, Limited, Mounted

pytestmark = pytest.mark.slow

LARGE = 3_000_000


@pytest.fixture(params=["file system", "file size"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A small file system; where nobody may mount one, a limit on the size of files stands in for it."""
    found: Disk
    if request.param == "file system":
        try:
            found = Mounted(tmp_path / "mounted")
        except PermissionError:
            found = Limited(tmp_path / "limited")
    else:
        found = Limited(tmp_path / "limited")
    yield found
    found.close()


@pytest.fixture
def project(make_project: Callable[..., Project], disk: Disk) -> Project:
    """A project whose journal and values lie on the small disk."""
    return make_project(state=disk.folder)


def test_a_value_for_which_there_is_no_room_fails_its_stage_and_resume_goes_on(project: Project, disk: Disk) -> None:
    gate = project.gate()
    running = project.run(
        project.pipeline(
            "large",
            stage("s1", "deliver", size=LARGE),
            stage("s2", "step", size=LARGE, after="s1"),
            stage("s3", "step", size=LARGE, after="s2", gate=gate),
            stage("s4", "deliver"),
        )
    )
    project.began("s3")
    project.await_finished("s2")
    # Room for the journal, not for the value.
    disk.fill(running, leave=64 * 1024)
    gate.touch()
    assert running.end().code in (1, 130), repr(running)
    assert running.json["error"]["code"] == "STORAGE", repr(running)
    assert "room" in running.err
    assert "Traceback" not in running.err
    disk.free(running)
    answer = project.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    story = project.verify()
    assert (story.times("s1"), story.times("s2"), story.times("s3"), story.times("s4")) == (1, 1, 2, 1)


def test_a_journal_that_finds_room_in_time_goes_on_by_itself(project: Project, disk: Disk) -> None:
    gate = project.gate()
    running = project.run(project.pipeline("waits", *chain("deliver", "step", "deliver", "step", gates={2: gate})))
    project.began("s2")
    disk.fill(running)
    gate.touch()
    time.sleep(2.0)
    assert running.process.poll() is None, repr(running)
    assert project.entries("begin", "s3") == [], "an effect began without its start in the journal"
    disk.free(running)
    assert running.end().code == 0, repr(running)
    story = project.verify()
    assert {path: story.times(path) for path in ("s1", "s2", "s3", "s4")} == {"s1": 1, "s2": 1, "s3": 1, "s4": 1}


def test_a_journal_without_room_gives_the_run_up_and_resume_finishes_it(project: Project, disk: Disk) -> None:
    gate = project.gate()
    running = project.run(project.pipeline("waits", *chain("deliver", "step", "deliver", "step", gates={2: gate})))
    project.began("s2")
    disk.fill(running)
    gate.touch()
    assert running.end(120).code == 130, repr(running)
    assert running.json["error"]["code"] == "STORAGE"
    assert "does not take more" in running.err
    assert "Traceback" not in running.err
    assert project.only_run().status == "running"  # it can be read although the disk is full
    disk.free(running)
    answer = project.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    story = project.verify()
    assert (story.times("s1"), story.times("s3"), story.times("s4")) == (1, 1, 1)


def test_a_run_for_which_there_is_no_room_is_not_accepted(local: Project) -> None:
    name = local.pipeline("small", *chain("deliver", "step"))
    assert local.run(name).end().code == 0
    full = (24 * 1024, resource.RLIM_INFINITY)
    answer = local.run(name, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full)).end()
    assert answer.code == 1, repr(answer)
    assert answer.json["error"]["code"] == "STORAGE"
    assert "Traceback" not in answer.err
    assert len(local.rows()) == 1
    assert len(local.entries()) == 2
