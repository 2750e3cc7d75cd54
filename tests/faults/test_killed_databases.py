"""PostgreSQL is killed while it commits, and comes back: the run waits for it, and ends by itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from faults.kit import Project, chain, stage, wait_for
from services import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

ITEMS = 240


@pytest.fixture
def project(make_project: Callable[..., Project], postgres_url: str) -> Project:
    """A project whose journal lies in PostgreSQL."""
    return make_project(database=postgres_url)


def busy(project: Project) -> str:
    """A pipeline of a chain and many small effects: it commits all the time."""
    each = {
        "id": "each",
        "component": "foreach",
        "config": {"items": "{{input.items}}", "parallel": True, "max_concurrency": 4, "loop_stages": ["item"]},
        "depends_on": ["s6"],
    }
    return project.pipeline(
        "busy",
        *chain("deliver", "step", "pay", "deliver", "step", "pay"),
        each,
        stage("item", "deliver", seconds=0.02),
        {**stage("last", "pay"), "depends_on": ["each"]},
        sample_input={"items": list(range(ITEMS))},
    )


def test_a_run_outlives_the_death_of_its_database(project: Project, postgres_server: PostgresServer) -> None:
    rng = random.Random(11)
    running = project.run(busy(project), "--sample")
    project.began("s6")
    for _ in range(3):
        time.sleep(rng.uniform(0.1, 0.3))
        assert running.process.poll() is None, repr(running)
        postgres_server.kill()
        time.sleep(2.0)
        seen = len(project.entries())
        postgres_server.start_again()
        project.await_entries(min(seen + 20, ITEMS + 7))
    assert running.end().code == 0, repr(running)
    story = project.verify()
    assert len(story.results) == ITEMS + 8
    assert len(story.begins) == ITEMS + 7, "no worker was lost, so nothing is done twice"
    assert len({each.by for each in story.recorded}) == 2


def test_a_run_and_its_database_die_together(project: Project, postgres_server: PostgresServer) -> None:
    running = project.run(busy(project), "--sample")
    project.await_entries(60)
    postgres_server.kill()
    running.kill()
    refused = project.fm("resume", "--json")
    assert refused.code == 4, repr(refused)
    assert "cannot be reached" in refused.err
    postgres_server.start_again()
    # The journal may still name the dead process as the owner.
    wait_for(lambda: project.only_run().status == "running", what="the journal can be read")
    answer = project.fm("resume", "--json")
    assert answer.code == 0, repr(answer)
    story = project.verify()
    assert len(story.results) == ITEMS + 8
