"""What was recorded once folds to the same state for ever, and every event of it would be admitted again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowmason import event as ev
from flowmason.assembly.outcome import Shown
from flowmason.assembly.picture import RunPicture, StagePicture
from flowmason.assembly.readable import readable, recorded_from
from flowmason.conductor.loading import load_state
from flowmason.errors import FormatError
from flowmason.event import Foreign, Recorded, decode_events, encode_events
from flowmason.ids import LOCAL_ORG
from flowmason.journal import NewRun
from flowmason.journal_memory import MemoryJournal
from flowmason.plan import Plan, decode
from flowmason.state import RunState, admits, decide, fold
from flowmason.values_fs import open_values
from journals.golden import FOLDER, Golden, load, names, snapshot
from running.kit import Engine

GOLDEN = [name for name in names() if name != "newer_format"]
PROPOSED = (
    ev.StageFinished, ev.StageFailed, ev.StageRetried, ev.StageSkipped, ev.StageExpanded, ev.ItemsFinished,
    ev.StageLost, ev.StageCancelled,
)  # fmt: skip


@pytest.fixture(params=GOLDEN)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def test_there_are_enough_of_them() -> None:
    kinds = {type(each.event) for name in GOLDEN for each in load(name).events}
    missing = {cls.__name__ for cls in ev.Event.__args__} - {kind.__name__ for kind in kinds}
    assert missing <= {"EffectRecorded", "Foreign"}


def test_a_golden_journal_folds_to_the_state_it_had(golden: Golden) -> None:
    state = fold(golden.events[0].run_id, golden.plan, golden.events, golden.known)
    assert snapshot(state) == golden.state


def test_every_event_would_be_admitted_and_none_twice(golden: Golden) -> None:
    state = RunState(golden.events[0].run_id, golden.plan, golden.known)
    checked = 0
    for each in golden.events:
        event: Any = each.event
        if isinstance(event, PROPOSED):
            assert admits(state, event) is None, (each.seq, event)
            checked += 1
        state.apply(event, seq=each.seq, at=each.at)
        if isinstance(event, PROPOSED):
            assert admits(state, event) is not None, (each.seq, event)
    assert checked
    assert state.ended


def test_nothing_is_admitted_after_the_end(golden: Golden) -> None:
    state = fold(golden.events[0].run_id, golden.plan, golden.events, golden.known)
    for each in golden.events:
        if isinstance(each.event, PROPOSED):
            assert admits(state, each.event) == "the run has ended"
    assert decide(state, golden.events[-1].at, []) == []


def test_the_plan_still_has_its_digest(golden: Golden) -> None:
    """A digest pins what a stored run refers to: it may not change with the code."""
    submitted = golden.events[0].event
    assert isinstance(submitted, ev.RunSubmitted)
    assert golden.plan.id == submitted.plan
    assert decode(golden.plan.encoded) == golden.plan
    for each in golden.events:
        if isinstance(each.event, ev.StageExpanded) and each.event.plan is not None:
            assert each.event.plan in golden.known or each.event.plan in golden.plan.plans


def test_events_survive_their_stored_form(golden: Golden) -> None:
    events = tuple(each.event for each in golden.events)
    assert decode_events(encode_events(events)) == events


def test_the_picture_agrees_with_the_fold(golden: Golden) -> None:
    picture = RunPicture(golden.plan, items=True)
    for plan in golden.plans:
        picture.learn(plan)
    for each in golden.events:
        picture.apply(each)
    assert str(picture.status) == golden.state["status"]
    for path, stage in golden.state["stages"].items():
        shown = {each.name: each for each in picture.stages.values()}.get(path)
        if path != "$output" and stage["status"] != "pending":  # what never ran is drawn as cancelled
            assert shown is not None and str(shown.status) == stage["status"], path


def test_the_picture_is_the_same_drawn_from_what_is_shown_of_the_events(golden: Golden, tmp_path: Path) -> None:
    shown = Shown(open_values(str(tmp_path)))
    pictures = RunPicture(golden.plan), RunPicture(golden.plan)
    for each in golden.events:
        told = msgspec.json.decode(msgspec.json.encode(readable(each, shown)))
        back = recorded_from(told)
        assert type(back.event) is type(each.event)
        assert msgspec.json.decode(msgspec.json.encode(readable(back, shown))) == told
        for picture, recorded in zip(pictures, (each, back), strict=True):
            for plan in golden.plans:
                picture.learn(plan)
            picture.apply(recorded)
    before, after = ([_drawn(stage) for stage in picture.ordered()] for picture in pictures)
    assert before == after and before


def _drawn(stage: StagePicture) -> tuple[Any, ...]:
    return (
        stage.name, stage.status, stage.attempts, stage.started_at, stage.duration_ms, stage.failure, stage.usage,
        stage.choice, stage.reason, stage.total, stage.done, stage.failed_items,
    )  # fmt: skip


def test_an_event_of_another_time_comes_back_as_it_is() -> None:
    envelope = {"run_id": "run_1", "seq": 7, "at": 5, "by": "me"}
    for told in ({"kind": "stage.dreamt", "path": "a", "of": 3}, {"kind": "stage.finished", "path": "a.", "x": [1]}):
        back = recorded_from({**envelope, **told}).event
        assert isinstance(back, Foreign) and back.name == told["kind"]
        assert back.data == {name: item for name, item in told.items() if name != "kind"}


async def stored(golden: Golden, events: tuple[ev.Event, ...] | None = None) -> MemoryJournal:
    """A journal that holds the golden run."""
    journal = MemoryJournal()
    first = golden.events[0]
    for plan in golden.plans:
        await journal.put_plan(plan.id, plan.encoded)
    await journal.submit(
        NewRun(
            run_id=first.run_id,
            org_id=LOCAL_ORG,
            plan_id=golden.plan.id,
            plan=golden.plan.encoded,
            pipeline="main",
            version="1.0.0",
            events=events or tuple(each.event for each in golden.events),
            at=first.at,
            by="golden",
        )
    )
    return journal


async def test_a_conductor_loads_it_from_a_journal(golden: Golden) -> None:
    journal = await stored(golden)
    row = await journal.row(golden.events[0].run_id)
    assert row is not None
    state = await load_state(journal, row)
    assert snapshot(state) == golden.state


async def test_a_journal_of_a_newer_format_is_refused_by_drivers_and_read_by_readers(engine: Engine) -> None:
    newer = load("newer_format")
    journal = await stored(newer)
    row = await journal.row(newer.events[0].run_id)
    assert row is not None
    with pytest.raises(FormatError, match="format 99"):
        await load_state(journal, row)
    running = await engine.adopt(journal, row.run_id, newer.plan)
    with pytest.raises(FormatError, match="format 99"):
        await running.end()
    assert [each.event for each in await journal.read(row.run_id)] == [each.event for each in newer.events]


def test_a_plan_of_a_newer_format_is_refused() -> None:
    plan = load("chain").plan
    with pytest.raises(FormatError, match="format 99"):
        decode(msgspec.msgpack.encode(msgspec.structs.replace(plan, format=99)))


def test_a_journal_and_a_plan_that_name_no_format_are_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first format is not written out; that must not make an old run one of tomorrow's."""
    raw = (FOLDER / "chain" / "journal.jsonl").read_bytes().splitlines()[0]
    assert b'"format"' not in raw
    assert {field.name: field.default for field in msgspec.structs.fields(ev.RunSubmitted)}["format"] == 1
    assert msgspec.convert({"name": "x", "version": "1", "scope": {}}, Plan).format == 1


