"""More than one process on one journal: who walks a run, and what becomes of one that was thought dead."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from faults.kit import Project, chain, stage, wait_for
from flowmason import event as ev

pytestmark = pytest.mark.slow

# A conductor that adopts the runs of others, as a server would host it.
_POOL = """
import asyncio, os, random, sys, time
from pathlib import Path
from flowmason.assembly.engine import host_name, make_executor, open_stores, pid_alive
from flowmason.assembly.hosting import now_ms, started
from flowmason.assembly.workspace import Workspace
from flowmason.conductor import Conductor
from flowmason.ids import Ids, RunId

async def main(run_id):
    workspace = Workspace.at(Path.cwd())
    stores = open_stores(workspace.root)
    async with started(make_executor("local", workspace.worker_settings(stores.values_url))) as executor:
        conductor = Conductor(
            journal=stores.journal, values=stores.values, executor=executor, now=now_ms, ids=Ids(time.time),
            rng=random.Random(1), host=host_name(), pid=os.getpid(), resolve=workspace.resolve, pid_alive=pid_alive,
        )
        running = asyncio.create_task(conductor.run())
        while (await stores.journal.row(RunId(run_id))).status == "running":
            await asyncio.sleep(0.1)
        conductor.stop()
        await running
    await stores.close()

asyncio.run(main(sys.argv[1]))
"""


def test_of_two_resumes_at_once_one_walks_the_run(on_each_journal: Project) -> None:
    project = on_each_journal
    gate = project.gate()
    running = project.run(project.pipeline("twice", *chain("deliver", "step", "deliver", "step", gates={3: gate})))
    project.began("s3")
    running.kill()
    resumes = [project.start("resume", running_id, "--json") for running_id in [project.only_run().run_id] * 3]
    project.began("s3", 2)
    wait_for(lambda: sum(each.process.poll() is not None for each in resumes) >= 2, what="two give way")
    gate.touch()
    codes = sorted(each.end().code for each in resumes)
    assert codes[0] == 0, resumes
    assert codes[1:] == [2, 2], resumes
    for each in resumes:
        assert each.code == 0 or "held by conductor" in each.err or "being walked by process" in each.err, repr(each)
        assert each.code == 0 or "fm resume" not in each.err, repr(each)
        assert "Traceback" not in each.err, repr(each)
    story = project.verify()
    assert (story.times("s1"), story.times("s3")) == (1, 2)


def test_an_owner_that_comes_back_after_it_was_thought_dead_is_refused(on_each_journal: Project) -> None:
    project = on_each_journal
    gate, late = project.gate(), project.gate("late")
    stages = chain("deliver", "deliver", "step", "deliver", "deliver", gates={2: gate, 4: late})
    running = project.run(project.pipeline("stopped", *stages))
    project.began("s2")
    run_id = project.only_run().run_id
    running.send(signal.SIGSTOP)
    with subprocess.Popen([sys.executable, "-c", _POOL, run_id], cwd=project.root, env=project.environ) as pool:
        begun = time.monotonic()
        project.began("s2", 2)
        assert time.monotonic() - begun > 8, "it was thought dead too soon"
        running.send(signal.SIGCONT)
        time.sleep(0.5)
        gate.touch()  # both see their own call of s2 end
        project.began("s4")
        assert running.end().code != 0, repr(running)
        late.touch()
        assert pool.wait(60) == 0
    story = project.verify()
    assert [event.epoch for event in story.kinds(ev.RunAdopted)] == [2]
    assert {path: story.times(path) for path in ("s1", "s2", "s3", "s4", "s5")} == {
        "s1": 1,
        "s2": 2,
        "s3": 1,
        "s4": 1,
        "s5": 1,
    }
    assert len({each.by for each in story.recorded}) == 3, "the submitter, the first owner and the second"


def test_a_run_whose_owner_hangs_can_be_resumed(local: Project) -> None:
    """Its process lives, but it has not beaten for ten seconds: it is dead."""
    gate = local.gate()
    running = local.run(local.pipeline("hangs", *chain("deliver", "deliver", "step", gates={2: gate})))
    local.began("s2")
    running.send(signal.SIGSTOP)
    gate.touch()
    answer = local.fm("resume", local.only_run().run_id, "--json")
    assert answer.code == 0, repr(answer)
    running.send(signal.SIGCONT)
    assert running.end().code == 0, "it tells how its run ended elsewhere"
    assert "was declared dead" in running.err
    story = local.verify()
    assert (story.times("s1"), story.times("s2"), story.times("s3")) == (1, 2, 1)


def test_two_runs_of_one_project_share_one_journal(on_each_journal: Project) -> None:
    project = on_each_journal
    wide = [stage(f"w{n}", ("step", "deliver")[n % 2], seconds=0.01) for n in range(40)]
    last = {**stage("last", "deliver"), "depends_on": [each["id"] for each in wide]}
    name = project.pipeline("wide", *wide, last)
    # Neither finds a journal there: they make its tables at the same time.
    runs = [project.run(name) for _ in range(3)]
    ids = {each.end().json["run_id"] for each in runs}
    assert [each.code for each in runs] == [0, 0, 0], runs
    assert len(ids) == 3
    everything = project.entries()
    assert len(everything) == 3 * 41
    for each in runs:
        story = project.verify(run_id=each.json["run_id"], pids=[each.pid])
        assert len(story.results) == 41
        assert len(story.begins) == 41
