"""Log lines and deltas on their way to the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from flowmason.ids import RunId
from flowmason.journal import Journal, RunRow
from flowmason.report import Delta, LogLine, Report

log = logging.getLogger("flowmason.conductor")

SIDE_S = 0.1


class Beside:
    """Stores what reports bring beside the journal: the first at once, what follows in batches."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: dict[RunId, tuple[RunRow, list[LogLine], list[Delta]]] = {}
        self._storing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def add(self, row: RunRow, report: Report) -> None:
        """Store a report's lines and deltas soon."""
        if not (report.logs or report.deltas):
            return
        _, lines, deltas = self._waiting.setdefault(row.run_id, (row, [], []))
        lines.extend(report.logs)
        deltas.extend(report.deltas)
        if self._storing is None:
            self._storing = asyncio.get_running_loop().create_task(self._later())

    async def close(self) -> None:
        """Store what is left; what is being stored is waited for, for 5 s."""
        if self._storing is not None:
            self._hurry.set()
            await asyncio.wait([self._storing], timeout=5.0)
        await self._store()

    async def _later(self) -> None:
        """The first at once, for somebody may be waiting for it."""
        while self._waiting:
            await self._store()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), SIDE_S)
        self._storing = None

    async def _store(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for row, lines, deltas in waiting.values():
            try:
                await self._journal.add_side(row.org_id, row.run_id, lines, deltas)
            except Exception as error:  # whatever is wrong with those, others' are stored
                log.warning("run %s: log lines were not stored: %s", row.run_id, error)
