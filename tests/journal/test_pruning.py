"""What every journal promises of pruning: the same tests on memory, SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from flowmason.errors import UsageError
from flowmason.event import RunSubmitted
from flowmason.ids import LOCAL_ORG, Digest, OrgId
from flowmason.journal import Journal
from flowmason.report import LogLine
from flowmason.value import Stored
from journal_samples import (
    PLAN_ID,
    claimed,
    command,
    ended,
    new_run,
)


async def test_pruning_removes_old_ended_runs_with_all_they_have_and_nothing_else(journal: Journal) -> None:
    value = Stored(Digest("sha256:" + "ab" * 32), 100_000)
    old = await ended(journal, "old", at=10, events=(RunSubmitted(PLAN_ID, value),), idempotency_key="k")
    await ended(journal, "failed", status="failed", at=10)
    await ended(journal, "recent", at=500)
    await ended(journal, "foreign", at=10, org_id=OrgId("other"))
    wanted = await ended(journal, "wanted", at=10)
    await journal.post(command(wanted, "resume"))
    await claimed(journal, "busy", at=1)
    await journal.submit(new_run("waiting", at=1))
    await journal.add_side(old.org_id, old.run_id, [LogLine(("s",), 1, 1, 5, "info", "x")], [])
    assert await journal.references([value.digest]) == {value.digest}
    assert await journal.prune(LOCAL_ORG, before=100, statuses=["completed"], dry_run=True) == [old.run_id]
    assert await journal.row(old.run_id) == old
    assert await journal.prune(LOCAL_ORG, before=100, statuses=["completed"]) == [old.run_id]
    assert await journal.prune(LOCAL_ORG, before=100, statuses=[]) == ["run_failed"]
    assert await journal.row(old.run_id) is None
    assert await journal.read(old.run_id) == []
    assert await journal.logs(old.run_id) == []
    assert await journal.references([value.digest]) == set()
    left = {row.run_id for row in await journal.rows(LOCAL_ORG)}
    assert left == {"run_recent", "run_wanted", "run_busy", "run_waiting"}
    assert (await journal.submit(new_run("anew", idempotency_key="k"))).run_id == "run_anew"


async def test_runs_that_have_not_ended_cannot_be_pruned(journal: Journal) -> None:
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="running"):
            await journal.prune(LOCAL_ORG, before=1, statuses=["running"], dry_run=dry_run)
