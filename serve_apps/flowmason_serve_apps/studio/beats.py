"""Which conductors live, as this process sees it: beats are counters, so whoever asks has to watch them move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from flowmason.ids import GATE, OrgId
from flowmason.journal_sql.tenant import RunStore

LIVES_S = 6.0
"""A conductor beats every 2 s; one that did within this time lives."""
WATCH_S = 4.5
"""For so long an answer waits at most for a beat to move."""
_LOOK_S = 0.25
_ALL = f"SELECT conductor_id, beat FROM conductors WHERE substr(conductor_id, 1, {len(GATE)}) <> '{GATE}'"


class Beats(msgspec.Struct):
    """What was seen of beats. One per process; lives on its event loop."""

    runs: RunStore
    monotonic: Callable[[], float] = time.monotonic
    watch_s: float = WATCH_S
    known: dict[str, tuple[int, float, bool]] = {}
    """Conductor → its beat, when that was first seen, and whether it was seen to move."""

    async def look(self, org_id: OrgId, wanted: str | None = None) -> None:
        """Look until `wanted` (or, without one, anybody) is known to live, for `watch_s` at most."""
        give_up = self.monotonic() + self.watch_s
        while True:
            await self._read(org_id)
            listed = [wanted] if wanted is not None else list(self.known)
            if not any(each in self.known for each in listed):
                return
            if any(self.lives(each) for each in listed) or self.monotonic() >= give_up:
                return
            await asyncio.sleep(_LOOK_S)

    def lives(self, conductor: str) -> bool:
        """Whether a conductor was seen to beat lately."""
        found = self.known.get(conductor)
        return found is not None and found[2] and self.monotonic() - found[1] < LIVES_S

    @property
    def living(self) -> int:
        """How many conductors were seen to beat lately."""
        return sum(self.lives(each) for each in self.known)

    def silent_s(self, conductor: str | None = None) -> float | None:
        """How long the last beat of a conductor (or of any) is ago at least; None where it is not listed."""
        found = [each for name, each in self.known.items() if conductor in (None, name)]
        return min((self.monotonic() - seen for _, seen, _ in found), default=None)

    async def _read(self, org_id: OrgId) -> None:
        rows = (await self.runs.ask([(org_id, _ALL, ())]))[0]
        now = self.monotonic()
        before, self.known = self.known, {}
        for conductor, beat in rows:
            known = before.get(conductor)
            if known is None or known[0] != beat:
                self.known[conductor] = (beat, now, known is not None)
            else:
                self.known[conductor] = known
