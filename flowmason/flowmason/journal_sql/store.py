"""`SqlJournal`: the Journal port on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from flowmason.database.connections import Connection, Database, Trouble, unreachable
from flowmason.database.migrating import migrate
from flowmason.database.opening import database
from flowmason.errors import FlowMasonError
from flowmason.event import Frame, Recorded
from flowmason.ids import ConductorId, OrgId, PlanId, RunId
from flowmason.journal import Append, Claimed, Command, NewRun, RunRow
from flowmason.journal_sql import claims, frames, operations, rows, slices, usage
from flowmason.journal_sql.readers import Readers
from flowmason.journal_sql.writer import Writer
from flowmason.ledger import OrgCall, UsageSum
from flowmason.report import Delta, LogLine
from flowmason.slices import Day, Taken
from flowmason.usage import Amount, Call, Limit

PATIENCE_S = 60.0
"""How long a lost database is waited for before what was asked of it fails."""
_READERS = 2
_IN_LIMIT = 500
_decode_command = msgspec.msgpack.Decoder(Command).decode
decode_line = msgspec.msgpack.Decoder(LogLine).decode
decode_delta = msgspec.msgpack.Decoder(Delta).decode


def open_journal(url: str, *, patience_s: float = PATIENCE_S) -> SqlJournal:
    """Open the journal at a database URL (or the path of a SQLite file), making its tables if need be.

    Blocks: some milliseconds, or half a second where tables have to be made. Raises `UsageError` for a
    URL of another kind, `EngineUnavailableError` where no server answers, `FormatError` for a database
    of a newer FlowMason, `JournalError` where the file cannot be opened.
    """
    return SqlJournal(url, patience_s=patience_s)


class SqlJournal:
    """The Journal port in SQL: one thread writes, two read; the event loop waits for neither.

    Usable from any number of event loops. After `close` every call raises `JournalError`.
    """

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        self._database = database(url)
        connection = open_tables(self._database)
        self._writer = Writer(self._database, connection, patience_s)
        self._readers = Readers(self._database, _READERS, patience_s)
        self._closed = False

    @property
    def url(self) -> str:
        """The database URL, normalised. It may hold a password."""
        return self._database.url

    async def submit(self, run: NewRun) -> RunRow:
        return await self._row_of(operations.Submit(run))

    async def begin(self, run: NewRun, conductor: ConductorId) -> tuple[RunRow, bool]:
        begun: tuple[RunRow, bool] = await self._writer.write(claims.Begin(self._database, run, conductor))
        return begun

    async def append(self, append: Append) -> int:
        return int(await self._writer.write(operations.AddEvents(append)))

    async def row(self, run_id: RunId) -> RunRow | None:
        return await self._readers.read(lambda connection: rows.one(connection, run_id))

    async def rows(
        self,
        org_id: OrgId,
        *,
        status: Sequence[str] = (),
        pipeline: str | None = None,
        limit: int = 50,
        before: RunId | None = None,
    ) -> list[RunRow]:
        return await self._readers.read(
            lambda connection: rows.page(connection, org_id, status, pipeline, limit, before)
        )

    async def read(self, run_id: RunId, after: int = 0, limit: int | None = None) -> list[Recorded]:
        found = await self._readers.read(lambda connection: _frames(connection, run_id, after, limit))
        return [recorded for frame in found for recorded in frame.recorded()][:limit]

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        return await self._readers.read(lambda connection: _frames(connection, run_id, after, None))

    async def plan(self, plan_id: PlanId) -> bytes | None:
        sql = "SELECT data FROM plans WHERE plan_id=?"
        row = await self._readers.read(lambda connection: connection.run(sql, (plan_id,)).fetchone())
        return bytes(row[0]) if row else None

    async def put_plan(self, plan_id: PlanId, data: bytes) -> None:
        await self._writer.write(operations.PutPlan(plan_id, data))

    async def post(self, command: Command) -> bool:
        return bool(await self._writer.write(operations.Post(command)))

    async def commands(self, run_ids: Sequence[RunId]) -> list[Command]:
        ids = list(dict.fromkeys(run_ids))
        return await self._readers.read(lambda connection: _pending(connection, ids)) if ids else []

    async def enlist(self, conductor: ConductorId, host: str, pid: int) -> None:
        await self._writer.write(operations.Enlist(conductor, host, pid))

    async def beat(self, conductor: ConductorId) -> bool:
        return bool(await self._writer.write(operations.Beat(conductor)))

    async def beats(self) -> dict[ConductorId, tuple[int, str, int]]:
        sql = "SELECT conductor_id, beat, host, pid FROM conductors ORDER BY conductor_id"
        found = await self._readers.read(lambda connection: connection.run(sql).fetchall())
        return {ConductorId(row[0]): (row[1], row[2], row[3]) for row in found}

    async def bury(self, conductor: ConductorId, beat: int) -> bool:
        return bool(await self._writer.write(operations.Remove(conductor, beat)))

    async def retire(self, conductor: ConductorId) -> None:
        await self._writer.write(operations.Remove(conductor, None))

    async def claim(
        self, conductor: ConductorId, now: int, limit: int, run_id: RunId | None = None, *, spare: int = 0
    ) -> list[Claimed]:
        operation: claims.Claim
        if run_id is not None:
            operation = claims.ClaimByName(self._database, conductor, run_id)
        else:
            # Looked for outside the transaction: an idle conductor that asks often takes no write lock.
            found = await self._readers.read(lambda connection: claims.look(connection, conductor, now, limit, spare))
            if found is None:
                return []
            operation = claims.Claim(self._database, conductor, found, now)
        claimed: list[Claimed] = await self._writer.write(operation)
        return claimed

    async def add_side(self, org_id: OrgId, run_id: RunId, lines: Sequence[LogLine], deltas: Sequence[Delta]) -> None:
        if lines or deltas:
            await self._writer.write(operations.AddSide(org_id, run_id, lines, deltas))

    async def logs(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[tuple[int, LogLine]]:
        return [(number, decode_line(data)) for number, data in await self._side("log", run_id, after, limit)]

    async def deltas(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[tuple[int, Delta]]:
        return [(number, decode_delta(data)) for number, data in await self._side("delta", run_id, after, limit)]

    async def usage(self, org_id: OrgId, since: str, until: str, pipeline: str | None = None) -> list[UsageSum]:
        asked = usage.question(org_id, since, until, pipeline)
        return usage.sums(await self._readers.read(lambda connection: connection.run(*asked).fetchall()))

    async def budgets(self, org_ids: Sequence[OrgId]) -> dict[OrgId, Limit]:
        asked = slices.LIMITS.format(rows.marks(org_ids))
        found = await self._readers.read(lambda connection: connection.run(asked, org_ids).fetchall())
        return {OrgId(row[0]): limit for row in found if (limit := Limit(row[1], row[2]))}

    async def budget_day(self, org_id: OrgId, day: str) -> Day | None:
        asked = (*([day] * 4), org_id)
        row = await self._readers.read(lambda connection: connection.run(slices.DAY, asked).fetchone())
        return slices.day_of_row(row) if row else None

    async def take_slice(self, conductor: ConductorId, org_id: OrgId, day: str, need: Amount) -> Taken | None:
        taken: Taken | None = await self._writer.write(slices.TakeSlice(conductor, org_id, day, need))
        return taken

    async def return_slices(self, conductor: ConductorId, org_id: OrgId) -> None:
        await self._writer.write(slices.ReturnSlices(conductor, org_id))

    async def hold_call(self, owner: ConductorId, made: OrgCall, need: Amount, at: int) -> Taken | None:
        taken: Taken | None = await self._writer.write(slices.HoldCall(owner, made, need, at))
        return taken

    async def end_call(self, made: OrgCall, call: Call, at: int) -> None:
        await self._writer.write(slices.EndCall(made, call, at))

    async def prune(self, org_id: OrgId, *, before: int, statuses: Sequence[str], dry_run: bool = False) -> list[RunId]:
        if dry_run:
            return await self._readers.read(lambda connection: rows.prunable(connection, org_id, before, statuses))
        pruned: list[RunId] = await self._writer.write(operations.Prune(org_id, before, statuses))
        return pruned

    async def references(self, digests: Sequence[str]) -> set[str]:
        return await self._readers.read(lambda connection: _referenced(connection, list(digests)))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.close()
        # Last, so that SQLite folds its write-ahead log into the file.
        self._writer.close()

    async def _row_of(self, operation: operations.Submit) -> RunRow:
        row: RunRow = await self._writer.write(operation)
        return row

    async def _side(self, kind: str, run_id: RunId, after: int, limit: int) -> list[Any]:
        sql = "SELECT number, data FROM side_lines WHERE run_id=? AND kind=? AND number>? ORDER BY number LIMIT ?"
        return await self._readers.read(lambda connection: connection.run(sql, (run_id, kind, after, limit)).fetchall())


def open_tables(database: Database, *, make: bool = True) -> Connection:
    """A connection, with `make` once the tables are those of this FlowMason. Raises as `open_journal` does."""
    try:
        connection = database.connect()
    except FlowMasonError:
        raise
    except Exception as error:
        if database.trouble(error) is Trouble.LOST:
            raise unreachable(database.url, error) from error
        raise database.error(error) from error
    try:
        if make:
            migrate(database, connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, FlowMasonError) or not isinstance(error, Exception):
            raise
        raise database.error(getattr(error, "orig", None) or error) from error
    return connection


def _frames(connection: Connection, run_id: RunId, after: int, limit: int | None) -> list[Frame]:
    # A frame has at least one event, so `limit` frames are enough.
    sql = f"SELECT {frames.COLUMNS} FROM frames WHERE run_id=? AND last_seq>? ORDER BY first_seq"
    cursor = connection.run(sql if limit is None else f"{sql} LIMIT {max(0, limit)}", (run_id, after))
    found: list[Frame] = []
    count = 0
    while (limit is None or count < limit) and (row := cursor.fetchone()):
        frame = frames.unpack(row, after)
        found.append(frame)
        count += len(frame.events)
    return found


def _pending(connection: Connection, run_ids: list[RunId]) -> list[Command]:
    found: list[tuple[int, bytes]] = []
    for start in range(0, len(run_ids), _IN_LIMIT):
        part = run_ids[start : start + _IN_LIMIT]
        found += connection.run(
            f"SELECT number, data FROM commands WHERE taken_seq IS NULL AND run_id IN ({rows.marks(part)})", part
        ).fetchall()
    return [_decode_command(data) for _, data in sorted(found)]


def _referenced(connection: Connection, digests: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(digests), _IN_LIMIT):
        part = digests[start : start + _IN_LIMIT]
        sql = f"SELECT DISTINCT digest FROM run_values WHERE digest IN ({rows.marks(part)})"
        found.update(row[0] for row in connection.run(sql, part).fetchall())
    return found
