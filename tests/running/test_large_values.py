"""Large values: stored while the work goes on, recorded only then, kept by whoever made them, up to a bound."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason import values_fs
from flowmason.event import StageFinished
from flowmason.ids import LOCAL_ORG, Digest, RunId
from flowmason.plan import ComponentRef
from flowmason.region import Worker
from flowmason.region.kept import Kept, Unsharable, share
from flowmason.region.run import RegionRun
from flowmason.region.storing import Storing
from flowmason.report import Ended, Piece, Region, Report
from flowmason.value import decode, encode
from running import parts
from running.kit import Engine, pipe, say, stage, touch

MIB = 1 << 20


class Disk:
    """What stands between the value store and its files: it can be held up, and it can be full."""

    def __init__(self) -> None:
        self._write = values_fs._write_whole
        self.room = True
        self.go = threading.Event()
        self.go.set()
        self.written = 0

    def write(self, path: Path, data: bytes) -> None:
        if len(data) > 64 * 1024:
            assert self.go.wait(20)
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.written += 1
        self._write(path, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk of the value store."""
    made = Disk()
    monkeypatch.setattr(values_fs, "_write_whole", made.write)
    yield made
    made.go.set()


async def eventually(test: Callable[[], bool]) -> None:
    """Wait until `test` is true."""
    deadline = time.monotonic() + 60
    while not test():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def size_of_its_own(sizes: Iterator[int] = iter(range(2 * MIB, 3 * MIB))) -> int:  # noqa: B008 - shared on purpose
    """A size that no other test uses: equal values are stored once."""
    return next(sizes)


async def test_work_goes_on_while_a_value_is_stored_and_it_is_recorded_only_then(engine: Engine, disk: Disk) -> None:
    disk.go.clear()
    running = await engine.begin(
        pipe(
            stage("big", "blob", size=size_of_its_own()),
            stage("measured", "measure", data="{{upstream.big.data}}"),
            say("last", "{{upstream.measured.size}}"),
        ),
        options={"region_ms": 10_000},
    )
    await eventually(lambda: "last" in {note.path for note in parts.entries(running.run_id)})
    # Long enough for a few pulses of the region.
    await asyncio.sleep(0.1)
    assert not [event for event in running.watcher.events if isinstance(event, StageFinished)]
    assert disk.written == 0
    disk.go.set()
    result = await running.end()
    assert result.status == "completed"
    assert [event.path for event in result.of(StageFinished)] == [("big",), ("measured",), ("last",)]
    assert [note.path for note in result.notes] == ["last"]
    assert disk.written == 1


async def test_a_value_that_cannot_be_stored_fails_its_stage_and_undoes_what_rested_on_it(
    engine: Engine, disk: Disk
) -> None:
    disk.room = False
    running = await engine.begin(
        pipe(
            say("first", 1),
            stage("big", "blob", size=size_of_its_own(), after="{{upstream.first.value}}"),
            stage("next", "measure", data="{{upstream.big.data}}"),
        ),
        options={"region_ms": 10_000},
    )
    failed = await running.end()
    assert failed.status == "failed"
    assert failed.error is not None and failed.error.code == "STORAGE" and failed.error.stage == "big"
    assert [event.path for event in failed.of(StageFinished)] == [("first",)]
    disk.room = True
    result = await running.resume()
    assert result.status == "completed"
    assert [event.path for event in result.of(StageFinished)] == [("first",), ("big",), ("next",)]


async def test_an_effect_whose_result_cannot_be_stored_fails(engine: Engine, disk: Disk) -> None:
    running = await engine.begin(pipe(touch("big", "{{input.text + 'y'}}")), {"text": "x" * 900_000})
    disk.room = False
    result = await running.end()
    assert result.status == "failed"
    assert result.error is not None and result.error.code == "STORAGE"
    assert [note.path for note in result.notes] == ["big"]


async def test_whoever_changes_a_large_value_changes_nobody_elses(engine: Engine) -> None:
    result = await engine.run(
        pipe(
            say("big", "{{[input.text, input.text]}}"),
            stage("spoil", "spoil", items="{{upstream.big.value}}"),
            say("after", "{{[len(upstream.big.value), len(upstream.big.value[0])]}}", depends_on=["spoil"]),
            stage("again", "spoil", items="{{upstream.big.value}}", depends_on=["after"]),
        ),
        {"text": "x" * size_of_its_own()},
    )
    assert result.status == "completed"
    first = result.stages["big"].output["value"]
    assert result.out("after") == [2, len(first[0])]
    assert result.stages["spoil"].output == result.stages["again"].output


# -- regions ---------------------------------------------------------------------------------------


