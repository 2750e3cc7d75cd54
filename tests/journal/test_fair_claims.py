"""Who gets the next conductor where many orgs wait: the same on every store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest

from flowmason.database import database
from flowmason.event import RunStarted
from flowmason.fairness import OrgLimits
from flowmason.ids import ConductorId, OrgId, RunId
from flowmason.journal import Claimed, Journal
from flowmason.journal_memory import MemoryJournal
from flowmason.journal_sql import SqlJournal
from journal_samples import ME, OTHER, Opener, append, command, finished, new_run

A, B, C = OrgId("org_a"), OrgId("org_b"), OrgId("org_c")
Limit = Callable[[OrgId, OrgLimits], None]


@pytest.fixture
def limit(journal: Journal) -> Limit:
    """Give an org limits."""

    def give(org_id: OrgId, limits: OrgLimits) -> None:
        if isinstance(journal, MemoryJournal):
            journal.limits[org_id] = limits
            return
        assert isinstance(journal, SqlJournal)
        connection = database(journal.url).connect()
        try:
            connection.begin(False)
            connection.write("DELETE FROM org_limits WHERE org_id=?", (org_id,))
            row = (org_id, limits.max_concurrent_runs, limits.max_queued_runs, limits.weight)
            connection.write(
                "INSERT INTO org_limits (org_id, max_concurrent_runs, max_queued_runs, weight) VALUES (?,?,?,?)", row
            )
            connection.commit()
        finally:
            connection.close()

    return give


async def submit(journal: Journal, org: OrgId, *names: str, at: int = 1_000, **fields: object) -> None:
    for number, name in enumerate(names):
        await journal.submit(new_run(name, org_id=org, at=at + number, **fields))


def names(claims: list[Claimed]) -> list[str]:
    return [claim.row.run_id.removeprefix("run_") for claim in claims]


async def claim(journal: Journal, limit: int, *, spare: int = 0) -> list[str]:
    return names(await journal.claim(ME, 0, limit, spare=spare))


async def end(journal: Journal, name: str) -> None:
    row = await journal.row(RunId(f"run_{name}"))
    assert row is not None
    await journal.append(append(row, finished("s"), status="completed", release=True))


async def test_orgs_take_turns_however_many_wait_and_whoever_came_first(journal: Journal) -> None:
    await journal.enlist(ME, "host", 1)
    await submit(journal, A, *(f"a{n:02}" for n in range(40)))
    await submit(journal, B, "b0", "b1", "b2", at=5_000)
    assert await claim(journal, 6) == ["a00", "b0", "a01", "b1", "a02", "b2"]
    assert await claim(journal, 100) == [f"a{n:02}" for n in range(3, 40)]


async def test_the_org_that_holds_fewest_runs_comes_next(journal: Journal) -> None:
    await journal.enlist(ME, "host", 1)
    await submit(journal, A, *(f"a{n}" for n in range(8)))
    assert len(await claim(journal, 4)) == 4
    await submit(journal, B, *(f"b{n}" for n in range(8)), at=5_000)
    assert await claim(journal, 5) == ["b0", "b1", "b2", "b3", "a4"]
    await end(journal, "a0")
    await end(journal, "a1")
    assert await claim(journal, 1) == ["a5"]


async def test_at_equal_parts_the_run_that_has_waited_longest_comes_next(journal: Journal) -> None:
    """Many orgs and few places: nobody waits for ever because of its name."""
    await journal.enlist(ME, "host", 1)
    for number in range(30):
        await submit(journal, OrgId(f"org_{number:02}"), f"r{number:02}", at=1_000 - number)
    assert await claim(journal, 3) == ["r29", "r28", "r27"]
    assert await claim(journal, 3) == ["r26", "r25", "r24"]


async def test_weights_divide_the_places(journal: Journal, limit: Limit) -> None:
    await journal.enlist(ME, "host", 1)
    limit(A, OrgLimits(weight=3))
    await submit(journal, A, *(f"a{n}" for n in range(20)))
    await submit(journal, B, *(f"b{n}" for n in range(20)))
    assert Counter(name[0] for name in await claim(journal, 12)) == {"a": 9, "b": 3}


async def test_no_org_gets_beyond_its_limit_and_the_others_get_what_it_leaves(journal: Journal, limit: Limit) -> None:
    await journal.enlist(ME, "host", 1)
    limit(A, OrgLimits(max_concurrent_runs=2))
    await submit(journal, A, *(f"a{n}" for n in range(6)))
    await submit(journal, B, *(f"b{n}" for n in range(6)))
    assert sorted(await claim(journal, 10)) == ["a0", "a1", "b0", "b1", "b2", "b3", "b4", "b5"]
    assert await claim(journal, 10) == []
    await end(journal, "a0")
    assert await claim(journal, 10) == ["a2"]
    limit(A, OrgLimits(max_concurrent_runs=0))
    await end(journal, "a1")
    await end(journal, "a2")
    assert await claim(journal, 10) == []
    limit(A, OrgLimits())
    assert len(await claim(journal, 10)) == 3


async def test_a_run_begun_in_an_org_that_has_all_it_may_waits_for_its_turn(journal: Journal, limit: Limit) -> None:
    await journal.enlist(ME, "host", 1)
    limit(A, OrgLimits(max_concurrent_runs=2))
    begun = [await journal.begin(new_run(f"a{n}", org_id=A, at=n), ME) for n in range(3)]
    assert [(row.owner, ours) for row, ours in begun] == [(ME, True), (ME, True), (None, False)]
    assert (await journal.begin(new_run("b0", org_id=B), ME))[1]
    assert await claim(journal, 10) == []
    await end(journal, "a0")
    assert await claim(journal, 10) == ["a2"]


async def test_conductors_that_claim_at_once_stay_within_a_limit_together(
    journal: Journal, open_another: Opener, limit: Limit
) -> None:
    journals = [journal, *(open_another() for _ in range(3))]
    conductors = [ConductorId(f"cond_{n}") for n in range(4)]
    limit(A, OrgLimits(max_concurrent_runs=5))
    for conductor in conductors:
        await journal.enlist(conductor, "host", 1)
    await submit(journal, A, *(f"a{n:02}" for n in range(40)))
    most = 0

    async def work(each: Journal, conductor: ConductorId) -> int:
        nonlocal most
        done = 0
        while True:
            claims = await each.claim(conductor, 0, 3)
            rows = await each.rows(A, limit=100)
            most = max(most, sum(row.owner is not None for row in rows))
            for held in claims:
                await each.append(append(held, finished("s"), status="completed", release=True))
                done += 1
            if not any(row.status == "queued" for row in rows):
                return done

    done = await asyncio.gather(*map(work, journals, conductors))
    assert sum(done) == 40
    assert 3 <= most <= 5


async def test_one_that_came_first_and_alone_leaves_room_for_others(journal: Journal) -> None:
    await journal.enlist(ME, "host", 1)
    await submit(journal, A, *(f"a{n:02}" for n in range(20)))
    assert len(await claim(journal, 10, spare=4)) == 6
    assert await claim(journal, 4, spare=4) == []
    await submit(journal, B, *(f"b{n}" for n in range(3)))
    assert await claim(journal, 4, spare=4) == ["b0", "b1", "b2"]
    await submit(journal, C, "c0", "c1")
    assert await claim(journal, 1, spare=4) == ["c0"]


async def test_a_run_that_was_begun_comes_before_those_that_wait(journal: Journal) -> None:
    """What a dead conductor leaves is adopted before anything new begins, whatever its priority."""
    await journal.enlist(OTHER, "host", 2)
    await submit(journal, A, "begun")
    [held] = await journal.claim(OTHER, 0, 1)
    await journal.append(append(held, RunStarted(), status="running"))
    await submit(journal, A, "urgent", at=1, priority=9)
    await journal.enlist(ME, "host", 1)
    assert await journal.bury(OTHER, 0)
    assert await claim(journal, 2) == ["begun", "urgent"]


async def test_priorities_order_the_runs_of_one_org_and_not_the_orgs(journal: Journal) -> None:
    await journal.enlist(ME, "host", 1)
    await submit(journal, A, "a0", "a1", "a2", priority=9)
    await submit(journal, B, "b0", at=5_000)
    await submit(journal, B, "b1", at=6_000, priority=1)
    assert await claim(journal, 4) == ["a0", "b1", "a1", "b0"]


@pytest.mark.parametrize(("name", "taken"), [("cancel", ["a1"]), ("pause", ["a1"]), ("resume", [])])
async def test_what_is_to_end_is_taken_whatever_its_org_has(
    journal: Journal, limit: Limit, name: str, taken: list[str]
) -> None:
    await journal.enlist(ME, "host", 1)
    limit(A, OrgLimits(max_concurrent_runs=1))
    await submit(journal, A, "a0", "a1", "a2")
    assert await claim(journal, 10) == ["a0"]
    row = await journal.row(RunId("run_a1"))
    assert row is not None
    await journal.post(command(row, name))
    assert await claim(journal, 10) == taken


async def test_a_paused_run_that_is_to_go_on_waits_for_its_orgs_turn(journal: Journal, limit: Limit) -> None:
    await journal.enlist(ME, "host", 1)
    limit(A, OrgLimits(max_concurrent_runs=1))
    await submit(journal, A, "a0", "a1")
    [held] = await journal.claim(ME, 0, 1)
    await journal.append(append(held, finished("s"), status="paused", release=True))
    assert await claim(journal, 10) == ["a1"]
    await journal.post(command(held.row, "resume"))
    assert await claim(journal, 10) == []
    await end(journal, "a1")
    assert await claim(journal, 10) == ["a0"]


async def test_a_run_asked_for_by_name_is_claimed_beyond_the_limit(journal: Journal, limit: Limit) -> None:
    await journal.enlist(ME, "host", 1)
    limit(A, OrgLimits(max_concurrent_runs=0))
    await submit(journal, A, "a0")
    assert names(await journal.claim(ME, 0, 1, RunId("run_a0"))) == ["a0"]


async def test_three_runs_of_one_org_are_among_the_first_beside_ten_thousand_of_another(
    journal: Journal, open_another: Opener
) -> None:
    await journal.enlist(ME, "host", 1)
    many = [new_run(f"a{n:05}", org_id=A, at=n) for n in range(10_000)]
    for start in range(0, len(many), 500):
        await asyncio.gather(*map(journal.submit, many[start : start + 500]))
    await submit(journal, B, "b0", "b1", "b2", at=20_000)
    begun = time.monotonic()
    order: list[str] = []
    for _ in range(20):
        order += await claim(journal, 8)
    took = (time.monotonic() - begun) / 20
    assert [order.index(name) for name in ("b0", "b1", "b2")] == [1, 3, 5]
    assert len(set(order)) == 160
    if isinstance(journal, SqlJournal):
        assert took < 0.1, f"a claim took {took * 1000:.0f} ms"
