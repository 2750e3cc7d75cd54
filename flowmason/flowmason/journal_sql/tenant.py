"""The journal of ONE org, for those who serve requests: `RunStore.org(org_id)` gives its `OrgRuns`.

Every statement names the org. With the role `api` on PostgreSQL every transaction also runs as `flowmason_api` with
`flowmason.org` set, so that row-level security refuses what a statement forgot.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from flowmason.database.connections import API_ROLE, Question
from flowmason.database.opening import database
from flowmason.errors import UsageError
from flowmason.event import Frame, Recorded
from flowmason.ids import OrgId, PlanId, RunId
from flowmason.journal import Command, NewRun, RunRow
from flowmason.journal_sql import frames, rows, slices, tenant_writes, usage
from flowmason.journal_sql.operation import Operation
from flowmason.journal_sql.readers import Readers
from flowmason.journal_sql.store import PATIENCE_S, decode_delta, decode_line, open_tables
from flowmason.journal_sql.writer import Writer
from flowmason.ledger import UsageSum
from flowmason.report import Delta, LogLine
from flowmason.slices import Day

Role = Literal["engine", "api"]
_READERS = 4
_IN_LIMIT = 500
_FRAMES = f"SELECT {frames.COLUMNS} FROM frames WHERE run_id=? AND org_id=? AND last_seq>? ORDER BY first_seq"
_SIDE = (
    "SELECT number, data FROM side_lines WHERE run_id=? AND org_id=? AND kind=? AND number>? ORDER BY number LIMIT ?"
)
_PLAN = (
    "SELECT data FROM plans WHERE plan_id=? AND EXISTS"
    " (SELECT 1 FROM run_values WHERE run_id=? AND digest=plans.plan_id AND org_id=?)"
)
_COUNTS = "SELECT status, count(*) FROM runs WHERE org_id=? GROUP BY status"
_KEPT_RUNS = "SELECT count(*), coalesce(sum(seq), 0) FROM runs WHERE org_id=?"
_KEPT_FRAMES = "SELECT coalesce(sum(length(f.data)), 0) FROM runs r JOIN frames f ON f.run_id=r.run_id WHERE r.org_id=?"
_KEPT_LINES = (
    "SELECT coalesce(sum(length(s.data)), 0) FROM runs r JOIN side_lines s ON s.run_id=r.run_id WHERE r.org_id=?"
)
_encode_edge = msgspec.json.Encoder().encode
_decode_edge = msgspec.json.Decoder(tuple[int, str]).decode


class Position(msgspec.Struct, frozen=True):
    """How far a run is."""

    seq: int
    status: str


class Kept(msgspec.Struct, frozen=True):
    """How much is kept of an org's runs."""

    runs: int
    events: int
    journal_bytes: int
    log_bytes: int


class Page(msgspec.Struct, frozen=True):
    """A part of a list."""

    rows: list[RunRow]
    cursor: str | None
    """What `OrgRuns.rows` takes for the next part; None at the end."""


class RunStore:
    """The runs of a database, handed out org by org. One per process; usable from any number of event loops."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self._closed = False

    @classmethod
    def open(cls, url: str, *, role: Role = "api", patience_s: float = PATIENCE_S) -> RunStore:
        """Open the store. Blocks. `engine` (and any role on SQLite) makes the tables; `api` expects them.

        Raises as `open_journal` does, and `EngineUnavailableError` where the role is missing.
        """
        place = database(url, role=API_ROLE if role == "api" else None)
        bound = role == "api" and not place.url.startswith("sqlite")
        # Tables are the engine's to make: row-level security binds no owner.
        connection = open_tables(place, make=not bound)
        return cls(Writer(place, connection, patience_s), Readers(place, _READERS, patience_s))

    def org(self, org_id: OrgId) -> OrgRuns:
        """The runs of one org. Cheap; nothing is asked yet."""
        return OrgRuns(self, org_id)

    async def positions(self, wanted: Mapping[OrgId, Collection[RunId]]) -> dict[OrgId, dict[RunId, Position]]:
        """How far runs of many orgs are, org by org, in one round trip. Runs that are not there are left out."""
        questions: list[Question] = []
        for org_id, run_ids in wanted.items():
            ids = list(run_ids)
            for start in range(0, len(ids), _IN_LIMIT):
                part = ids[start : start + _IN_LIMIT]
                sql = f"SELECT run_id, seq, status FROM runs WHERE org_id=? AND run_id IN ({rows.marks(part)})"
                questions.append((org_id, sql, (org_id, *part)))
        found: dict[OrgId, dict[RunId, Position]] = {org_id: {} for org_id in wanted}
        for (asked, _, _), answers in zip(questions, await self.ask(questions), strict=True):
            found[OrgId(asked)].update({RunId(row[0]): Position(row[1], row[2]) for row in answers})
        return found

    async def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        """The rows of each question."""
        return await self._readers.read(lambda connection: connection.ask(questions)) if questions else []

    async def write(self, org_id: OrgId, operation: Operation) -> Any:
        """Run an operation of one org; returns when it is committed."""
        return await self._writer.write(tenant_writes.Bound(org_id, operation))

    async def close(self) -> None:
        """Finish what is being written and let go of the database."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.close()
        self._writer.close()