def test_an_event_of_an_unknown_kind_is_carried_along(golden: Golden) -> None:
    """Someone newer may have recorded things that change nothing here."""
    plain = [msgspec.to_builtins(each.event, builtin_types=(bytes,)) for each in golden.events]
    plain.insert(2, {"kind": "stage.dreamt", "path": ["a"], "of": {"sheep": 3}})
    events = decode_events(msgspec.msgpack.encode(plain))
    assert events[2] == Foreign(name="stage.dreamt", data={"path": ["a"], "of": {"sheep": 3}})
    assert ev.kind(events[2]) == "stage.dreamt"
    first = golden.events[0]
    recorded = [Recorded(first.run_id, seq, first.at, "golden", event) for seq, event in enumerate(events, 1)]
    state = fold(first.run_id, golden.plan, recorded, golden.known)
    assert snapshot(state) == {**golden.state, "seq": golden.state["seq"] + 1}


def test_a_field_that_is_not_known_is_passed_over() -> None:
    plain = {"kind": "run.started", "mood": "good"}
    assert decode_events(msgspec.msgpack.encode([plain])) == (ev.RunStarted(),)


def test_no_golden_journal_tells_of_the_machine_it_was_recorded_on() -> None:
    for file in Path(FOLDER).rglob("*.json*"):
        text = file.read_text()
        assert "Traceback" not in text and str(Path.home()) not in text, file
