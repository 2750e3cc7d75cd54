"""SIGKILL of `fm run`, its conductor and its workers with it: `fm resume` ends the run, and nothing is redone."""

from __future__ import annotations

import random

import pytest

from faults.kit import Project, chain, stage, wait_for
from flowmason import event as ev

pytestmark = pytest.mark.slow

TEN = ("step", "deliver", "step", "deliver", "step", "step", "deliver", "step", "deliver", "step")


def test_a_killed_run_is_finished_by_resume_without_redoing_a_finished_stage(on_each_journal: Project) -> None:
    project = on_each_journal
    gate = project.gate()
    running = project.run(project.pipeline("ten", *chain(*TEN, gates={7: gate})))
    project.began("s7")
    running.kill()
    assert project.only_run().status == "running"
    gate.touch()
    answer = project.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    story = project.verify()
    assert {path: story.times(path) for path in ("s1", "s2", "s3", "s4", "s5", "s6")} == dict.fromkeys(
        ("s1", "s2", "s3", "s4", "s5", "s6"), 1
    )
    assert story.times("s7") == 2
    assert answer.json["run_id"] == story.recorded[0].run_id
    assert [event.epoch for event in story.kinds(ev.RunAdopted)] == [2]


def test_a_run_that_is_killed_again_and_again_loses_and_doubles_nothing(on_each_journal: Project) -> None:
    project = on_each_journal
    rng = random.Random(7)
    stages = chain("deliver", "step", "deliver", seconds=0.05)
    wide = [stage(f"w{n}", ("step", "deliver")[n % 2], after="s3", seconds=0.1) for n in range(12)]
    each = {
        "id": "each",
        "component": "foreach",
        "config": {"items": "{{input.items}}", "parallel": True, "max_concurrency": 2, "loop_stages": ["item"]},
        "depends_on": ["s3"],
    }
    item = stage("item", "deliver", seconds=0.1)
    last = {**stage("last", "step"), "depends_on": ["each", *(found["id"] for found in wide)]}
    name = project.pipeline("wide", *stages, *wide, each, item, last, sample_input={"items": list(range(20))})
    running = project.run(name, "--sample")
    wait_for(lambda: project.entries(), what="it begins")
    for _ in range(3):
        assert running.process.poll() is None, repr(running)
        goal = len(project.entries()) + rng.randrange(3, 7)
        project.await_entries(goal)
        running.kill()
        running = project.start("resume", "--json")
    assert running.end().code == 0, running
    story = project.verify()
    assert len(story.results) == 3 + 12 + 20 + 2
    assert len(story.kinds(ev.RunAdopted)) == 3


def test_a_killed_unsafe_effect_is_not_repeated_unless_asked(on_each_journal: Project) -> None:
    project = on_each_journal
    gate = project.gate()
    running = project.run(project.pipeline("pays", *chain("deliver", "pay", "step", gates={2: gate})))
    project.began("s2")
    running.kill()
    gate.touch()
    answer = project.fm("resume", "--json")
    assert answer.code == 1, answer
    assert answer.json["error"]["code"] == "OUTCOME_UNKNOWN"
    assert answer.json["error"]["stage"] == "s2"
    story = project.verify("failed")
    assert (story.times("s1"), story.times("s2"), story.times("s3")) == (1, 1, 0)

    refused = project.fm("resume", "--json")
    assert refused.code == 2, refused
    assert "--rerun-unknown s2" in refused.err
    assert project.verify("failed").times("s2") == 1

    answer = project.fm("resume", "--json", "--rerun-unknown", "s2")
    assert answer.code == 0, repr(answer)
    story = project.verify()
    assert (story.times("s1"), story.times("s2"), story.times("s3")) == (1, 2, 1)
    assert project.fm("resume", story.recorded[0].run_id).code == 2
