"""Results that come after a cancel, and Ctrl-C once and twice, with components that take no notice."""

from __future__ import annotations

import signal

import pytest

from faults.kit import Fm, Project, chain, stage, wait_for
from flowmason import event as ev

pytestmark = pytest.mark.slow


def cancelling(project: Project) -> bool:
    """Whether the journal knows that the run is being cancelled."""
    return any(isinstance(each.event, ev.RunCancelling) for each in project.events())


def begin(project: Project, component: str, seconds: float, gate: str = "") -> Fm:
    """A run whose second stage goes on for `seconds` after it was cancelled, or until the gate is there."""
    deaf = stage("s2", component, after="s1", seconds=seconds, gate=gate)
    running = project.run(project.pipeline("deaf", stage("s1", "deliver"), deaf, stage("s3", "deliver", after="s2")))
    project.began("s2")
    return running


@pytest.mark.parametrize(("component", "recorded"), [("deaf", {"s1", "s2"}), ("deaf_step", {"s1"})])
def test_a_result_that_arrives_after_the_cancel_changes_nothing(
    local: Project, component: str, recorded: set[str]
) -> None:
    """What is pure is dropped. An effect that came to its end within the grace did happen, and is on record."""
    running = begin(local, component, 3.0)
    assert local.fm("cancel", local.only_run().run_id).code == 0
    assert running.end().code == 3, repr(running)
    assert running.json["status"] == "cancelled"
    assert [entry.path for entry in local.entries("end")] == ["s1", "s2"], "it was not late"
    story = local.verify("cancelled")
    assert {path for path, _ in story.results} == recorded
    assert story.times("s3") == 0
    assert local.fm("resume", str(story.recorded[0].run_id)).code == 2


def test_a_result_that_arrives_after_the_grace_is_dropped(local: Project) -> None:
    """A cleanup keeps the run alive until after the late result has come."""
    guarded = {"try_stages": ["s2"], "finally_stages": ["tidy"]}
    running = local.run(
        local.pipeline(
            "tidies",
            stage("s1", "deliver"),
            {"id": "guard", "component": "trycatch", "config": guarded, "depends_on": ["s1"]},
            stage("s2", "deaf", seconds=7.0),
            stage("tidy", "deliver", seconds=4.0),
        )
    )
    local.began("s2")
    running.send(signal.SIGINT)
    assert running.end(30).code == 3, repr(running)
    late, tidied = local.entries("end", "s2"), local.entries("end", "tidy")
    assert late and tidied and late[0].at < tidied[0].at, "it was not late"
    story = local.verify("cancelled")
    assert ("s2", 1) not in {(path.split(".")[-1], round_) for path, round_ in story.results}
    assert story.recorded[-1].at >= tidied[0].at


def test_a_component_that_outlives_the_grace_does_not_hold_the_cancel_up(local: Project) -> None:
    running = begin(local, "deaf", 60.0)
    running.send(signal.SIGINT)
    assert running.end(20).code == 3, repr(running)
    assert "left behind" in running.err
    story = local.verify("cancelled")
    assert {path for path, _ in story.results} == {"s1"}
    assert local.entries("end", "s2") == []


def test_a_cancel_that_is_older_than_the_death_of_the_run_still_counts(local: Project) -> None:
    running = begin(local, "deaf", 60.0)
    running.send(signal.SIGINT)
    wait_for(lambda: cancelling(local), what="the cancel is recorded")
    running.kill()
    answer = local.fm("resume", "--json")
    assert answer.code == 3, repr(answer)
    story = local.verify("cancelled")
    assert (story.times("s2"), story.times("s3")) == (1, 0)


def test_the_first_ctrl_c_cancels(local: Project) -> None:
    running = local.run(local.pipeline("waits", *chain("deliver", "deliver", "step", gates={2: local.gate()})))
    local.began("s2")
    running.send(signal.SIGINT)
    assert running.end(20).code == 3, repr(running)
    assert "Traceback" not in running.err
    story = local.verify("cancelled")
    assert {path for path, _ in story.results} == {"s1"}


def test_an_unsafe_effect_under_way_is_on_record_as_unknown(local: Project) -> None:
    running = local.run(local.pipeline("pays", *chain("deliver", "pay", gates={2: local.gate()})))
    local.began("s2")
    running.send(signal.SIGINT)
    assert running.end(20).code == 3, repr(running)
    [cancelled] = local.verify("cancelled").kinds(ev.StageCancelled)
    assert cancelled.failure is not None
    assert (cancelled.path, cancelled.failure.code) == (("s2",), "OUTCOME_UNKNOWN")


def test_the_second_ctrl_c_takes_the_cancel_back_and_resume_finishes_the_run(local: Project) -> None:
    gate = local.gate()
    running = begin(local, "deaf", 60.0, gate=str(gate))
    running.send(signal.SIGINT)
    wait_for(lambda: local.entries("cancel"), what="the component is cancelled")
    running.send(signal.SIGINT)
    assert running.end(30).code == 130, repr(running)
    assert "Traceback" not in running.err
    assert local.only_run().status == "running"
    gate.touch()
    answer = local.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    story = local.verify()
    assert (story.times("s1"), story.times("s2"), story.times("s3")) == (1, 2, 1)


def test_sigterm_leaves_a_run_that_resume_finishes(local: Project) -> None:
    gate = local.gate()
    running = local.run(local.pipeline("waits", *chain("deliver", "step", "deliver", "step", gates={3: gate})))
    local.began("s3")
    running.send(signal.SIGTERM)
    assert running.end(30).code == 130, repr(running)
    gate.touch()
    answer = local.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    assert local.verify().times("s1") == 1
