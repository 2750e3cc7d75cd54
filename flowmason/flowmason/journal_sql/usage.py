"""Rows of the ledger of model calls, and their sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flowmason.database.connections import Connection
from flowmason.ids import OrgId, RunId, format_path
from flowmason.ledger import Entry, OrgCall, UsageSum, day_of
from flowmason.usage import Call

_INSERT = (
    "INSERT INTO usage_ledger (run_id, seq, n, org_id, day, at, pipeline, path, attempt, provider, model, outcome,"
    " input_tokens, output_tokens, cached_tokens, cost_nanodollars, prices, estimated)"
    " VALUES (?,?,?,?,?,?,COALESCE((SELECT pipeline FROM runs WHERE run_id=?), ''),?,?,?,?,?,?,?,?,?,?,?)"
    " ON CONFLICT DO NOTHING"
)
_INSERT_CALL = (
    "INSERT INTO usage_ledger (run_id, seq, n, org_id, day, at, pipeline, path, attempt, provider, model, outcome,"
    " input_tokens, output_tokens, cached_tokens, cost_nanodollars, prices, estimated, caller)"
    " VALUES (?,0,0,?,?,?,'','',0,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
)
_SUMS = (
    "SELECT day, pipeline, caller, provider, model,"
    " SUM(CASE WHEN outcome IN ('failed', 'cached') THEN 0 ELSE 1 END),"
    " SUM(CASE WHEN outcome='failed' THEN 1 ELSE 0 END), SUM(CASE WHEN outcome='cached' THEN 1 ELSE 0 END),"
    " SUM(input_tokens), SUM(output_tokens), SUM(cached_tokens), SUM(COALESCE(cost_nanodollars, 0)),"
    " SUM(CASE WHEN cost_nanodollars IS NULL THEN 1 ELSE 0 END), SUM(estimated)"
    " FROM usage_ledger WHERE org_id=? AND day>=? AND day<=?{more}"
    " GROUP BY day, pipeline, caller, provider, model ORDER BY day DESC, pipeline, caller, provider, model"
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


def insert_call(connection: Connection, made: OrgCall, call: Call, at: int) -> None:
    """Write a call that no run made, unless it is written already."""
    row = (
        *(
            made.id,
            made.org_id,
            day_of(at),
            at,
            call.provider or made.provider,
            call.model or made.model,
            str(call.end),
        ),
        *(call.input_tokens, call.output_tokens, call.cached_tokens, call.cost_nanodollars, call.prices),
        *(int(call.estimated), made.caller),
    )
    connection.write(_INSERT_CALL, row)


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
            caller=row[2],
            provider=row[3],
            model=row[4],
            calls=int(row[5]),
            failed=int(row[6]),
            cached=int(row[7]),
            input_tokens=int(row[8]),
            output_tokens=int(row[9]),
            cached_tokens=int(row[10]),
            cost_nanodollars=int(row[11]),
            unpriced=int(row[12]),
            estimated=int(row[13]),
        )
        for row in rows
    ]