class OrgRuns:
    """The runs of one org: those of others are not there. All methods may raise `JournalError`."""

    def __init__(self, store: RunStore, org_id: OrgId) -> None:
        self._store = store
        self.org_id = org_id

    async def submit(self, run: NewRun, *, most_queued: int | None = None) -> RunRow:
        """Record a new run; a known idempotency key gives the earlier run's row, as `Journal.submit` does.

        `most_queued`: raise `UsageError` with `QUEUE_FULL` where so many runs wait already (a run that is known
        already is answered all the same).
        """
        if run.org_id != self.org_id:
            raise UsageError(f"run {run.run_id} belongs to org {run.org_id!r}, not to {self.org_id!r}")
        row: RunRow = await self._store.write(self.org_id, tenant_writes.SubmitWithin(run, most_queued))
        return row

    async def row(self, run_id: RunId) -> RunRow | None:
        """The run's row, or None. One primary-key read."""
        found = await self._ask(rows.ONE_OF_ORG, (run_id, self.org_id))
        return rows.decode(found[0]) if found else None

    async def rows(
        self,
        *,
        status: Sequence[str] = (),
        pipeline: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Runs, newest first. Raises `UsageError` for a cursor that no page gave."""
        where, parameters = ["org_id=?"], [self.org_id]  # type: tuple[list[str], list[Any]]
        if status:
            where.append(f"status IN ({rows.marks(status)})")
            parameters.extend(status)
        if pipeline is not None:
            where.append("pipeline=?")
            parameters.append(pipeline)
        if cursor is not None:
            where.append("(created_at, run_id) < (?, ?)")
            parameters.extend(_edge(cursor))
        sql = (
            f"SELECT {rows.COLUMNS} FROM runs WHERE {' AND '.join(where)} ORDER BY created_at DESC, run_id DESC LIMIT ?"
        )
        found = [rows.decode(row) for row in await self._ask(sql, (*parameters, limit + 1))]
        if len(found) <= limit:
            return Page(found, None)
        last = found[limit - 1]
        return Page(found[:limit], urlsafe_b64encode(_encode_edge((last.created_at, last.run_id))).decode())

    async def counts(self) -> dict[str, int]:
        """How many runs there are in each state; a state without runs is left out."""
        return {row[0]: row[1] for row in await self._ask(_COUNTS, (self.org_id,))}

    async def kept(self) -> Kept:
        """How much is kept of the runs."""
        runs, events = (await self._ask(_KEPT_RUNS, (self.org_id,)))[0]
        journal = (await self._ask(_KEPT_FRAMES, (self.org_id,)))[0][0]
        logs = (await self._ask(_KEPT_LINES, (self.org_id,)))[0][0]
        return Kept(int(runs), int(events), int(journal), int(logs))

    async def queued(self) -> int:
        """How many runs wait for a conductor."""
        return int((await self._ask(tenant_writes.QUEUED, (self.org_id, tenant_writes.COUNT_ALL)))[0][0])

    async def read(self, run_id: RunId, after: int = 0, limit: int | None = None) -> list[Recorded]:
        """Committed events with seq > `after`, in order; empty where there is no such run."""
        return [each for frame in await self._frames(run_id, after, limit) for each in frame.recorded()][:limit]

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        """The same as frames, for folding."""
        return await self._frames(run_id, after, None)

    async def seqs(self, run_ids: Collection[RunId]) -> dict[RunId, Position]:
        """How far runs are; those that are not there are left out."""
        return (await self._store.positions({self.org_id: run_ids}))[self.org_id]

    async def plan(self, run_id: RunId, plan_id: PlanId) -> bytes | None:
        """The bytes of a Plan that the run's journal mentions."""
        found = await self._ask(_PLAN, (plan_id, run_id, self.org_id))
        return bytes(found[0][0]) if found else None

    async def usage(self, since: str, until: str, pipeline: str | None = None) -> list[UsageSum]:
        """What the org's model calls of some days (UTC, both included) add up to, the latest day first."""
        return usage.sums(await self._ask(*usage.question(self.org_id, since, until, pipeline)))

    async def budget_day(self, day: str) -> Day | None:
        """How the org's budget of a day stands; None: it has none."""
        found = await self._ask(slices.DAY, (*([day] * 4), self.org_id))
        return slices.day_of_row(found[0]) if found else None

    async def post(self, command: Command) -> bool:
        """Put a command into a run's inbox. False where the run does not exist."""
        return bool(await self._store.write(self.org_id, tenant_writes.PostTo(self.org_id, command)))

    async def logs(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[tuple[int, LogLine]]:
        """Stored log lines with their row numbers."""
        return [(number, decode_line(data)) for number, data in await self._side("log", run_id, after, limit)]

    async def deltas(self, run_id: RunId, after: int = 0, limit: int = 1000) -> list[tuple[int, Delta]]:
        """Stored token deltas with their row numbers."""
        return [(number, decode_delta(data)) for number, data in await self._side("delta", run_id, after, limit)]

    async def _ask(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return (await self._store.ask([(self.org_id, sql, parameters)]))[0]

    async def _side(self, kind: str, run_id: RunId, after: int, limit: int) -> list[Any]:
        return await self._ask(_SIDE, (run_id, self.org_id, kind, after, limit))

    async def _frames(self, run_id: RunId, after: int, limit: int | None) -> list[Frame]:
        # A frame has at least one event, so `limit` frames are enough.
        sql = _FRAMES if limit is None else f"{_FRAMES} LIMIT {max(0, limit)}"
        found: list[Frame] = []
        count = 0
        for row in await self._ask(sql, (run_id, self.org_id, after)):
            if limit is not None and count >= limit:
                break
            found.append(frames.unpack(tuple(row), after))
            count += len(found[-1].events)
        return found


def _edge(cursor: str) -> tuple[int, str]:
    try:
        at, run_id = _decode_edge(urlsafe_b64decode(cursor.encode()))
        if not 0 <= at < 2**63 or "\0" in run_id:
            raise ValueError  # no database can be asked for it
        return at, run_id
    except (ValueError, msgspec.MsgspecError):
        raise UsageError(f"{cursor[:80]!r} is not a cursor that a list of runs gave") from None
