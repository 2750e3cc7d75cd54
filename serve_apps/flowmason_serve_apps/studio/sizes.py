"""How much orgs keep: counted over all that there is, so what took long to count is remembered for long."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from flowmason.ids import OrgId
from flowmason.journal_sql.tenant import Kept, RunStore
from flowmason.values import ValueStore

QUICK_S = 0.05
"""What is counted within that time is counted for every question."""
TIMES, MOST_S = 100, 600.0
"""Else it is believed for so many times as long as the count took, at most for so long."""
_MOST_ORGS = 1_000


class Size(msgspec.Struct, frozen=True):
    """What an org keeps."""

    kept: Kept
    values: int
    value_bytes: int
    counted_at: int
    """Milliseconds since the epoch."""


class Sizes:
    """Counts what orgs keep. One per process; lives on its event loop."""

    def __init__(
        self,
        runs: RunStore,
        values: ValueStore,
        now: Callable[[], int],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs, self._values, self._now, self._monotonic = runs, values, now, monotonic
        self._known: OrderedDict[OrgId, tuple[Size, float]] = OrderedDict()
        self._counting: dict[OrgId, asyncio.Lock] = {}

    async def of(self, org_id: OrgId) -> Size:
        """What an org keeps. Those who ask at the same time wait for one count."""
        async with self._counting.setdefault(org_id, asyncio.Lock()):
            known = self._known.get(org_id)
            begun = self._monotonic()
            if known is not None and begun < known[1]:
                return known[0]
            size = await self._count(org_id)
            took = self._monotonic() - begun
            if took > QUICK_S:
                self._known[org_id] = (size, self._monotonic() + min(MOST_S, TIMES * took))
                self._known.move_to_end(org_id)
                if len(self._known) > _MOST_ORGS:
                    self._counting.pop(self._known.popitem(last=False)[0], None)
            return size

    async def _count(self, org_id: OrgId) -> Size:
        at = self._now()
        kept = await self._runs.org(org_id).kept()
        values = size = 0
        async for _, length in self._values.untouched(org_id, 0.0):
            values, size = values + 1, size + length
        return Size(kept, values, size, at)
