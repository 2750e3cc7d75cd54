"""Appending to a journal that may be full or away for a while, and giving back what could not be walked."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from flowmason.errors import Code, FencedError, JournalError
from flowmason.ids import ConductorId, RunId
from flowmason.journal import Append, Journal

log = logging.getLogger("flowmason.conductor")


async def record(journal: Journal, append: Append, patience_s: float) -> None:
    """Append; where the store is full or away, try again for `patience_s`. Raises as `Journal.append` does."""
    delay, waited = 0.05, 0.0
    while True:
        try:
            if not waited or not await _recorded(journal, append):
                await journal.append(append)
            return
        except FencedError:
            raise
        except JournalError as error:
            if error.failure.code != Code.STORAGE or waited >= patience_s:
                raise
            log.warning("run %s: %s; trying again", append.run_id, error)
            await asyncio.sleep(delay)
            waited += delay
            delay = min(delay * 2, 5.0)


async def let_go(journal: Journal, conductor: ConductorId, run_id: RunId, now: int, pause_s: float) -> None:
    """Give back a run that is a conductor's and that it does not walk. It is taken up again after `pause_s`."""
    row = await journal.row(run_id)
    if row is None or row.owner != conductor:
        return
    with contextlib.suppress(FencedError):  # it is somebody else's by now
        await journal.append(
            Append(
                run_id=run_id,
                org_id=row.org_id,
                epoch=row.epoch,
                seq=row.seq,
                events=(),
                at=now,
                by=conductor,
                release=True,
                wake_at=now + int(pause_s * 1000),
            )
        )


async def _recorded(journal: Journal, append: Append) -> bool:
    """Whether an append was done although the store could not say so: nobody else writes under its epoch."""
    row = await journal.row(append.run_id)
    last = append.seq + len(append.events)
    return row is not None and bool(append.events) and (row.epoch, row.seq) == (append.epoch, last)