class Slow(Worker):
    """A worker on a clock of its own: each component takes 15 ms."""

    time_ms = 0

    def _beat(self, run: RegionRun) -> None:
        pass

    def monotonic(self) -> float:
        return self.time_ms / 1000

    def component(self, ref: ComponentRef) -> Any:
        self.time_ms += 15
        return super().component(ref)


async def _region(engine: Engine, document: dict[str, Any]) -> list[Report]:
    plan = engine.plan(document)
    engine.values.put(LOCAL_ORG, Digest(plan.id), plan.encoded)
    piece = Piece(scope=(), plan=plan.id, stages=tuple(plan.stages))
    region = Region(
        id="one", run_id=RunId("run_1"), org_id=LOCAL_ORG, epoch=1, plan=plan.id, pieces=(piece,), name="one"
    )
    reports: list[Report] = []
    await Slow(engine.settings).run(region, reports.append)
    assert reports[-1].ended is Ended.DONE
    return reports


def _finished(reports: list[Report]) -> list[str]:
    return [str(event.path[0]) for report in reports for event in report.events if isinstance(event, StageFinished)]


def chain(name: str, sizes: list[int]) -> list[dict[str, Any]]:
    """Values of these sizes, one after the other."""
    return [
        stage(f"{name}{n}", "blob", size=size, after=f"{{{{upstream.{name}{n - 1}.size}}}}" if n else None)
        for n, size in enumerate(sizes)
    ]


async def test_a_chain_of_large_values_stays_on_its_worker_and_one_of_small_ones_does_not(engine: Engine) -> None:
    large = await _region(engine, pipe(*chain("s", [8 * MIB] * 6)))
    assert _finished(large) == ["s0", "s1", "s2", "s3", "s4", "s5"]
    small = await _region(engine, pipe(*chain("s", [8] * 6)))
    assert _finished(small) == ["s0", "s1"]


async def test_large_values_hold_up_nobody_who_waits(engine: Engine) -> None:
    both = await _region(engine, pipe(*chain("a", [8 * MIB] * 6), *chain("b", [8] * 6), *chain("c", [8] * 6)))
    assert len(_finished(both)) == 2


async def test_however_large_the_values_a_region_ends(engine: Engine) -> None:
    finished = _finished(await _region(engine, pipe(*chain("s", [8 * MIB] * 30))))
    assert 10 < len(finished) < 20


# -- what a process keeps --------------------------------------------------------------------------


def test_what_is_kept_stays_within_its_bound() -> None:
    kept = Kept(100)
    keys = [("here", LOCAL_ORG, Digest(f"sha256:{n:064d}")) for n in range(40)]
    for n, key in enumerate(keys):
        kept.put(key, n, 30)
        assert kept.size <= 100
    assert [kept.get(key) for key in keys[-4:]] == [None, 37, 38, 39]
    kept.put(keys[0], "larger than half", 51)
    assert kept.get(keys[0]) is None
    kept.put(keys[39], "again", 20)
    assert kept.size == 80


def test_what_cannot_be_read_elsewhere_yet_is_kept_whatever_its_size() -> None:
    kept = Kept(100)
    key = ("here", LOCAL_ORG, Digest("sha256:" + "0" * 64))
    kept.pin(key, "on its way", 1000)
    assert kept.get(key) == "on its way"
    kept.unpin(key)
    assert kept.get(key) is None
    assert kept.size == 0


def test_whoever_makes_values_faster_than_they_are_stored_waits() -> None:
    storing, go, begun = Storing(threads=1, limit=100), threading.Event(), []

    def put() -> None:
        assert go.wait(20)

    def make() -> None:
        for _ in range(3):
            begun.append(storing.begin(put, 60))

    maker = threading.Thread(target=make)
    maker.start()
    maker.join(0.1)
    assert maker.is_alive() and len(begun) == 1
    go.set()
    maker.join(10)
    assert [future.result(10) for future in begun] == [None] * 3


LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
PLAIN = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner))


@given(PLAIN)
def test_shared_data_are_what_decoding_would_have_given(data: Any) -> None:
    shared, decoded = share(data), decode(encode(data))
    assert shared == decoded
    assert repr(shared) == repr(decoded)  # types and the order of keys, too


@pytest.mark.parametrize("data", [{1: "a"}, [bytearray(b"a")], [0] * 5000, object()])
def test_what_is_not_plain_or_not_cheap_is_not_shared(data: Any) -> None:
    with pytest.raises(Unsharable):
        share(data)


def test_nothing_that_can_change_is_shared() -> None:
    data = {"list": [["inner"]], "object": {"a": {}}}
    shared = share(data)
    data["list"][0].append("changed")  # type: ignore[index]
    data["object"]["a"]["b"] = 1  # type: ignore[index]
    assert shared == {"list": [["inner"]], "object": {"a": {}}}
