"""What starts or ends an effect, and what ends a run, is on SQLite's disk when it is said; pure work need not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowmason.database import database
from flowmason.event import StageFinished, StageStarted
from flowmason.journal import Append
from flowmason.journal_memory import MemoryJournal
from running.kit import Engine, pipe, say, touch


class Noting(MemoryJournal):
    """Notes what was asked for each commit."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[tuple[bool, list[Any]]] = []

    async def append(self, append: Append) -> int:
        self.commits.append((append.durable, list(append.events)))
        return await super().append(append)

    def asked(self, kind: type[Any], id: str) -> bool:
        (found,) = [
            durable
            for durable, events in self.commits
            if any(isinstance(event, kind) and event.path == (id,) for event in events)
        ]
        return found


async def test_commits_of_effects_and_the_last_one_are_durable(engine: Engine) -> None:
    journal = Noting()
    running = await engine.begin(
        pipe(touch("long", seconds=60), touch("short"), say("pure", seconds=0.1)), journal=journal
    )
    await running.until(lambda event: isinstance(event, StageFinished) and event.path == ("pure",))
    await running.until(lambda event: isinstance(event, StageFinished) and event.path == ("short",))
    await running.command("cancel")
    assert (await running.end()).status == "cancelled"
    assert journal.asked(StageStarted, "long") and journal.asked(StageFinished, "short")
    assert journal.commits[-1][0]
    (alone,) = [durable for durable, events in journal.commits if _is_end_of(events, "pure")] or [False]
    assert not alone, "pure work can be done again"


def _is_end_of(events: list[Any], id: str) -> bool:
    return len(events) == 1 and isinstance(events[0], StageFinished) and events[0].path == (id,)


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_a_durable_commit_is_synced_to_the_disk(tmp_path: Path, durable: bool, level: int) -> None:
    connection = database(f"sqlite:///{tmp_path}/a.db").connect()
    for first in (not durable, durable):  # one that was there before keeps nothing of the one before it
        connection.begin(first)
        connection.commit()
    assert connection.run("PRAGMA synchronous").fetchone()[0] == level
    connection.close()
