"""Conductors as actors: a pool walks the runs of all orgs, and goes on after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowmason.conductor import new_run
from flowmason.errors import UsageError
from flowmason.ids import Digest, Ids, OrgId, RunId
from flowmason.journal_sql import SqlJournal, open_journal
from flowmason_actors.conductor_host import HostSettings
from flowmason_actors.conductor_pool import ConductorPool, nudge, statuses
from ray_kit import Lab, stage

ORGS = (OrgId("org_a"), OrgId("org_b"))


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqlJournal]:
    opened = open_journal(f"sqlite:///{tmp_path / 'pool.db'}")
    yield opened
    await opened.close()


@pytest.fixture
async def pool(cluster: object, lab: Lab, journal: SqlJournal) -> AsyncIterator[ConductorPool]:
    settings = HostSettings(worker=lab.settings(mark="pool"), database_url=journal.url)
    made = ConductorPool(settings, 1)
    await asyncio.to_thread(made.ensure)
    yield made
    await asyncio.to_thread(made.drain, 2.0)


async def submit(lab: Lab, journal: SqlJournal, org: OrgId, *stages: dict[str, object]) -> RunId:
    plan = lab.plan(*stages)
    lab.values.put(org, Digest(plan.id), plan.encoded)
    run = new_run(plan, {}, run_id=Ids(time.time).run(), now=1, by="test", values=lab.values, org_id=org)
    return (await journal.submit(run)).run_id


async def ended(journal: SqlJournal, run_id: RunId, within_s: float = 60.0) -> str:
    async with asyncio.timeout(within_s):
        while True:
            row = await journal.row(run_id)
            assert row is not None
            if row.status in ("completed", "failed", "cancelled"):
                return row.status
            await asyncio.sleep(0.05)


async def test_the_pool_walks_the_runs_of_several_orgs(pool: ConductorPool, lab: Lab, journal: SqlJournal) -> None:
    runs = [await submit(lab, journal, org, stage("s", "echo", value=n)) for n in range(3) for org in ORGS]
    await asyncio.to_thread(nudge)
    assert [await ended(journal, run_id) for run_id in runs] == ["completed"] * 6
    [status] = (await asyncio.to_thread(statuses)).values()
    assert status.conductor.startswith("cond_") and not status.trouble


async def test_a_killed_conductor_is_started_again_and_adopts_its_runs(
    pool: ConductorPool, lab: Lab, journal: SqlJournal, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    run_id = await submit(
        lab,
        journal,
        ORGS[0],
        stage("a", "call", value=1, seconds=3.0, file=str(notes)),
        stage("b", "echo", after=["a"]),
    )
    async with asyncio.timeout(60):
        while not notes.exists():
            await asyncio.sleep(0.02)
    [before] = (await asyncio.to_thread(statuses)).values()
    os.kill(before.pid, signal.SIGKILL)
    # Seconds on a quiet machine; for good where the host that Ray starts again is not woken up.
    async with asyncio.timeout(60):
        while not any(each.by != before.conductor for each in (await journal.read(run_id))[1:]):
            await asyncio.sleep(0.05)
    assert await ended(journal, run_id) == "completed"
    # The call went on, on a host that outlives conductors: nobody pays twice.
    assert [line.split()[0] for line in notes.read_text().splitlines()] == ["began", "ended"]


def test_more_than_one_conductor_on_sqlite_is_refused(lab: Lab) -> None:
    settings = HostSettings(worker=lab.settings(), database_url="sqlite:////tmp/x.db")
    with pytest.raises(UsageError, match="exactly one"):
        ConductorPool(settings, 2)
