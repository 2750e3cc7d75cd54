"""Runs as states, for those who ask where a run stands; the latest looked at are remembered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from flowmason.conductor.loading import load_state
from flowmason.event import Frame
from flowmason.ids import OrgId, PlanId, RunId
from flowmason.journal import RunRow
from flowmason.journal_sql.tenant import OrgRuns
from flowmason.state import RunState
from flowmason_serve_apps.studio.details import no_run

_KEPT = 16


class States:
    """Runs as their journals say, folded; the latest looked at are kept until something new is in them."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[OrgId, RunId], tuple[int, RunState]] = OrderedDict()

    async def of(self, runs: OrgRuns, run_id: RunId) -> tuple[RunRow, RunState]:
        """A run's row and its state, which is to be read alone. Raises `UsageError` (`NOT_FOUND`)."""
        row = await runs.row(run_id)
        if row is None:
            raise no_run(run_id)
        key = (runs.org_id, run_id)
        known = self._known.get(key)
        if known is not None and known[0] == row.seq:
            self._known.move_to_end(key)
            return row, known[1]
        # A long journal takes a while to fold: on a thread with a loop of its own, so that nobody waits for it.
        state = await asyncio.to_thread(lambda: asyncio.run(load_state(_History(runs, run_id), row)))
        self._known[key] = (state.seq, state)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return row, state


class _History:
    """The journal of one run, as its org may see it."""

    def __init__(self, runs: OrgRuns, run_id: RunId) -> None:
        self._runs = runs
        self._run_id = run_id

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        return await self._runs.frames(run_id, after)

    async def plan(self, plan_id: PlanId) -> bytes | None:
        return await self._runs.plan(self._run_id, plan_id)
