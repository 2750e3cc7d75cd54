"""Large values, the pipeline's input and output, and a run on SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import RefusedError
from flowmason.event import RunSubmitted, StageFinished, encode_events
from flowmason.journal_sql import open_journal
from flowmason.value import Stored
from running.kit import Engine, pipe, post, say, stage, touch

MIB = 1 << 20


def stored(engine: Engine) -> list[Path]:
    """Every file in the value store, except for Plans."""
    root = Path(engine.url.removeprefix("file://"))
    return [path for path in root.rglob("*") if path.is_file() and path.stat().st_size > 60_000]


async def test_ten_mebibytes_are_stored_once_and_not_in_the_journal(engine: Engine) -> None:
    before = len(stored(engine))
    result = await engine.run(
        pipe(
            stage("one", "blob", size=10 * MIB),
            stage("two", "blob", size=10 * MIB, after="{{upstream.one.size}}"),
            stage("end", "measure", data="{{upstream.two.data}}"),
        )
    )
    assert result.status == "completed"
    assert result.output == {"size": 10 * MIB}
    outputs = {event.path[0]: event.output for event in result.of(StageFinished)}
    assert isinstance(outputs["one"], Stored) and isinstance(outputs["two"], Stored)
    assert outputs["one"].digest == outputs["two"].digest
    assert len(stored(engine)) == before + 1
    assert len(encode_events(tuple(each.event for each in result.events))) < 10_000


async def test_a_large_value_goes_through_loops_and_sub_pipelines(engine: Engine) -> None:
    inner = pipe(stage("size", "measure", data="{{input.data}}"), name="inner")
    result = await engine.run(
        pipe(
            stage("big", "blob", size=MIB),
            stage("each", "foreach", items=[1, 2], loop_stages=["sub"], parallel=True),
            stage("sub", "subpipeline", pipeline_id="inner", input_data={"data": "{{upstream.big.data}}"}),
            say("end", "{{upstream.sub}}"),
        ),
        others=[inner],
    )
    assert result.status == "completed"
    assert [row["result"] for row in result.out("end")] == [{"size": MIB}] * 2
    assert len(encode_events(tuple(each.event for each in result.events))) < 30_000


async def test_a_large_input_is_stored(engine: Engine) -> None:
    text = "x" * 200_000
    result = await engine.run(pipe(say("a", "{{len(input.text)}}")), {"text": text})
    assert result.out("a") == 200_000
    (submitted,) = result.of(RunSubmitted)
    assert isinstance(submitted.input, Stored)


async def test_results_of_a_loop_that_are_large_together_are_stored(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            stage("each", "foreach", items="{{range(40)}}", loop_stages=["body"], parallel=True),
            say("body", "{{input.text + str(item)}}"),
            say("end", "{{len(upstream.each.results[39].value)}}"),
        ),
        {"text": "y" * 10_000},
    )
    assert result.out("end") == 10_002
    assert len(encode_events(tuple(each.event for each in result.events))) < 200_000


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "default": 7}, "who": {"type": "string"}},
    "required": ["who"],
}


async def test_the_input_gets_its_defaults(engine: Engine) -> None:
    result = await engine.run(pipe(say("a", "{{input}}"), input_schema=SCHEMA), {"who": "me"})
    assert result.out("a") == {"n": 7, "who": "me"}


@pytest.mark.parametrize("given", [{}, {"who": 3}, {"who": "me", "n": "many"}])
async def test_a_wrong_input_is_refused_before_a_run_exists(engine: Engine, given: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        await engine.begin(pipe(say("a"), input_schema=SCHEMA), given)


async def test_an_output_against_its_schema_fails_the_run(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"value": {"type": "integer", "minimum": 3}}}
    document = pipe(say("a", "{{input.x}}"), output_schema=schema)
    good = await engine.run(document, {"x": 3})
    assert (good.status, good.output) == ("completed", {"value": 3})
    bad = await engine.run(document, {"x": 2})
    assert bad.status == "failed"
    assert bad.error is not None
    assert bad.error.code == "INVALID_OUTPUT"
    assert bad.stages["a"].status == "completed"


async def test_what_a_return_gives_is_held_against_the_output_schema(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}
    document = pipe(
        stage("back", "return", return_value="{{input.x}}"), say("a", 1, depends_on=["back"]), output_schema=schema
    )
    good = await engine.run(document, {"x": {"value": 1}})
    assert (good.status, good.output) == ("completed", {"value": 1})
    assert (await engine.run(document, {"x": {}})).status == "failed"


async def test_the_same_document_and_input_give_the_same_events_but_for_times(engine: Engine) -> None:
    document = pipe(say("a", 1), touch("b", "{{upstream.a.value}}"), say("c", "{{upstream.b.value}}"))
    one, two = [await engine.run(document) for _ in range(2)]
    assert one.plan.id == two.plan.id
    assert [type(each.event) for each in one.events] == [type(each.event) for each in two.events]
    assert {n: s.output for n, s in one.stages.items()} == {n: s.output for n, s in two.stages.items()}


async def test_a_run_on_sqlite_survives_its_conductor(engine: Engine, tmp_path: Path) -> None:
    journal = open_journal(f"sqlite:///{tmp_path}/flowmason.db")
    try:
        running = await engine.begin(
            pipe(
                post("a", 1),
                stage("each", "foreach", items=[1, 2, 3], loop_stages=["body"], parallel=True, max_parallel=2),
                touch("body", "{{item + upstream.a.value}}", seconds=0.1),
                say("end", "{{upstream.body}}"),
            ),
            journal=journal,
        )
        await running.until(
            lambda event: getattr(event, "path", ()) == ("each", 0, "body") and hasattr(event, "output")
        )
        running.host.leave()
        assert (await running.end()).status == "running"
    finally:
        await journal.close()
    again = open_journal(f"sqlite:///{tmp_path}/flowmason.db")
    try:
        running.host.stores.journal = again
        running.host.left = False
        running.start()
        result = await running.end()
        assert result.status == "completed"
        assert result.out("end") == [{"value": n} for n in (2, 3, 4)]
        assert len([note for note in result.notes if note.path == "a"]) == 1
        assert len([note for note in result.notes if note.path == "each[0].body"]) == 1
        assert [each.seq for each in result.events] == list(range(1, len(result.events) + 1))
    finally:
        await again.close()


@pytest.mark.parametrize(
    ("odd", "named"),
    [(2**70, "int"), ("\ud800", "str"), (object(), "object"), ({1: 2}, "dict")],
    ids=["wide", "half", "object", "keys"],
)
async def test_an_input_that_is_no_data_is_refused_with_its_place(engine: Engine, odd: Any, named: str) -> None:
    with pytest.raises(RefusedError) as caught:
        await engine.run(pipe(say("a", 1)), {"fine": 1, "list": [0, {"odd": odd}]})
    (fault,) = caught.value.faults
    assert (fault.pointer, fault.code) == ("$.input.list[1].odd", "INVALID_INPUT")
    assert fault.reason.startswith(f"{named} is no data")
