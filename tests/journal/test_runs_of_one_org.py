"""`OrgRuns`: the journal as somebody who serves requests sees it, one org at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowmason.errors import Code, JournalError, UsageError
from flowmason.event import RunStarted, RunSubmitted
from flowmason.ids import LOCAL_ORG, OrgId, PlanId, RunId, sha256
from flowmason.journal_sql import SqlJournal
from flowmason.journal_sql.tenant import OrgRuns, Position, RunStore
from flowmason.report import Delta, LogLine
from flowmason.studio.roles import ensure_api_role
from flowmason.value import inline
from journal_samples import ME, PLAN, PLAN_ID, SQL, append, claimed, command, ended, finished, new_run

pytestmark = pytest.mark.parametrize("store", SQL, indirect=True)

OTHER_ORG = OrgId("org_other")


@pytest.fixture
async def runs_store(sql: SqlJournal) -> AsyncIterator[RunStore]:
    """The same database under the role of those who serve requests."""
    if sql.url.startswith("postgresql"):
        ensure_api_role(sql.url)
    opened = RunStore.open(sql.url, role="api", patience_s=20)
    yield opened
    await opened.close()


@pytest.fixture
def runs(runs_store: RunStore) -> OrgRuns:
    return runs_store.org(LOCAL_ORG)


@pytest.fixture
def theirs(runs_store: RunStore) -> OrgRuns:
    return runs_store.org(OTHER_ORG)


async def test_a_run_is_submitted_once_under_its_key_and_read_back(runs: OrgRuns) -> None:
    row = await runs.submit(new_run("a", idempotency_key="k", priority=2))
    assert (row.status, row.seq, row.priority) == ("queued", 1, 2)
    assert await runs.submit(new_run("b", idempotency_key="k")) == row
    assert await runs.submit(new_run("a")) == row
    assert await runs.row(row.run_id) == row
    assert await runs.row(RunId("run_b")) is None
    assert await runs.plan(row.run_id, PLAN_ID) == PLAN
    [recorded] = await runs.read(row.run_id)
    assert recorded.event == RunSubmitted(PLAN_ID, inline({"name": "a"}))


async def test_many_submitted_at_once_with_one_key_are_one_run(runs: OrgRuns) -> None:
    rows = await asyncio.gather(*(runs.submit(new_run(f"r{n}", idempotency_key="k")) for n in range(20)))
    assert len({row.run_id for row in rows}) == 1
    assert await runs.counts() == {"queued": 1}


async def test_another_org_sees_and_touches_nothing(sql: SqlJournal, runs: OrgRuns, theirs: OrgRuns) -> None:
    row = await claimed(sql, "a", idempotency_key="k")
    await sql.add_side(LOCAL_ORG, row.run_id, [LogLine(("s",), 1, 1, 5, "info", "x")], [Delta(("s",), 1, 1, "t")])
    done = await ended(sql, "done")
    assert await theirs.row(row.run_id) is None
    assert (await theirs.rows()).rows == []
    assert await theirs.read(row.run_id) == []
    assert await theirs.frames(row.run_id) == []
    assert await theirs.seqs([row.run_id]) == {}
    assert await theirs.plan(row.run_id, PLAN_ID) is None
    assert await theirs.logs(row.run_id) == []
    assert await theirs.deltas(row.run_id) == []
    assert await theirs.counts() == {}
    assert await theirs.queued() == 0
    assert not await theirs.post(command(row))
    own = await theirs.submit(new_run("b", org_id=OTHER_ORG, idempotency_key="k"))
    assert own.run_id == "run_b"
    with pytest.raises(JournalError, match="another run"):
        await theirs.submit(new_run("a", org_id=OTHER_ORG))
    with pytest.raises(UsageError, match="belongs to org"):
        await theirs.submit(new_run("c"))
    assert await runs.row(row.run_id) == row
    assert await runs.row(done.run_id) == done
    assert await sql.commands([row.run_id]) == []


async def test_lists_come_in_pages_newest_first_and_filtered(sql: SqlJournal, runs: OrgRuns, theirs: OrgRuns) -> None:
    for n in range(7):
        await runs.submit(new_run(f"r{n}", at=100 - n // 2, pipeline="even" if n % 2 == 0 else "odd"))
    await theirs.submit(new_run("x", org_id=OTHER_ORG))
    seen: list[str] = []
    cursor = None
    while True:
        page = await runs.rows(limit=3, cursor=cursor)
        assert len(page.rows) <= 3
        seen += [row.run_id for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == ["run_r1", "run_r0", "run_r3", "run_r2", "run_r5", "run_r4", "run_r6"]
    assert [row.run_id for row in (await runs.rows(pipeline="odd", limit=9)).rows] == ["run_r1", "run_r3", "run_r5"]
    await ended(sql, "r1", at=100, pipeline="odd")
    assert [row.run_id for row in (await runs.rows(status=["completed", "failed"])).rows] == ["run_r1"]
    assert await runs.counts() == {"completed": 1, "queued": 6}
    assert await runs.queued() == 6


@pytest.mark.parametrize("cursor", ["", "x", "bnVsbA==", "é", "WzEsMl0="])
async def test_a_cursor_that_no_list_gave_is_refused(runs: OrgRuns, cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        await runs.rows(cursor=cursor)


async def test_events_are_read_after_a_seq_and_up_to_a_limit(sql: SqlJournal, runs: OrgRuns) -> None:
    row = await claimed(sql)
    for seq in (1, 4):
        await sql.append(append(row, finished("a"), finished("b"), finished("c"), seq=seq, status="running"))
    assert [each.seq for each in await runs.read(row.run_id, 2)] == [3, 4, 5, 6, 7]
    assert [each.seq for each in await runs.read(row.run_id, 2, 3)] == [3, 4, 5]
    assert await runs.read(row.run_id) == await sql.read(row.run_id)
    assert await runs.frames(row.run_id, 2) == await sql.frames(row.run_id, 2)


async def test_positions_of_many_orgs_are_handed_out_org_by_org(
    sql: SqlJournal, runs_store: RunStore, runs: OrgRuns, theirs: OrgRuns
) -> None:
    mine = [(await runs.submit(new_run(f"m{n}"))).run_id for n in range(700)]
    other = (await theirs.submit(new_run("o", org_id=OTHER_ORG))).run_id
    await sql.enlist(ME, "host", 1)
    [held] = await sql.claim(ME, 0, 1, mine[3])
    await sql.append(append(held, RunStarted(), finished("s"), status="running"))
    found = await runs_store.positions({LOCAL_ORG: [*mine, other], OTHER_ORG: [other, mine[0]], OrgId("org_x"): []})
    assert found[OTHER_ORG] == {other: Position(1, "queued")}
    assert found[OrgId("org_x")] == {}
    assert set(found[LOCAL_ORG]) == set(mine)
    assert found[LOCAL_ORG][mine[3]] == Position(3, "running")
    assert await runs_store.positions({}) == {}


async def test_a_plan_that_the_run_does_not_mention_is_not_given(runs: OrgRuns, theirs: OrgRuns) -> None:
    row = await runs.submit(new_run("a"))
    secret = b"their plan"
    await theirs.submit(new_run("b", org_id=OTHER_ORG, plan_id=PlanId(sha256(secret)), plan=secret))
    assert await runs.plan(row.run_id, PlanId(sha256(secret))) is None


async def test_a_command_is_posted_once(sql: SqlJournal, runs: OrgRuns) -> None:
    row = await runs.submit(new_run())
    assert await runs.post(command(row))
    assert await runs.post(command(row))
    assert await sql.commands([row.run_id]) == [command(row)]


async def test_side_lines_are_read(sql: SqlJournal, runs: OrgRuns) -> None:
    row = await claimed(sql)
    lines = [LogLine(("s",), 1, n, 5, "info", f"line {n}") for n in range(3)]
    deltas = [Delta(("s",), 1, n, f"word {n} ") for n in range(3)]
    await sql.add_side(row.org_id, row.run_id, lines, deltas)
    found = await runs.logs(row.run_id)
    assert [line for _, line in found] == lines
    assert [line for _, line in await runs.logs(row.run_id, after=found[0][0], limit=1)] == [lines[1]]
    assert [delta for _, delta in await runs.deltas(row.run_id)] == deltas


async def test_a_full_queue_refuses_new_runs_but_knows_earlier_ones(
    sql: SqlJournal, runs: OrgRuns, theirs: OrgRuns
) -> None:
    answers = await asyncio.gather(
        *(runs.submit(new_run(f"r{n}", idempotency_key=f"k{n}"), most_queued=3) for n in range(5)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, UsageError)]
    assert [error.failure.code for error in refused] == [Code.QUEUE_FULL] * 2
    assert (await runs.submit(new_run("again", idempotency_key="k0"), most_queued=3)).run_id == "run_r0"
    await theirs.submit(new_run("o", org_id=OTHER_ORG), most_queued=3)
    await sql.enlist(ME, "host", 1)
    assert len(await sql.claim(ME, 0, 1, RunId("run_r0"))) == 1
    await runs.submit(new_run("r9"), most_queued=3)


async def test_a_statement_that_forgets_the_org_still_sees_only_its_rows(
    store: str, runs_store: RunStore, runs: OrgRuns, theirs: OrgRuns
) -> None:
    """Row-level security, and the org set anew for each question that travels in one pipeline."""
    if store == "sqlite":
        pytest.skip("a file knows no row-level security")
    await runs.submit(new_run("a"))
    await theirs.submit(new_run("b", org_id=OTHER_ORG))
    forgetful = "SELECT run_id FROM runs"
    answers = await runs_store.ask([(org, forgetful, ()) for org in (LOCAL_ORG, OTHER_ORG, OrgId("org_x"), "")])
    assert answers == [[("run_a",)], [("run_b",)], [], []]


async def test_after_close_everything_is_refused(runs_store: RunStore, runs: OrgRuns) -> None:
    await runs_store.close()
    await runs_store.close()
    with pytest.raises(JournalError, match="closed"):
        await runs.row(RunId("run_a"))
    with pytest.raises(JournalError, match="closed"):
        await runs.submit(new_run())
