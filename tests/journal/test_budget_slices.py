"""Slices of an org's budget of a day, on every store: what is spent, free in slices and reserved is never more."""

from __future__ import annotations

import asyncio

import pytest

from flowmason.errors import FencedError
from flowmason.event import StageFinished, StageStarted
from flowmason.ids import LOCAL_ORG
from flowmason.journal import Journal
from flowmason.journal_memory import MemoryJournal
from flowmason.slices import Day, Moves
from flowmason.usage import Amount, Call, Limit
from flowmason.value import inline
from journal_samples import DAY, ME, OTHER, Opener, append, claimed, day, limited

CALL = Call("p", "m", input_tokens=30, output_tokens=5, cost_nanodollars=70)


async def test_an_org_without_a_budget_has_no_slices(journal: Journal) -> None:
    await journal.enlist(ME, "", 0)
    assert await journal.budgets([LOCAL_ORG]) == {}
    assert await journal.budget_day(LOCAL_ORG, DAY) is None
    assert await journal.take_slice(ME, LOCAL_ORG, DAY, Amount(1)) is None


async def test_conductors_take_slices_until_nothing_is_left(journal: Journal, store_url: str) -> None:
    limited(journal, store_url, Limit(None, 1000))
    for conductor in (ME, OTHER):
        await journal.enlist(conductor, "", 0)
    first = await journal.take_slice(ME, LOCAL_ORG, DAY, Amount(0, 10))
    assert first is not None and first.got == Amount(0, 63)
    second = await journal.take_slice(OTHER, LOCAL_ORG, DAY, Amount(0, 900))
    assert second is not None and second.got == Amount(0, 900)
    third = await journal.take_slice(ME, LOCAL_ORG, DAY, Amount(0, 100))
    assert third is not None and third.got is None and third.may_come
    await journal.return_slices(OTHER, LOCAL_ORG)
    again = await journal.take_slice(ME, LOCAL_ORG, DAY, Amount(0, 100))
    assert again is not None and again.got == Amount(0, 100)
    assert (await day(journal)).free == Amount(0, 163)
    never = await journal.take_slice(OTHER, LOCAL_ORG, DAY, Amount(0, 1001))
    assert never is not None and never.got is None and not never.may_come


async def test_commits_move_between_slice_run_and_what_is_spent(journal: Journal, store_url: str) -> None:
    limited(journal, store_url, Limit(1000, 1000))
    row = await claimed(journal)
    taken = await journal.take_slice(ME, LOCAL_ORG, DAY, Amount(500, 500))
    assert taken is not None and taken.got == Amount(500, 500)
    start = StageStarted(("a",), 1, row.epoch, allowance=Limit(400, 400))
    moves = Moves(DAY, Amount(-400, -400), Amount(), Amount(400, 400))
    await journal.append(append(row, start, moves=moves))
    assert await day(journal) == Day(Limit(1000, 1000), Amount(), Amount(100, 100), Amount(400, 400))
    end = StageFinished(("a",), 1, inline(1), usage=CALL.usage, calls=(CALL,))
    moves = Moves(DAY, Amount(330, 365), Amount(70, 35), Amount())
    ended = append(row, end, seq=row.seq + 1, moves=moves)
    await journal.append(ended)
    assert await day(journal) == Day(Limit(1000, 1000), Amount(70, 35), Amount(430, 465), Amount())
    (found,) = await journal.usage(LOCAL_ORG, DAY, DAY)
    assert (found.calls, found.input_tokens, found.cost_nanodollars) == (1, 30, 70)


async def test_a_dead_conductor_loses_its_slice_and_its_runs_keep_what_they_reserved(
    journal: Journal, store_url: str
) -> None:
    limited(journal, store_url, Limit(1000))
    row = await claimed(journal)
    await journal.take_slice(ME, LOCAL_ORG, DAY, Amount(600))
    start = StageStarted(("a",), 1, row.epoch, allowance=Limit(200))
    await journal.append(append(row, start, moves=Moves(DAY, Amount(-200), Amount(), Amount(200))))
    beats = await journal.beats()
    assert await journal.bury(ME, beats[ME][0])
    assert await day(journal) == Day(Limit(1000), Amount(), Amount(), Amount(200))
    assert await journal.take_slice(ME, LOCAL_ORG, DAY, Amount(1)) is None
    await journal.enlist(OTHER, "", 0)
    most = await journal.take_slice(OTHER, LOCAL_ORG, DAY, Amount(800))
    assert most is not None and most.got == Amount(800)
    assert (await day(journal)).taken == Amount(1000)


async def test_a_dead_conductor_begins_nothing_that_the_budget_pays_but_what_it_began_may_end(
    journal: Journal, store_url: str
) -> None:
    limited(journal, store_url, Limit(1000))
    row = await claimed(journal)
    await journal.take_slice(ME, LOCAL_ORG, DAY, Amount(600))
    start = StageStarted(("a",), 1, row.epoch, allowance=Limit(200))
    await journal.append(append(row, start, moves=Moves(DAY, Amount(-200), Amount(), Amount(200))))
    assert await journal.bury(ME, (await journal.beats())[ME][0])
    late = StageStarted(("b",), 1, row.epoch, allowance=Limit(300))
    with pytest.raises(FencedError):
        await journal.append(append(row, late, seq=row.seq + 1, moves=Moves(DAY, Amount(-300), Amount(), Amount(500))))
    assert await day(journal) == Day(Limit(1000), Amount(), Amount(), Amount(200))
    assert [type(found.event) for found in await journal.read(row.run_id, row.seq)] == [StageStarted]
    end = StageFinished(("a",), 1, inline(1), usage=CALL.usage, calls=(CALL,))
    await journal.append(append(row, end, seq=row.seq + 1, moves=Moves(DAY, Amount(130), Amount(70, 35), Amount())))
    assert (await day(journal)).spent == Amount(70, 35)


async def test_many_at_once_are_given_no_more_than_there_is(
    journal: Journal, open_another: Opener, store_url: str
) -> None:
    limited(journal, store_url, Limit(None, 1000))
    await journal.enlist(ME, "", 0)
    await journal.enlist(OTHER, "", 0)
    there = journal if isinstance(journal, MemoryJournal) else open_another()
    asked = [(journal, ME) if n % 2 else (there, OTHER) for n in range(40)]
    await asyncio.gather(*(who.take_slice(conductor, LOCAL_ORG, DAY, Amount(0, 70)) for who, conductor in asked))
    assert (await day(journal)).free.tokens == 980
