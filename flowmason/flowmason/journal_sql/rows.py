"""Rows of runs, and the questions asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from flowmason.database.connections import Connection
from flowmason.errors import Code, JournalError, UsageError
from flowmason.ids import OrgId, RunId
from flowmason.journal import TERMINAL, RunRow

COLUMNS = (
    "run_id, org_id, plan_id, pipeline, version, status, epoch, seq, owner, wake_at, priority, parent,"
    " created_at, updated_at, summary"
)
_NAMES = COLUMNS.split(", ")
_ONE = f"SELECT {COLUMNS} FROM runs WHERE run_id=?"
ONE_OF_ORG = f"{_ONE} AND org_id=?"


def decode(row: Sequence[Any]) -> RunRow:
    """A row of `COLUMNS`."""
    fields = dict(zip(_NAMES, row, strict=True))
    fields["summary"] = msgspec.json.decode(fields["summary"])
    return RunRow(**fields)


def one(connection: Connection, run_id: str) -> RunRow | None:
    """The row of a run."""
    row = connection.run(_ONE, (run_id,)).fetchone()
    return decode(row) if row else None


def of_org(connection: Connection, org_id: str, run_id: str) -> RunRow | None:
    """The row of an org's run."""
    row = connection.run(ONE_OF_ORG, (run_id, org_id)).fetchone()
    return decode(row) if row else None


def page(
    connection: Connection,
    org_id: OrgId,
    status: Sequence[str],
    pipeline: str | None,
    limit: int,
    before: RunId | None,
) -> list[RunRow]:
    """Runs of an org, newest first."""
    where, parameters = ["org_id=?"], [org_id]  # type: tuple[list[str], list[Any]]
    if status:
        where.append(f"status IN ({marks(status)})")
        parameters.extend(status)
    if pipeline is not None:
        where.append("pipeline=?")
        parameters.append(pipeline)
    if before is not None:
        edge = connection.run("SELECT created_at FROM runs WHERE run_id=?", (before,)).fetchone()
        if edge is None:
            raise JournalError(f"there is no run {before} to page from", code=Code.NOT_FOUND)
        where.append("(created_at, run_id) < (?, ?)")
        parameters.extend((edge[0], before))
    sql = f"SELECT {COLUMNS} FROM runs WHERE {' AND '.join(where)} ORDER BY created_at DESC, run_id DESC LIMIT ?"
    return [decode(row) for row in connection.run(sql, (*parameters, limit)).fetchall()]


def prunable(connection: Connection, org_id: OrgId, before: int, statuses: Sequence[str]) -> list[RunId]:
    """Ended runs that nobody holds or wants anything of, last touched before `before`."""
    wanted = sorted(set(statuses or TERMINAL))
    strange = set(wanted) - TERMINAL
    if strange:
        raise UsageError(f"only ended runs can be pruned, not {', '.join(sorted(strange))}")
    found = connection.run(
        f"SELECT run_id FROM runs WHERE org_id=? AND updated_at<? AND owner IS NULL AND status IN ({marks(wanted)})"
        " AND NOT EXISTS (SELECT 1 FROM commands WHERE commands.run_id=runs.run_id AND taken_seq IS NULL)"
        " ORDER BY run_id",
        (org_id, before, *wanted),
    )
    return [RunId(row[0]) for row in found.fetchall()]


def marks(items: Sequence[Any]) -> str:
    """A `?` for each item."""
    return ",".join("?" * len(items))
