"""Runs and appends for the tests of journals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from flowmason.database import normalise_url
from flowmason.event import Event, RunCompleted, RunSubmitted, StageFinished
from flowmason.ids import LOCAL_ORG, ConductorId, PlanId, RunId, sha256
from flowmason.journal import Append, Claimed, Command, Journal, NewRun, RunRow
from flowmason.journal_memory import MemoryJournal
from flowmason.slices import Day
from flowmason.usage import Limit
from flowmason.value import inline

SQL = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
ALL = ["memory", *SQL]
Opener = Callable[[], Journal]

PLAN = b"a plan"
PLAN_ID = PlanId(sha256(PLAN))
ME = ConductorId("cond_ME")
OTHER = ConductorId("cond_OTHER")
DAY = "1970-01-01"


def new_run(name: str = "a", **fields: Any) -> NewRun:
    """A submission of run `run_<name>`."""
    given: dict[str, Any] = {
        "run_id": RunId(f"run_{name}"),
        "org_id": LOCAL_ORG,
        "plan_id": PLAN_ID,
        "plan": PLAN,
        "pipeline": "p",
        "version": "1.0.0",
        "events": (RunSubmitted(PLAN_ID, inline({"name": name})),),
        "at": 1_000,
        "by": "cli",
    }
    return NewRun(**(given | fields))


def finished(name: str, data: Any = None) -> StageFinished:
    """The end of a stage."""
    return StageFinished((name,), 1, inline(data))


def append(row: RunRow | Claimed, *events: Event, **fields: Any) -> Append:
    """Events for a run as it stands in `row`."""
    row = row.row if isinstance(row, Claimed) else row
    given: dict[str, Any] = {
        "run_id": row.run_id,
        "org_id": row.org_id,
        "epoch": row.epoch,
        "seq": row.seq,
        "events": events,
        "at": 2_000,
        "by": row.owner or "nobody",
    }
    return Append(**(given | fields))


async def claimed(journal: Journal, name: str = "a", conductor: ConductorId = ME, **fields: Any) -> RunRow:
    """A fresh run that `conductor` holds."""
    await journal.enlist(conductor, "host", 1)
    row = await journal.submit(new_run(name, **fields))
    [held] = await journal.claim(conductor, 1_000, 1, row.run_id)
    return held.row


async def ended(journal: Journal, name: str, status: str = "completed", at: int = 2_000, **fields: Any) -> RunRow:
    """A run that has ended and that nobody holds."""
    row = await claimed(journal, name, **fields)
    await journal.append(append(row, RunCompleted(inline(1)), status=status, release=True, at=at))
    found = await journal.row(row.run_id)
    assert found is not None
    return found


def command(row: RunRow, name: str = "cancel", id: str = "cmd_1", **arguments: Any) -> Command:
    """A command to a run."""
    return Command(id=id, run_id=row.run_id, name=name, arguments=arguments, by="me", at=5)


async def contiguous(journal: Journal, run_id: RunId, last: int) -> None:
    """Assert that seq goes from 1 to `last` without gaps."""
    assert [recorded.seq for recorded in await journal.read(run_id)] == list(range(1, last + 1))
    row = await journal.row(run_id)
    assert row is not None
    assert row.seq == last


def limited(journal: Journal, store_url: str, limit: Limit) -> None:
    """Give the org a budget of a day."""
    if isinstance(journal, MemoryJournal):
        journal.daily[LOCAL_ORG] = limit
        return
    engine = sa.create_engine(normalise_url(store_url))
    with engine.begin() as connection:
        statement = sa.text("INSERT INTO org_budgets (org_id, nanodollars, tokens) VALUES (:org, :money, :tokens)")
        connection.execute(statement, {"org": LOCAL_ORG, "money": limit.nanodollars, "tokens": limit.tokens})
    engine.dispose()


async def day(journal: Journal) -> Day:
    """How its day stands; never more is taken than there is."""
    found = await journal.budget_day(LOCAL_ORG, DAY)
    assert found is not None and found.limit.fits(found.taken), found
    return found
