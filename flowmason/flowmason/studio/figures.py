"""How many runs there are and what they used, org by org: the figures that operators scrape.

They come from the rows of runs, so that every replica says the same and a restart forgets nothing. What waits and what
is walked is counted as it is now, by partial indexes. All else is counted over the runs that were submitted within
`WINDOW_MS`, so that the cost of a question is bounded by a day's runs, however many are kept. Statements are written so
that SQLite, which keeps no statistics, takes these indexes: `tests/studio/test_figures.py` asks it for its plans.
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
    *(sa.column(name, sa.BigInteger) for name in ("created_at", "wake_at")),
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
    return Figures(_now(system, orgs), _past(system, orgs, now - WINDOW_MS))


def _now(system: System, orgs: Sequence[OrgId] | None) -> tuple[Now, ...]:
    # The conditions are those of the partial indexes: written out, since a bound parameter would not match them. Where
    # the index does not begin with the org, that is compared as an expression, lest SQLite read all of an org's runs by
    # `runs_by_age` for the few that are held.
    mine, also_mine = ([] if orgs is None else [org.in_(orgs)] for org in (_columns.org_id, _columns.org_id.concat("")))
    waits = "owner IS NULL AND status IN ('queued', 'running')"
    since = _columns.created_at.label("since")
    parts = sa.union_all(
        sa.select(_columns.org_id, since).where(sa.text(f"{waits} AND wake_at IS NULL"), *mine),
        sa.select(_columns.org_id, since).where(sa.text(f"{waits} AND wake_at IS NOT NULL"), *also_mine),
        sa.select(_columns.org_id, sa.null().label("since")).where(sa.text("owner IS NOT NULL"), *also_mine),
    ).subquery()
    org, waiting_since = parts.c
    waiting = sa.func.count(waiting_since)
    asked = sa.select(org, waiting, sa.func.min(waiting_since), sa.func.count() - waiting)
    rows: list[Any] = list(system.execute(asked.group_by(org).order_by(org)))
    return tuple(Now(*row) for row in rows)


def _past(system: System, orgs: Sequence[OrgId] | None, since: int) -> tuple[Past, ...]:
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
    ).where(_columns.created_at >= since, *([] if orgs is None else [_columns.org_id.in_(orgs)]))
    # Grouped by the org first, SQLite would go through every run there is, in the order of `runs_by_age`.
    rows: list[Any] = list(system.execute(asked.group_by(_columns.status, _columns.org_id)))
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
