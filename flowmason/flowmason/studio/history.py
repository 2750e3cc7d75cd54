"""What was done in an org, in one view: the audit log, and the starts of runs, which their journals tell.

The start of a run is not an entry of the chain: entries of an org wait for each other, and runs must not. Its first
frame names who asked for it, is written in the transaction that makes the run, and never changes. Where a run is
deleted, who started it goes into the chain with the deletion.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from flowmason.errors import Code, UsageError
from flowmason.ids import RunId
from flowmason.journal import TERMINAL
from flowmason.studio.identity import audit
from flowmason.studio.identity.audit import Entry
from flowmason.studio.scope import Scope

STARTED = "run.start"
_RUN = "run"
_AT_ONCE = 200
_table = sa.table(
    "runs",
    *map(sa.column, ("run_id", "org_id", "pipeline", "version", "parent", "created_at", "status", "owner")),
)
_runs = _table.alias("r")
_commands = sa.table("commands", *map(sa.column, ("run_id", "org_id", "taken_seq")))
_keys = sa.table("idempotency", *map(sa.column, ("run_id", "org_id")))
_frames = sa.table("frames", *map(sa.column, ("run_id", "org_id", "first_seq", "written_by"))).alias("f")


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The start of a run that a caller asked for; not of one that another run called."""

    run_id: RunId
    by: str
    """The id of the key or of the user."""
    at: int
    """Milliseconds since the epoch."""
    pipeline: str
    version: str


class Edge(msgspec.Struct, frozen=True, array_like=True):
    """How far somebody has read, in the chain and among the runs."""

    number: int | None = None
    """Of the last entry seen."""
    at: int | None = None
    run_id: str | None = None
    """Of the last start seen, with its time."""


def page(
    scope: Scope, *, limit: int, after: Edge | None = None, action: str | None = None, resource_type: str | None = None
) -> tuple[list[Entry | Start], Edge | None]:
    """Entries and starts, the newest first, and where the next page begins; None at the end.

    Each of the two keeps its own order; between them the time decides.
    """
    edge = after or Edge()
    entries = [] if action == STARTED else _entries(scope, limit + 1, edge, action, resource_type)
    asked = action in (None, STARTED) and resource_type in (None, _RUN)
    starts = latest(scope, limit=limit + 1, after=edge) if asked else []
    found: list[Entry | Start] = []
    while (entries or starts) and len(found) < limit:
        if not starts or (entries and entries[0].at >= starts[0].at):
            entry = entries.pop(0)
            edge = msgspec.structs.replace(edge, number=entry.number)
            found.append(entry)
        else:
            start = starts.pop(0)
            edge = msgspec.structs.replace(edge, at=start.at, run_id=start.run_id)
            found.append(start)
    return found, edge if entries or starts else None


def latest(scope: Scope, *, limit: int, after: Edge) -> list[Start]:
    """Starts of runs, the newest first."""
    chosen = _chosen(scope).order_by(_runs.c.created_at.desc(), _runs.c.run_id.desc()).limit(limit)
    if after.at is not None:
        chosen = chosen.where(
            sa.tuple_(_runs.c.created_at, _runs.c.run_id) < sa.tuple_(sa.literal(after.at), sa.literal(after.run_id))
        )
    return _read(scope, chosen)


def delete(scope: Scope, run_id: RunId, *, by: str, now: int) -> bool:
    """Delete an ended run with all it has, and write into the chain who did, and who had started it.

    Last in a transaction: neither is there without the other. False where there is no such run; raises `UsageError`
    (`CONFLICT`) where it has not ended.
    """
    mine = (_table.c.run_id == run_id, _table.c.org_id == scope.org_id)
    status = scope.system.execute(sa.select(_table.c.status).where(*mine)).scalar()
    if status is None:
        return False
    # With the run goes its journal, which tells who started it.
    starts = _read(scope, _chosen(scope).where(_runs.c.run_id == run_id))
    told = {"started_by": starts[0].by, "started_at": starts[0].at, "pipeline": starts[0].pipeline} if starts else {}
    asked = sa.exists().where(
        _commands.c.run_id == run_id, _commands.c.org_id == scope.org_id, _commands.c.taken_seq.is_(None)
    )
    over = (_table.c.status.in_(sorted(TERMINAL)), _table.c.owner.is_(None), ~asked)
    scope.system.execute(sa.delete(_keys).where(_keys.c.run_id == run_id, _keys.c.org_id == scope.org_id))
    if not scope.system.execute(sa.delete(_table).where(*mine, *over)).rowcount:
        raise UsageError(
            f"run {run_id} has not ended: it is {status}",
            code=Code.CONFLICT,
            help="Cancel it first; a run is deleted once it has ended and nobody asks anything more of it.",
        )
    audit.record(scope, now, actor=by, action="run.delete", resource_type=_RUN, resource_id=run_id, details=told)
    return True


def record_expired(scope: Scope, run_ids: Iterable[RunId], now: int) -> None:
    """Write into the chain that runs are deleted for their age, and who started them. Last in a transaction."""
    ids = list(run_ids)
    for begin in range(0, len(ids), _AT_ONCE):
        part = ids[begin : begin + _AT_ONCE]
        starts = {each.run_id: each for each in _read(scope, _chosen(scope).where(_runs.c.run_id.in_(part)))}
        told = [[run_id, starts[run_id].by, starts[run_id].at] if run_id in starts else [run_id] for run_id in part]
        audit.record(
            scope, now, actor="system", action="run.expire", resource_type=_RUN, resource_id=part[0],
            details={"runs": told},
        )  # fmt: skip


def _entries(scope: Scope, limit: int, edge: Edge, action: str | None, resource_type: str | None) -> list[Entry]:
    return audit.entries(scope, limit=limit, before=edge.number, action=action, resource_type=resource_type)


def _chosen(scope: Scope) -> sa.Select[Any]:
    first = sa.and_(_frames.c.run_id == _runs.c.run_id, _frames.c.first_seq == 1)
    return (
        sa.select(_runs.c.run_id, _runs.c.created_at, _runs.c.pipeline, _runs.c.version, _frames.c.written_by)
        .select_from(_runs.join(_frames, first))
        .where(_runs.c.org_id == scope.org_id, _frames.c.org_id == scope.org_id, _runs.c.parent.is_(None))
    )


def _read(scope: Scope, chosen: sa.Select[Any]) -> list[Start]:
    return [
        Start(
            run_id=RunId(row.run_id), by=row.written_by, at=row.created_at, pipeline=row.pipeline, version=row.version
        )
        for row in scope.system.execute(chosen)
    ]
