"""Rows of the ledger of model calls, and their sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flowmason.database.connections import Connection
from flowmason.ids import OrgId, RunId, format_path
from flowmason.ledger import Entry, UsageSum, day_of

_INSERT = (
    "INSERT INTO usage_ledger (run_id, seq, n, org_id, day, at, pipeline, path, attempt, provider, model, outcome,"
    " input_tokens, output_tokens, cached_tokens, cost_nanodollars, prices, estimated)"
    " VALUES (?,?,?,?,?,?,COALESCE((SELECT pipeline FROM runs WHERE run_id=?), ''),?,?,?,?,?,?,?,?,?,?,?)"
    " ON CONFLICT DO NOTHING"
)
_SUMS = (
    "SELECT day, pipeline, provider, model,"
    " SUM(CASE WHEN outcome IN ('failed', 'cached') THEN 0 ELSE 1 END),"
    " SUM(CASE WHEN outcome='failed' THEN 1 ELSE 0 END), SUM(CASE WHEN outcome='cached' THEN 1 ELSE 0 END),"
    " SUM(input_tokens), SUM(output_tokens), SUM(cached_tokens), SUM(COALESCE(cost_nanodollars, 0)),"
    " SUM(CASE WHEN cost_nanodollars IS NULL THEN 1 ELSE 0 END), SUM(estimated)"
    " FROM usage_ledger WHERE org_id=? AND day>=? AND day<=?{more}"
    " GROUP BY day, pipeline, provider, model ORDER BY day DESC, pipeline, provider, model"
)


def insert(connection: Connection, run_id: RunId, org_id: OrgId, at: int, found: Iterable[Entry]) -> None:
    """Write the calls of one commit."""
    day = day_of(at)
    connection.write_many(
        _INSERT,
        [
            (
                *(run_id, each.seq, each.n, org_id, day, at, run_id, format_path(each.path), each.attempt),
                *(each.call.provider, each.call.model, str(each.call.end)),
                *(each.call.input_tokens, each.call.output_tokens, each.call.cached_tokens),
                *(each.call.cost_nanodollars, each.call.prices, int(each.call.estimated)),
            )
            for each in found
        ],
    )


def question(org_id: OrgId, since: str, until: str, pipeline: str | None) -> tuple[str, tuple[str, ...]]:
    """The statement, with its parameters, for what an org used between two days, both included."""
    more, parameters = ("", ()) if pipeline is None else (" AND pipeline=?", (pipeline,))
    return _SUMS.format(more=more), (org_id, since, until, *parameters)


def sums(rows: Iterable[Sequence[Any]]) -> list[UsageSum]:
    """What its answer says."""
    return [
        UsageSum(
            day=row[0],
            pipeline=row[1],
            provider=row[2],
            model=row[3],
            calls=int(row[4]),
            failed=int(row[5]),
            cached=int(row[6]),
            input_tokens=int(row[7]),
            output_tokens=int(row[8]),
            cached_tokens=int(row[9]),
            cost_nanodollars=int(row[10]),
            unpriced=int(row[11]),
            estimated=int(row[12]),
        )
        for row in rows
    ]
