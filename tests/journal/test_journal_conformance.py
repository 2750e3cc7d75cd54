"""What every journal promises: the same tests on memory, SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flowmason.errors import FencedError, JournalError
from flowmason.event import Foreign, RunStarted, RunSubmitted, StageFinished
from flowmason.ids import LOCAL_ORG, Digest, OrgId, PlanId, RunId, sha256
from flowmason.journal import Journal
from flowmason.report import Delta, LogLine
from flowmason.value import Stored, encode, inline
from journal_samples import (
    ME,
    OTHER,
    PLAN,
    PLAN_ID,
    Opener,
    append,
    claimed,
    command,
    contiguous,
    ended,
    finished,
    new_run,
)


async def test_a_submitted_run_is_there_with_its_plan_and_its_first_event(journal: Journal) -> None:
    row = await journal.submit(new_run(priority=3, parent=RunId("run_parent")))
    assert (row.status, row.epoch, row.seq, row.owner, row.priority, row.parent) == (
        *("queued", 0, 1, None, 3, "run_parent"),
    )
    assert await journal.row(row.run_id) == row
    assert await journal.plan(PLAN_ID) == PLAN
    [recorded] = await journal.read(row.run_id)
    assert (recorded.seq, recorded.at, recorded.by) == (1, 1_000, "cli")
    assert recorded.event == RunSubmitted(PLAN_ID, inline({"name": "a"}))


async def test_what_is_not_there_is_none_or_empty(journal: Journal) -> None:
    nobody = RunId("run_nobody")
    assert await journal.row(nobody) is None
    assert await journal.read(nobody) == []
    assert await journal.frames(nobody) == []
    assert await journal.plan(PlanId("sha256:none")) is None
    assert await journal.commands([nobody]) == []
    assert await journal.commands([]) == []
    assert await journal.logs(nobody) == []
    assert await journal.references([]) == set()


async def test_submitting_with_a_known_key_gives_the_earlier_run_of_that_org_only(journal: Journal) -> None:
    first = await journal.submit(new_run("a", idempotency_key="k"))
    again = await journal.submit(new_run("b", idempotency_key="k"))
    elsewhere = await journal.submit(new_run("c", idempotency_key="k", org_id=OrgId("other")))
    assert again == first
    assert elsewhere.run_id == "run_c"
    assert await journal.row(RunId("run_b")) is None


async def test_submitting_the_same_run_twice_is_harmless_and_another_under_its_id_is_refused(journal: Journal) -> None:
    row = await journal.submit(new_run())
    assert await journal.submit(new_run()) == row
    with pytest.raises(JournalError, match="another run"):
        await journal.submit(new_run(plan_id=PlanId(sha256(b"else")), plan=b"else"))
    await contiguous(journal, row.run_id, 1)


async def test_appended_events_get_consecutive_numbers_and_change_the_row(journal: Journal) -> None:
    row = await claimed(journal)
    assert await journal.append(append(row, RunStarted(), finished("s", 1), status="running")) == 3
    assert await journal.append(append(row, finished("t", 2), seq=3, summary={"stages": 2})) == 4
    await contiguous(journal, row.run_id, 4)
    found = await journal.row(row.run_id)
    assert found is not None
    assert (found.status, found.owner, found.summary, found.updated_at) == ("running", ME, {"stages": 2}, 2_000)
    assert await journal.append(append(row, seq=4)) == 4


@pytest.mark.parametrize("stale", [{"epoch": 0}, {"epoch": 2}, {"seq": 0}, {"seq": 2}])
async def test_an_append_with_a_stale_epoch_or_seq_is_fenced_and_leaves_nothing(
    journal: Journal, stale: dict[str, int]
) -> None:
    row = await claimed(journal)
    await journal.post(command(row))
    with pytest.raises(FencedError):
        await journal.append(
            append(
                row,
                finished("s"),
                **stale,
                status="completed",
                taken=("cmd_1",),
                release=True,
                children=(new_run("b"),),
            )
        )
    assert await journal.row(row.run_id) == row
    assert len(await journal.commands([row.run_id])) == 1
    assert await journal.row(RunId("run_b")) is None
    await contiguous(journal, row.run_id, 1)


async def test_an_append_to_a_run_that_is_not_there_is_fenced(journal: Journal) -> None:
    row = await claimed(journal)
    with pytest.raises(FencedError):
        await journal.append(append(row, finished("s"), run_id=RunId("run_gone")))


async def test_appends_made_at_once_succeed_or_are_refused_each_alone(journal: Journal) -> None:
    rows = [await claimed(journal, f"r{n}") for n in range(12)]
    outcomes = await asyncio.gather(
        *(journal.append(append(row, finished("s"), epoch=row.epoch - (n % 3 == 0))) for n, row in enumerate(rows)),
        return_exceptions=True,
    )
    for n, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
        if n % 3 == 0:
            assert isinstance(outcome, FencedError)
        else:
            assert outcome == 2
        await contiguous(journal, row.run_id, 1 if n % 3 == 0 else 2)


async def test_a_member_that_fails_half_way_does_not_take_the_others_with_it(journal: Journal) -> None:
    rows = [await claimed(journal, f"r{n}") for n in range(3)]
    strange = new_run("r0", plan_id=PlanId(sha256(b"else")), plan=b"else")
    appends = [
        append(rows[0], finished("s")),
        append(rows[1], finished("s"), children=(strange,)),
        append(rows[2], finished("s")),
    ]
    outcomes = await asyncio.gather(*map(journal.append, appends), return_exceptions=True)
    assert outcomes[0] == 2
    assert isinstance(outcomes[1], JournalError)
    assert outcomes[2] == 2
    await contiguous(journal, rows[1].run_id, 1)


async def test_of_two_writers_with_the_same_epoch_and_seq_one_wins(journal: Journal, open_another: Opener) -> None:
    row = await claimed(journal)
    other = open_another()
    for seq in range(1, 20):
        outcomes = await asyncio.gather(
            journal.append(append(row, finished("mine"), seq=seq)),
            other.append(append(row, finished("theirs"), seq=seq)),
            return_exceptions=True,
        )
        assert sorted(isinstance(outcome, FencedError) for outcome in outcomes) == [False, True]
    await contiguous(journal, row.run_id, 20)


async def test_children_are_submitted_in_the_parents_transaction_and_once(journal: Journal) -> None:
    row = await claimed(journal)
    await journal.append(append(row, finished("s"), children=(new_run("child", parent=row.run_id),)))
    await journal.append(append(row, finished("t"), seq=2, children=(new_run("child", parent=row.run_id),)))
    child = await journal.row(RunId("run_child"))
    assert child is not None
    assert (child.parent, child.status, child.seq) == (row.run_id, "queued", 1)


async def test_events_are_read_after_a_seq_and_up_to_a_limit(journal: Journal) -> None:
    row = await claimed(journal)
    for seq in (1, 4, 7):
        await journal.append(append(row, finished("a"), finished("b"), finished("c"), seq=seq))

    async def seqs(after: int = 0, limit: int | None = None) -> list[int]:
        return [recorded.seq for recorded in await journal.read(row.run_id, after, limit)]

    assert await seqs() == list(range(1, 11))
    assert await seqs(5) == [6, 7, 8, 9, 10]
    assert await seqs(5, 3) == [6, 7, 8]
    assert await seqs(0, 1) == [1]
    assert await seqs(10) == []
    frames = await journal.frames(row.run_id, 5)
    assert [(frame.first_seq, frame.last_seq, len(frame.events)) for frame in frames] == [(6, 7, 2), (8, 10, 3)]
    assert [recorded for frame in frames for recorded in frame.recorded()] == await journal.read(row.run_id, 5)


async def test_large_frames_come_back_as_they_were(journal: Journal) -> None:
    row = await claimed(journal)
    events = tuple(finished(f"stage-{n}", {"text": "many words " * 5, "n": n}) for n in range(400))
    await journal.append(append(row, *events))
    [_, frame] = await journal.frames(row.run_id)
    assert frame.events == events
    assert frame.org_id == LOCAL_ORG


async def test_an_event_of_an_unknown_kind_is_carried_along(journal: Journal) -> None:
    row = await claimed(journal)
    foreign = Foreign(name="stage.pondered", data={"path": ["s"], "depth": 3})
    await journal.append(append(row, foreign))
    assert (await journal.read(row.run_id))[-1].event == foreign


async def test_what_callers_do_to_their_objects_later_changes_nothing(journal: Journal) -> None:
    arguments: dict[str, Any] = {"stage": "s", "value": [1]}
    summary = {"stages": {"done": 1}}
    row = await claimed(journal)
    await journal.post(command(row, "edit", **arguments))
    await journal.append(append(row, finished("s"), summary=summary))
    arguments["value"].append(2)
    summary["stages"]["done"] = 9
    found = await journal.row(row.run_id)
    assert found is not None
    found.summary["stages"]["done"] = 7
    again = await journal.row(row.run_id)
    assert again is not None
    assert again.summary == {"stages": {"done": 1}}
    [posted] = await journal.commands([row.run_id])
    assert posted.arguments == {"stage": "s", "value": [1]}


async def test_a_command_waits_until_an_append_takes_it(journal: Journal) -> None:
    row = await claimed(journal)
    other = await claimed(journal, "b")
    assert await journal.post(command(row, "pause", "cmd_1"))
    assert await journal.post(command(other, "cancel", "cmd_2"))
    assert await journal.post(command(row, "cancel", "cmd_3", reason="enough"))
    waiting = await journal.commands([row.run_id, other.run_id])
    assert [found.id for found in waiting] == ["cmd_1", "cmd_2", "cmd_3"]
    assert waiting[2] == command(row, "cancel", "cmd_3", reason="enough")
    await journal.append(append(row, finished("s"), taken=("cmd_1",)))
    assert [found.id for found in await journal.commands([row.run_id])] == ["cmd_3"]


async def test_a_command_posted_twice_waits_once_even_when_it_was_taken_meanwhile(journal: Journal) -> None:
    row = await claimed(journal)
    assert await journal.post(command(row))
    assert await journal.post(command(row))
    assert len(await journal.commands([row.run_id])) == 1
    await journal.append(append(row, finished("s"), taken=("cmd_1",)))
    assert await journal.post(command(row))
    assert await journal.commands([row.run_id]) == []


async def test_a_command_to_a_run_that_is_not_there_is_refused(journal: Journal) -> None:
    row = await claimed(journal)
    gone = command(row)
    assert not await journal.post(type(gone)(id="cmd_9", run_id=RunId("run_gone"), name="cancel"))


async def test_plans_are_stored_once(journal: Journal) -> None:
    await journal.put_plan(PLAN_ID, PLAN)
    await journal.put_plan(PLAN_ID, PLAN)
    assert await journal.plan(PLAN_ID) == PLAN


async def test_claiming_raises_the_epoch_and_leaves_held_runs_alone(journal: Journal) -> None:
    await journal.enlist(ME, "host", 1)
    await journal.enlist(OTHER, "host", 2)
    await journal.submit(new_run())
    [found] = await journal.claim(ME, 0, 10)
    assert (found.row.owner, found.row.epoch) == (ME, 1)
    assert await journal.row(found.row.run_id) == found.row
    assert await journal.claim(OTHER, 0, 10) == []
    assert await journal.claim(OTHER, 0, 1, found.row.run_id) == []
    assert await journal.claim(OTHER, 0, 1, RunId("run_gone")) == []


async def test_runs_are_claimed_by_priority_then_age_up_to_the_limit(journal: Journal) -> None:
    await journal.enlist(ME, "host", 1)
    for name, at, priority in (("b", 2, 0), ("a", 1, 0), ("c", 3, 5)):
        await journal.submit(new_run(name, at=at, priority=priority))
    assert [found.row.run_id for found in await journal.claim(ME, 0, 2)] == ["run_c", "run_a"]
    assert [found.row.run_id for found in await journal.claim(ME, 0, 2)] == ["run_b"]


async def test_a_sleeping_run_is_claimed_when_its_time_has_come_or_a_command_waits(journal: Journal) -> None:
    row = await claimed(journal)
    await journal.append(append(row, finished("s"), status="running", release=True, wake_at=5_000))
    assert await journal.claim(ME, 4_999, 10) == []
    [found] = await journal.claim(ME, 5_000, 10)
    assert found.row.wake_at is None
    await journal.append(append(found, finished("t"), release=True, wake_at=9_000))
    assert await journal.claim(ME, 6_000, 10) == []
    await journal.post(command(row))
    [again] = await journal.claim(ME, 6_000, 10)
    assert again.row.epoch == 3


@pytest.mark.parametrize("status", ["paused", "failed"])
async def test_a_run_at_rest_is_claimed_only_when_a_command_waits_or_by_name(journal: Journal, status: str) -> None:
    row = await claimed(journal)
    await journal.append(append(row, finished("s"), status=status, release=True))
    assert await journal.claim(ME, 9_999, 10) == []
    await journal.post(command(row, "resume"))
    [found] = await journal.claim(ME, 9_999, 10)
    await journal.append(append(found, finished("t"), taken=("cmd_1",), status=status, release=True))
    assert await journal.claim(ME, 9_999, 10) == []
    assert len(await journal.claim(ME, 9_999, 1, row.run_id)) == 1


async def test_two_conductors_that_claim_at_once_never_get_the_same_run(journal: Journal, open_another: Opener) -> None:
    other = open_another()
    await journal.enlist(ME, "host", 1)
    await journal.enlist(OTHER, "host", 2)
    for n in range(30):
        await journal.submit(new_run(f"r{n:02}"))
    got: list[str] = []
    while True:
        found = await asyncio.gather(journal.claim(ME, 0, 4), other.claim(OTHER, 0, 4))
        got += [claim.row.run_id for part in found for claim in part]
        if not await journal.claim(ME, 0, 0) and len(got) >= 30:
            break
    assert sorted(got) == [f"run_r{n:02}" for n in range(30)]


async def test_beats_rise_and_only_a_silent_conductor_can_be_buried(journal: Journal) -> None:
    await journal.enlist(ME, "host", 7)
    assert await journal.beats() == {ME: (0, "host", 7)}
    assert await journal.beat(ME)
    assert await journal.beats() == {ME: (1, "host", 7)}
    assert not await journal.bury(ME, 0)
    assert await journal.bury(ME, 1)
    assert not await journal.bury(ME, 1)
    assert await journal.beats() == {}
    assert not await journal.beat(ME)


async def test_the_runs_of_a_buried_conductor_are_adopted_and_it_is_fenced_out(journal: Journal) -> None:
    row = await claimed(journal)
    await journal.enlist(OTHER, "host", 2)
    assert await journal.bury(ME, 0)
    # Until somebody else takes the run, what it had under way may still be recorded.
    assert await journal.append(append(row, finished("s"), status="running")) == 2
    [found] = await journal.claim(OTHER, 0, 10)
    assert (found.row.owner, found.row.epoch, found.row.seq) == (OTHER, 2, 2)
    with pytest.raises(FencedError):
        await journal.append(append(row, finished("t"), seq=2))
    with pytest.raises(FencedError):
        await journal.claim(ME, 0, 10)
    with pytest.raises(FencedError):
        await journal.claim(ME, 0, 1, row.run_id)


async def test_a_conductor_that_retires_leaves_its_runs_to_others(journal: Journal) -> None:
    await claimed(journal)
    await journal.enlist(OTHER, "host", 2)
    await journal.retire(ME)
    assert list(await journal.beats()) == [OTHER]
    assert len(await journal.claim(OTHER, 0, 10)) == 1


async def test_rows_are_listed_newest_first_in_pages_and_filtered(journal: Journal) -> None:
    for n in range(7):
        await journal.submit(new_run(f"r{n}", at=100 - n // 2, pipeline="even" if n % 2 == 0 else "odd"))
    await journal.submit(new_run("x", org_id=OrgId("other")))
    wanted = ["run_r1", "run_r0", "run_r3", "run_r2", "run_r5", "run_r4", "run_r6"]
    assert [row.run_id for row in await journal.rows(LOCAL_ORG)] == wanted
    seen: list[RunId] = []
    while page := await journal.rows(LOCAL_ORG, limit=3, before=seen[-1] if seen else None):
        seen += [row.run_id for row in page]
    assert seen == wanted
    assert {row.run_id for row in await journal.rows(LOCAL_ORG, pipeline="odd")} == {"run_r1", "run_r3", "run_r5"}
    await ended(journal, "r1", at=100, pipeline="odd")
    assert [row.run_id for row in await journal.rows(LOCAL_ORG, status=["completed", "failed"])] == ["run_r1"]
    with pytest.raises(JournalError, match="run_gone"):
        await journal.rows(LOCAL_ORG, before=RunId("run_gone"))


async def test_side_lines_are_kept_once_by_number_and_read_in_order(journal: Journal) -> None:
    row = await claimed(journal)
    lines = [LogLine(("each", 3, "s"), 1, n, 5, "info", f"line {n}", {"n": n}) for n in range(3)]
    deltas = [Delta(("s",), 1, n, f"word {n} ") for n in range(3)]
    await journal.add_side(row.org_id, row.run_id, lines[:2], deltas[:1])
    await journal.add_side(row.org_id, row.run_id, lines, deltas)
    await journal.add_side(row.org_id, RunId("run_gone"), lines, deltas)
    found = await journal.logs(row.run_id)
    assert [line for _, line in found] == lines
    assert [line for _, line in await journal.logs(row.run_id, after=found[0][0], limit=1)] == [lines[1]]
    assert [delta.text for _, delta in await journal.deltas(row.run_id)] == ["word 0 ", "word 1 ", "word 2 "]
    await journal.append(append(row, finished("s"), status="completed", release=True))
    assert await journal.deltas(row.run_id) == []
    assert len(await journal.logs(row.run_id)) == 3


async def test_every_digest_that_events_mention_is_a_reference(journal: Journal) -> None:
    digests = [Digest(sha256(str(n).encode())) for n in range(4)]
    blob = {"$blob": digests[1], "type": "application/pdf", "size": 3}
    row = await claimed(journal, events=(RunSubmitted(PLAN_ID, Stored(digests[0], 70_000)),))
    await journal.append(append(row, StageFinished(("s",), 1, inline({"doc": blob}))))
    await journal.append(append(row, finished("big", ["x" * 9000, digests[2]]), seq=2))
    assert await journal.references([*digests, PLAN_ID]) == {*digests[:3], PLAN_ID}
    assert encode(blob)


async def test_a_closed_journal_can_be_opened_again_with_all_it_held(journal: Journal, open_another: Opener) -> None:
    row = await claimed(journal)
    await journal.append(append(row, finished("s")))
    await journal.close()
    await journal.close()
    await contiguous(open_another(), row.run_id, 2)
