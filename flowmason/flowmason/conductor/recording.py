"""Appending to a journal that may be full or away for a while."""

from __future__ import annotations

import asyncio
import logging

from flowmason.errors import Code, FencedError, JournalError
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


async def _recorded(journal: Journal, append: Append) -> bool:
    """Whether an append was done although the store could not say so: nobody else writes under its epoch."""
    row = await journal.row(append.run_id)
    last = append.seq + len(append.events)
    return row is not None and bool(append.events) and (row.epoch, row.seq) == (append.epoch, last)
