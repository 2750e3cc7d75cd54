"""Model calls that no run makes, on every store: in the ledger of their org, and within its budget of a day."""

from __future__ import annotations

import asyncio

import pytest

from flowmason.errors import FencedError
from flowmason.ids import LOCAL_ORG, ConductorId, OrgId
from flowmason.journal import Journal
from flowmason.journal_memory import MemoryJournal
from flowmason.ledger import OrgCall
from flowmason.usage import Amount, Call, CallEnd, Limit
from journal_samples import DAY, ME, OTHER, Opener, day, limited

NEXT = 24 * 3600 * 1000
ANSWERED = Call("models", "smol", input_tokens=30, output_tokens=5, cost_nanodollars=0)


def made(name: str = "1", org: OrgId = LOCAL_ORG) -> OrgCall:
    return OrgCall(f"call_{name}", org, "key_a", "models", "smol")


async def test_a_call_stands_in_the_ledger_with_its_caller_and_once(journal: Journal) -> None:
    await journal.enlist(ME, "", 0)
    assert await journal.hold_call(ME, made(), Amount(0, 10_000), 5) is None
    for _ in range(2):
        await journal.end_call(made(), ANSWERED, 5)
    await journal.end_call(made("2"), Call("", "", CallEnd.FAILED), 5)
    await journal.end_call(made("3", OrgId("other")), ANSWERED, 5)
    (found,) = await journal.usage(LOCAL_ORG, DAY, DAY)
    assert (found.pipeline, found.caller, found.provider, found.model) == ("", "key_a", "models", "smol")
    assert (found.calls, found.failed, found.input_tokens, found.output_tokens) == (1, 1, 30, 5)


async def test_it_is_held_at_its_worst_and_settled_at_what_it_used(journal: Journal, store_url: str) -> None:
    limited(journal, store_url, Limit(None, 1000))
    await journal.enlist(ME, "", 0)
    assert await journal.hold_call(ME, made(), Amount(7, 400), 5) is None
    standing = await day(journal)
    assert (standing.reserved.tokens, standing.free.tokens, standing.spent.tokens) == (400, 0, 0)
    await journal.end_call(made(), ANSWERED, 5)
    standing = await day(journal)
    # Nothing is held any more, so the slice has gone back.
    assert (standing.reserved.tokens, standing.free.tokens, standing.spent.tokens) == (0, 0, 35)


async def test_what_does_not_fit_is_not_held_and_is_told_whether_more_may_come(
    journal: Journal, store_url: str
) -> None:
    limited(journal, store_url, Limit(None, 1000))
    await journal.enlist(ME, "", 0)
    never = await journal.hold_call(ME, made(), Amount(0, 1001), 5)
    assert never is not None and never.got is None and not never.may_come
    assert await journal.hold_call(ME, made("2"), Amount(0, 700), 5) is None
    later = await journal.hold_call(ME, made("3"), Amount(0, 700), 5)
    assert later is not None and later.got is None and later.may_come and later.day.reserved.tokens == 700
    assert (await day(journal)).taken.tokens == 700
    await journal.end_call(made("2"), ANSWERED, 5)
    assert await journal.hold_call(ME, made("3"), Amount(0, 700), 5) is None


async def test_a_call_counts_on_the_day_on_which_it_ends(journal: Journal, store_url: str) -> None:
    limited(journal, store_url, Limit(None, 1000))
    await journal.enlist(ME, "", 0)
    await journal.hold_call(ME, made(), Amount(0, 100), 5)
    await journal.end_call(made(), ANSWERED, NEXT + 5)
    assert (await day(journal)).taken == Amount()
    tomorrow = await journal.budget_day(LOCAL_ORG, "1970-01-02")
    assert tomorrow is not None and tomorrow.taken.tokens == 35
    assert [each.day for each in await journal.usage(LOCAL_ORG, DAY, "1970-01-02")] == ["1970-01-02"]


async def test_calls_of_a_dead_endpoint_are_lost_and_hold_nothing(journal: Journal, store_url: str) -> None:
    limited(journal, store_url, Limit(None, 1000))
    await journal.enlist(ME, "", 0)
    await journal.hold_call(ME, made(), Amount(0, 300), 5)
    await journal.enlist(OTHER, "", 0)
    await journal.hold_call(OTHER, made("2"), Amount(0, 100), 5)
    assert await journal.bury(ME, (await journal.beats())[ME][0])
    standing = await day(journal)
    assert (standing.spent.tokens, standing.reserved.tokens) == (300, 100)
    # It comes back to life and tells of an end: that is noted already.
    await journal.end_call(made(), ANSWERED, 5)
    (found,) = await journal.usage(LOCAL_ORG, DAY, DAY)
    assert (found.calls, found.input_tokens, found.estimated) == (1, 300, 1)
    with pytest.raises(FencedError):
        await journal.hold_call(ME, made("3"), Amount(0, 1), 5)


async def test_many_at_once_at_two_endpoints_never_pass_the_budget(
    journal: Journal, open_another: Opener, store_url: str
) -> None:
    limited(journal, store_url, Limit(None, 1000))
    there = journal if isinstance(journal, MemoryJournal) else open_another()
    await journal.enlist(ME, "", 0)
    await journal.enlist(OTHER, "", 0)
    asked = [(journal, ME, made(f"{n}")) if n % 2 else (there, OTHER, made(f"{n}")) for n in range(40)]

    async def call(where: Journal, owner: ConductorId, which: OrgCall) -> bool:
        if await where.hold_call(owner, which, Amount(0, 60), 5) is not None:
            return False
        assert (await day(journal)).taken.tokens <= 1000
        await where.end_call(which, Call("", "", input_tokens=60), 5)
        return True

    held = await asyncio.gather(*(call(*each) for each in asked))
    assert (await day(journal)).spent.tokens == 60 * sum(held) <= 1000 and sum(held) >= 8
