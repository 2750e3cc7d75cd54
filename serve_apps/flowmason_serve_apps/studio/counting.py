"""How an org's runs went within some days, counted from their rows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowmason.assembly.outcome import usage_document
from flowmason.ids import OrgId
from flowmason.journal_sql.tenant import RunStore
from flowmason.usage import Usage

MOST_RUNS = 20_000
"""Rows that one answer is counted from, the newest: the index of runs by age gives them in order."""
_ROWS = "SELECT created_at, status, summary FROM runs WHERE org_id=? AND created_at>=? ORDER BY created_at DESC LIMIT ?"


class _Summary(msgspec.Struct):
    """What is counted of a row's summary."""

    duration_ms: float | None = None
    usage: Usage | None = None


_decode = msgspec.json.Decoder(_Summary).decode


class Tally:
    """Runs that are counted together."""

    def __init__(self) -> None:
        self._states: Counter[str] = Counter()
        self._durations: list[float] = []
        self._usage = Usage()

    def add(self, status: str, summary: _Summary) -> None:
        """Count a run."""
        self._states[status] += 1
        if summary.duration_ms is not None:
            self._durations.append(summary.duration_ms)
        if summary.usage is not None:
            self._usage += summary.usage

    def document(self) -> dict[str, Any]:
        """What was counted, as answers have it."""
        self._durations.sort()
        return {
            "runs": dict(sorted(self._states.items())),
            "duration_ms": {"p50": rank(self._durations, 0.5), "p95": rank(self._durations, 0.95)},
            "usage": usage_document(self._usage),
        }


def rank(values: Sequence[float], part: float) -> float | None:
    """The nearest-rank percentile of sorted values; None without values."""
    return values[max(0, math.ceil(part * len(values)) - 1)] if values else None


async def rows_since(runs: RunStore, org_id: OrgId, since: int) -> list[Any]:
    """Rows of runs that were started since then, the newest first; one more than `MOST_RUNS` says there are more."""
    return (await runs.ask([(org_id, _ROWS, (org_id, since, MOST_RUNS + 1))]))[0]


def count(rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """All of them together, and day by day (UTC)."""
    whole, days = Tally(), defaultdict[str, Tally](Tally)
    for created_at, status, summary in rows:
        read = _decode(summary)
        whole.add(status, read)
        days[datetime.fromtimestamp(created_at / 1000, UTC).date().isoformat()].add(status, read)
    return {
        **whole.document(),
        "by_day": [{"day": day, **tally.document()} for day, tally in sorted(days.items())],
    }
