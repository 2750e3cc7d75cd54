"""How many runs there are and what they used, org by org: the figures that operators scrape.

They come from the rows of runs, so that every replica says the same and a restart forgets nothing. What waits and what
is walked is counted as it is now, by partial indexes. All else is counted over the runs that were submitted within
`WINDOW_MS`, so that the cost of a question is bounded by a day's runs, however many are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from flowmason.ids import OrgId
from flowmason.studio.scope import System
from flowmason.usage import NANODOLLARS

WINDOW_MS = 24 * 3600 * 1000
BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds of the durations of runs."""

_runs = sa.table(
    "runs",
    *(sa.column(name, sa.Text) for name in ("org_id", "status", "owner", "summary")),
    sa.column("created_at", sa.BigInteger),
)
_columns = _runs.c


class Now(msgspec.Struct, frozen=True):
    """Runs of an org that are not over: those that wait for a conductor, and those that one walks."""

    org_id: str
    waiting: int = 0
    oldest: int | None = None
    """When the oldest of the waiting ones was submitted."""
    walked: int = 0


class Past(msgspec.Struct, frozen=True):
    """Runs of an org that were submitted within the window and have one status."""

    org_id: str
    status: str
    runs: int
    stages_completed: int
    stages_failed: int
    input_tokens: int
    output_tokens: int
    cost_dollars: float
    """Of the calls whose price is known."""
    seconds: float
    """How long those took that have ended, together."""
    within: tuple[int, ...]
    """How many took at most each of `BUCKETS_S`."""
    timed: int
    """How many have a duration."""


class Figures(msgspec.Struct, frozen=True):
    """All figures of some orgs."""

    now: tuple[Now, ...]
    past: tuple[Past, ...]


def figures(system: System, now: int, orgs: Sequence[OrgId] | None = None) -> Figures:
    """The figures of these orgs; None: of all that the transaction sees. Blocks."""
    mine: list[sa.ColumnElement[bool]] = [] if orgs is None else [_columns.org_id.in_(orgs)]
    return Figures(_now(system, mine), _past(system, mine, now - WINDOW_MS))


def _now(system: System, mine: list[sa.ColumnElement[bool]]) -> tuple[Now, ...]:
    # The conditions are those of the partial indexes: written out, since a bound parameter would not match them.
    waiting = sa.select(_columns.org_id, sa.func.count(), sa.func.min(_columns.created_at)).where(
        sa.text("owner IS NULL AND status IN ('queued', 'running')"), *mine
    )
    walked = sa.select(_columns.org_id, sa.func.count()).where(sa.text("owner IS NOT NULL"), *mine)
    queued: list[Any] = list(system.execute(waiting.group_by(_columns.org_id)))
    found = {org: Now(org, waiting=count, oldest=oldest) for org, count, oldest in queued}
    held: list[Any] = list(system.execute(walked.group_by(_columns.org_id)))
    for org, count in held:
        found[org] = msgspec.structs.replace(found.get(org, Now(org)), walked=count)
    return tuple(found[org] for org in sorted(found))


def _past(system: System, mine: list[sa.ColumnElement[bool]], since: int) -> tuple[Past, ...]:
    said: Any = (
        sa.cast(_columns.summary, sa.JSON)
        if system.dialect == "postgresql"
        else sa.type_coerce(_columns.summary, sa.JSON)
    )

    def total(*path: str) -> Any:
        return sa.func.coalesce(sa.func.sum(sa.cast(said[path].as_string(), sa.BigInteger)), 0)

    duration = sa.cast(said["duration_ms"].as_string(), sa.BigInteger)
    asked = sa.select(
        _columns.org_id,
        _columns.status,
        sa.func.count(),
        total("stages", "completed"),
        total("stages", "failed"),
        total("usage", "input_tokens"),
        total("usage", "output_tokens"),
        total("usage", "cost_nanodollars"),
        sa.func.coalesce(sa.func.sum(duration), 0),
        sa.func.count(duration),
        *(sa.func.count(sa.case((duration <= round(bound * 1000), 1))) for bound in BUCKETS_S),
    ).where(_columns.created_at >= since, *mine)
    rows: list[Any] = list(system.execute(asked.group_by(_columns.org_id, _columns.status)))
    return tuple(
        Past(
            org_id=row[0],
            status=row[1],
            runs=row[2],
            stages_completed=int(row[3]),
            stages_failed=int(row[4]),
            input_tokens=int(row[5]),
            output_tokens=int(row[6]),
            cost_dollars=int(row[7]) / NANODOLLARS,
            seconds=int(row[8]) / 1000,
            timed=row[9],
            within=tuple(row[10:]),
        )
        for row in rows
    )
