"""Pruning runs and sweeping the values they leave."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flowmason import retention
from flowmason.event import RunSubmitted
from flowmason.ids import LOCAL_ORG, Digest, RunId, sha256
from flowmason.journal_memory import MemoryJournal
from flowmason.value import Stored, encode, inline
from flowmason.values_fs import open_values
from journal_samples import PLAN_ID, append, claimed, ended

DAY_S = 24 * 3600


class World:
    """A journal in memory and values in a folder, all older than the sweep's grace."""

    def __init__(self, folder: Path) -> None:
        self.journal = MemoryJournal()
        self.folder = folder
        self.values = open_values(str(folder))

    def put(self, content: object, age_s: float = 2 * DAY_S) -> Stored:
        """Store a value that was last touched `age_s` ago."""
        data = encode(content)
        digest = sha256(data)
        self.values.put(LOCAL_ORG, digest, data)
        name = digest.removeprefix("sha256:")
        when = time.time() - age_s
        os.utime(self.folder / LOCAL_ORG / name[:2] / name[2:4] / name, (when, when))
        return Stored(digest, len(data))

    def there(self, *values: Stored) -> list[bool]:
        """Which of the values are there."""
        return [self.values.has(LOCAL_ORG, value.digest) for value in values]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "values")


async def test_only_old_values_that_no_run_mentions_are_swept(world: World) -> None:
    used, loose, recent = world.put("used"), world.put("loose"), world.put("recent", age_s=3600)
    await claimed(world.journal, events=(RunSubmitted(PLAN_ID, used),))
    wanted = retention.Swept(1, loose.size)
    assert await retention.sweep(world.journal, world.values, LOCAL_ORG, dry_run=True) == wanted
    assert world.there(used, loose, recent) == [True, True, True]
    assert await retention.sweep(world.journal, world.values, LOCAL_ORG) == wanted
    assert world.there(used, loose, recent) == [True, False, True]
    assert await retention.sweep(world.journal, world.values, LOCAL_ORG) == retention.Swept()


async def test_a_blob_is_kept_while_a_value_that_stays_mentions_it(world: World) -> None:
    deep, loose = world.put("deep"), world.put("loose")
    blob = world.put(["a document", {"$blob": deep.digest}])
    outer = world.put({"doc": {"$blob": blob.digest, "type": "application/pdf", "size": 3}})
    inner = world.put("mentioned in an event")
    row = await claimed(world.journal, events=(RunSubmitted(PLAN_ID, outer),))
    event = RunSubmitted(PLAN_ID, inline({"$blob": inner.digest}))
    await world.journal.append(append(row, event))
    await retention.sweep(world.journal, world.values, LOCAL_ORG)
    assert world.there(outer, blob, deep, inner, loose) == [True, True, True, True, False]


async def test_pruning_frees_the_values_of_old_runs_alone(world: World) -> None:
    old, shared, recent = world.put("old"), world.put("shared"), world.put("recent")
    now_ms = 100 * DAY_S * 1000
    for name, at, value in (("old", 1, old), ("both", 1, shared), ("recent", now_ms, shared), ("last", now_ms, recent)):
        await ended(world.journal, name, at=at, events=(RunSubmitted(PLAN_ID, value),))

    async def prune(dry_run: bool) -> retention.Pruned:
        return await retention.prune(
            world.journal, world.values, LOCAL_ORG, older_than_s=30 * DAY_S, now_ms=now_ms, dry_run=dry_run
        )

    assert (await prune(dry_run=True)).runs == ("run_both", "run_old")
    assert world.there(old, shared, recent) == [True, True, True]
    assert await prune(dry_run=False) == retention.Pruned(
        (RunId("run_both"), RunId("run_old")), retention.Swept(1, old.size)
    )
    assert world.there(old, shared, recent) == [False, True, True]


async def test_sizes_tell_what_is_used_and_what_is_loose(world: World) -> None:
    assert await retention.sizes(world.journal, world.values, LOCAL_ORG) == retention.Sizes()
    used, loose = world.put("used"), world.put("loose", age_s=0)
    await claimed(world.journal, events=(RunSubmitted(PLAN_ID, used),))
    found = await retention.sizes(world.journal, world.values, LOCAL_ORG)
    assert found == retention.Sizes(2, used.size + loose.size, 1, loose.size)


async def test_a_value_that_is_put_while_the_sweep_looks_stays(world: World) -> None:
    loose = world.put("loose")

    class Slow(MemoryJournal):
        async def references(self, digests: object) -> set[str]:
            world.values.put(LOCAL_ORG, Digest(loose.digest), encode("loose"))
            return set()

    assert await retention.sweep(Slow(), world.values, LOCAL_ORG) == retention.Swept()
    assert world.there(loose) == [True]
