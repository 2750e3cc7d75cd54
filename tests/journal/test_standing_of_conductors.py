"""Operators see which conductors there are, how often they beat, and what they hold."""

from __future__ import annotations

import asyncio

import pytest

from flowmason.database import database
from flowmason.journal_sql import SqlJournal
from flowmason.journal_sql.standing import standings
from journal_samples import ME, SQL, claimed, ended

pytestmark = pytest.mark.parametrize("store", SQL, indirect=True)


async def test_beats_and_held_runs_are_counted(sql: SqlJournal) -> None:
    for name in ("one", "two"):
        await claimed(sql, name)
    await ended(sql, "three")
    assert await sql.beat(ME)
    (found,) = await asyncio.to_thread(standings, database(sql.url))
    assert (found.conductor, found.host, found.pid, found.runs) == (ME, "host", 1, 2)
    before = found.beat
    assert await sql.beat(ME)
    assert (await asyncio.to_thread(standings, database(sql.url)))[0].beat == before + 1
    await sql.retire(ME)
    assert await asyncio.to_thread(standings, database(sql.url)) == []
