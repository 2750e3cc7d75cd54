"""What is done now and then for all orgs: what is over, old runs and values that no run mentions are deleted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from flowmason import retention
from flowmason.database import default_journal_url
from flowmason.ids import OrgId
from flowmason.journal_sql import open_journal
from flowmason.studio import packages, rotation, schema, storage
from flowmason.studio.identity import sweeping
from flowmason.studio.scope import StudioStore
from flowmason.studio.sealing import open_sealer
from flowmason.values_fs import default_values_url, open_values

SWEEP_S = 600.0
VALUES_S = 6 * 3600.0
log = logging.getLogger("flowmason.studio.upkeep")


class Upkeep:
    """Remembers what was done when; the keeper of a Studio has one."""

    def __init__(self, environ: Mapping[str, str], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._environ = environ
        self._clock = monotonic
        self._swept: float | None = None
        # Removing values reads all of them: not in the first minutes of a Studio that is started again and again.
        self._emptied = monotonic()

    def look(self) -> None:
        """Do what is due. Blocks; what goes wrong is logged and tried again when it is due next."""
        now = self._clock()
        try:
            if self._swept is None or now - self._swept >= SWEEP_S:
                self._swept = now
                self.sweep()
                asyncio.run(self.delete_runs())
                self.rewrap()
            if now - self._emptied >= VALUES_S:
                self._emptied = now
                asyncio.run(self.remove_values())
        except Exception:
            log.exception("upkeep")

    def sweep(self) -> int:
        """Delete tokens, tickets and counts that are over; returns how many."""
        store = StudioStore.open(default_journal_url(None, self._environ))
        try:
            return sweeping.sweep(store, time.time_ns() // 1_000_000)
        finally:
            store.close()

    def rewrap(self) -> int:
        """Bring what is sealed under an earlier master key under the current one; returns how much it was."""
        store = StudioStore.open(default_journal_url(None, self._environ))
        try:
            return rotation.rewrap_all(store, open_sealer(self._environ))
        finally:
            store.close()

    async def delete_runs(self) -> int:
        """Delete old runs of orgs that wish it; returns how many."""
        url = default_journal_url(None, self._environ)
        store, journal = StudioStore.open(url), open_journal(url)
        try:
            deleted = await storage.apply_retention(store, journal, time.time_ns() // 1_000_000)
            return sum(map(len, deleted.values()))
        finally:
            await journal.close()
            store.close()

    async def remove_values(self, *, untouched_s: float = retention.SWEEP_AFTER_S) -> int:
        """Remove values that no run mentions and nobody touched for a day; returns how many."""
        url = default_journal_url(None, self._environ)
        store = StudioStore.open(url)
        values = open_values(default_values_url(None, self._environ))
        try:
            with store.system(writing=False) as system:
                orgs = [OrgId(org) for org in system.execute(sa.select(schema.orgs.c.org_id)).scalars()]
            for org in orgs:
                # No run may mention a package yet.
                with store.scope(org, writing=False) as scope:
                    packages.store_archives(scope, values)
        finally:
            store.close()
        journal = open_journal(url)
        try:
            removed = 0
            for org in orgs:
                removed += (await retention.sweep(journal, values, org, untouched_s=untouched_s)).values
        finally:
            await journal.close()
        return removed
