"""Whatever a component raises, logs or shows: its stage ends as it should, all can read of it, nobody else is hurt."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from flowmason import value
from flowmason.errors import Failure
from flowmason.event import StageFinished, StageLost, StageRetried
from flowmason.journal import Append, Journal
from flowmason.journal_memory import MemoryJournal
from flowmason.policy import INLINE_LIMIT
from flowmason.report import Ended, read_reports
from flowmason.value import Inline, Stored
from running import talkers
from running.kit import Engine, expanded, pipe, say, stage, touch


@pytest.fixture(scope="module", autouse=True)
def _talkers(engine: Engine) -> None:
    engine.specs.learn(talkers)


@pytest.mark.parametrize("component", ["rant", "rant_purely"])
@pytest.mark.parametrize("how", talkers.ERRORS)
async def test_whatever_is_raised_is_a_failure_that_can_be_read(engine: Engine, how: str, component: str) -> None:
    result = await engine.run(pipe(stage("a", component, how=how)))
    _, code, message = talkers.ERRORS[how]
    assert result.status == "failed" and result.error is not None
    assert (result.error.code, result.error.message, result.error.stage) == (code, message, "a")
    # Nothing was taken for a death of the worker, and what the wire makes of it is read back as the same.
    assert not result.of(StageLost)
    assert msgspec.json.decode(msgspec.json.encode(result.error), type=Failure) == result.error
    assert len(msgspec.json.encode(result.error)) < 16_000


async def test_it_can_be_caught_and_stands_in_the_place_of_an_item(engine: Engine) -> None:
    document = pipe(
        stage("each", "foreach", items=list(talkers.ERRORS), loop_stages=["a"], break_on_error=False),
        stage("a", "rant_purely", how="{{item}}"),
        say("end", "{{upstream.each.results}}"),
    )
    result = await engine.run(document)
    assert result.status == "completed"
    assert [each["$error"]["message"] for each in result.out("end")] == [each[2] for each in talkers.ERRORS.values()]


async def test_no_wait_is_longer_than_a_stage_may_take(engine: Engine) -> None:
    retry = {"max_retries": 1, "initial_delay_ms": 100}
    running = await engine.begin(pipe(stage("a", "rant_purely", how="a long wait", retry_config=retry)))
    await running.until(lambda event: isinstance(event, StageRetried))
    await running.command("cancel")
    result = await running.end()
    assert result.status == "cancelled"
    (retried,) = result.of(StageRetried)
    assert retried.failure.retry_after_ms == 7 * 24 * 3600 * 1000


async def test_a_secret_is_masked_before_a_text_is_cut(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMASON_SECRET_TOKEN", "abcdefghijklmnop")
    result = await engine.run(pipe(stage("a", "blab", how="")))
    assert result.error is not None and result.error.message.endswith("***")
    assert "abcd" not in msgspec.json.encode(result.error).decode()


async def test_whatever_is_logged_is_kept_in_its_order(engine: Engine) -> None:
    running = await engine.begin(pipe(stage("a", "mutter", how="")))
    assert (await running.end()).status == "completed"
    first, second = await _lines(running.host.stores.journal, running.run_id, 2)
    assert first.message == "first \\udcff" and second.message == "second"
    assert first.fields["n"] == str(2**80) and first.fields["keys"] == {"None": "\\udcff"}
    assert "object object" in first.fields["what"]


async def test_lines_that_a_store_refuses_cost_nobody_elses(engine: Engine) -> None:
    journal = Refusing()
    running = await engine.begin(pipe(stage("a", "look"), stage("b", "look", depends_on=["a"])), journal=journal)
    assert (await running.end()).status == "completed"
    assert journal.refused == 1
    assert [line.path for line in await _lines(journal, running.run_id, 1)] == [("b",)]


class Refusing(MemoryJournal):
    """Cannot store the first lines that come; `b` comes after they were refused."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0
        self.told = asyncio.Event()

    async def add_side(self, *arguments: Any) -> None:
        if not self.refused:
            self.refused += 1
            self.told.set()
            raise UnicodeEncodeError("utf-8", talkers.HALF, 0, 1, "odd")
        await super().add_side(*arguments)

    async def append(self, append: Append) -> int:
        # The end of `a` is recorded once its lines were refused: those of `b` are stored by themselves.
        if any(getattr(event, "path", ()) == ("a",) and hasattr(event, "output") for event in append.events):
            await self.told.wait()
        return await super().append(append)


async def _lines(journal: Journal, run_id: Any, count: int) -> list[Any]:
    async with asyncio.timeout(60):
        while len(found := await journal.logs(run_id)) < count:
            await asyncio.sleep(0.01)
    return [line for _, line in found]


async def test_options_of_a_loop_of_the_users_are_read_as_those_of_the_built_in_one(engine: Engine) -> None:
    body = say("b", "{{item}}")
    wrong = await engine.run(pipe(stage("each", "wild", loop_stages=["b"], max_parallel="many"), body))
    assert wrong.error is not None and (wrong.error.code, wrong.error.stage) == ("INVALID_INPUT", "each")
    assert "max_parallel" in wrong.error.message
    right = await engine.run(pipe(stage("each", "wild", loop_stages=["b"], max_parallel=2, aside="x" * 100_000), body))
    assert right.status == "completed"
    # What else it was given does not ride in the journal.
    assert len(msgspec.msgpack.encode(expanded(right, "each"))) < 1000


@pytest.mark.parametrize("size", [INLINE_LIMIT, INLINE_LIMIT + 1])
async def test_up_to_64_kib_a_value_rides_in_its_event(engine: Engine, size: int) -> None:
    around = len(value.encode({"value": "x" * 60_000})) - 60_000
    result = await engine.run(pipe(touch("a", "x" * (size - around))))
    (event,) = result.of(StageFinished, "a")
    assert isinstance(event.output, Inline if size == 65_536 else Stored)


def test_a_report_that_cannot_be_read_is_the_end_of_its_region_alone() -> None:
    """A provider of the user's may count tokens by halves, say."""
    good = {"region": "r1", "ended": "done"}
    bad = {"region": "r2", "spent": [{"path": ["a"], "attempt": 1, "n": 1, "call": {"model": 5}}]}
    first, second, third = read_reports(msgspec.msgpack.encode([good, bad, {"region": "r3"}]))
    assert (first.region, first.ended, third.region, third.ended) == ("r1", Ended.DONE, "r3", None)
    assert (second.region, second.ended) == ("r2", Ended.LOST)
    assert second.failure is not None and second.failure.code == "INTERNAL" and "model" in second.failure.message
