"""What the journal in memory offers beyond the port: hooks at every commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowmason.journal_memory import MemoryJournal
from journal_samples import append, claimed, contiguous, finished, new_run


class Crash(Exception):
    """Stands for the death of a process."""


def _crash_at(name: str) -> Any:
    def hook(called: str, _argument: object) -> None:
        if called == name:
            raise Crash

    return hook


async def test_a_crash_before_a_commit_loses_the_write() -> None:
    journal = MemoryJournal()
    row = await claimed(journal)
    journal.before_commit = _crash_at("append")
    with pytest.raises(Crash):
        await journal.append(append(row, finished("s")))
    journal.before_commit = None
    await contiguous(journal, row.run_id, 1)
    assert await journal.append(append(row, finished("s"))) == 2


async def test_a_crash_after_a_commit_loses_only_the_answer() -> None:
    journal = MemoryJournal()
    row = await claimed(journal)
    journal.after_commit = _crash_at("append")
    with pytest.raises(Crash):
        await journal.append(append(row, finished("s")))
    await contiguous(journal, row.run_id, 2)


async def test_hooks_see_every_write_and_may_wait() -> None:
    seen: list[str] = []

    async def hook(name: str, _argument: object) -> None:
        await asyncio.sleep(0)
        seen.append(name)

    journal = MemoryJournal(before_commit=hook)
    await claimed(journal)
    await journal.submit(new_run("b"))
    await journal.rows(new_run().org_id)
    assert seen == ["enlist", "submit", "claim", "submit"]


async def test_of_two_appends_that_wait_in_their_hooks_one_is_fenced() -> None:
    async def hook(_name: str, _argument: object) -> None:
        await asyncio.sleep(0)

    journal = MemoryJournal()
    row = await claimed(journal)
    journal.before_commit = hook
    writes = (journal.append(append(row, finished("a"))), journal.append(append(row, finished("b"))))
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["int", "FencedError"]
    await contiguous(journal, row.run_id, 2)
