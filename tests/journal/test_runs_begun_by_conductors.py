"""A run whose submitter will walk it is recorded and claimed at once: the same tests on every journal."""

from __future__ import annotations

import asyncio

import pytest

from flowmason.errors import FencedError, JournalError
from flowmason.event import RunSubmitted
from flowmason.ids import PlanId, RunId, sha256
from flowmason.journal import Journal
from flowmason.value import inline
from journal_samples import ME, OTHER, PLAN, PLAN_ID, Opener, append, claimed, contiguous, finished, new_run


async def test_a_run_that_is_begun_is_the_conductors_from_its_first_event_on(journal: Journal) -> None:
    await journal.enlist(ME, "host", 1)
    await journal.enlist(OTHER, "host", 2)
    row, ours = await journal.begin(new_run(priority=3), ME)
    assert ours
    assert (row.status, row.epoch, row.seq, row.owner, row.priority) == ("queued", 1, 1, ME, 3)
    assert await journal.row(row.run_id) == row
    assert await journal.plan(PLAN_ID) == PLAN
    assert [each.event for each in await journal.read(row.run_id)] == [RunSubmitted(PLAN_ID, inline({"name": "a"}))]
    assert await journal.claim(OTHER, 0, 10) == []
    assert await journal.claim(OTHER, 0, 1, row.run_id) == []
    assert await journal.append(append(row, finished("s"))) == 2
    await contiguous(journal, row.run_id, 2)


@pytest.mark.parametrize("how", ["buried", "retired"])
async def test_a_begun_run_is_free_once_its_conductor_is_gone(journal: Journal, how: str) -> None:
    await journal.enlist(ME, "host", 1)
    await journal.enlist(OTHER, "host", 2)
    row, _ = await journal.begin(new_run(), ME)
    if how == "buried":
        assert await journal.bury(ME, 0)
    else:
        await journal.retire(ME)
    [taken] = await journal.claim(OTHER, 0, 10)
    assert (taken.row.run_id, taken.row.owner, taken.row.epoch) == (row.run_id, OTHER, 2)
    with pytest.raises(FencedError):
        await journal.append(append(row, finished("s")))


async def test_a_run_that_was_there_already_is_not_claimed_by_beginning_it(journal: Journal) -> None:
    first = await journal.submit(new_run("a", idempotency_key="k"))
    await journal.enlist(ME, "host", 1)
    assert await journal.begin(new_run("b", idempotency_key="k"), ME) == (first, False)
    assert await journal.row(RunId("run_b")) is None
    assert await journal.begin(new_run("a"), ME) == (first, False)
    begun, _ = await journal.begin(new_run("c", idempotency_key="l"), ME)
    assert await journal.begin(new_run("d", idempotency_key="l"), ME) == (begun, False)
    with pytest.raises(JournalError, match="another run"):
        await journal.begin(new_run("a", plan_id=PlanId(sha256(b"else")), plan=b"else"), ME)
    await contiguous(journal, first.run_id, 1)


async def test_a_conductor_that_is_not_listed_records_a_run_for_others(journal: Journal) -> None:
    row, ours = await journal.begin(new_run(), ME)
    assert (ours, row.owner, row.epoch) == (False, None, 0)
    await journal.enlist(OTHER, "host", 1)
    [taken] = await journal.claim(OTHER, 0, 10)
    assert (taken.row.run_id, taken.row.epoch) == (row.run_id, 1)


async def test_runs_that_are_begun_at_once_with_one_key_are_one_run_of_one_conductor(
    journal: Journal, open_another: Opener
) -> None:
    await claimed(journal, "mine", ME)
    await journal.enlist(OTHER, "host", 2)
    other = open_another()
    for n in range(10):
        begun = await asyncio.gather(
            journal.begin(new_run(f"a{n}", idempotency_key=f"k{n}"), ME),
            other.begin(new_run(f"b{n}", idempotency_key=f"k{n}"), OTHER),
        )
        assert len({row.run_id for row, _ in begun}) == 1
        assert sorted(ours for _, ours in begun) == [False, True]
