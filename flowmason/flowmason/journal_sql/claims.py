"""Which runs a conductor takes: looked for by a reader, taken by the writer.

What is asked goes along indexes, org by org: ten thousand waiting runs cost no more than ten.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from flowmason.database.connections import Connection, Database
from flowmason.errors import FencedError
from flowmason.fairness import NO_LIMITS, OrgLimits, Waiting, in_turn
from flowmason.ids import ConductorId, OrgId, RunId
from flowmason.journal import URGENT, Claimed, Command, NewRun
from flowmason.journal_sql import rows
from flowmason.journal_sql.operation import Operation
from flowmason.journal_sql.operations import Submit

WAITING = "owner IS NULL AND status IN ('queued', 'running') AND wake_at IS NULL"
"""The predicate of the index `runs_waiting`, word for word: SQLite uses it for nothing else."""
_ORDER = "ORDER BY status DESC, priority DESC, created_at, run_id"
_ORGS = (
    f"WITH RECURSIVE orgs(org_id) AS (SELECT min(org_id) FROM runs WHERE {WAITING} UNION ALL"
    f" SELECT (SELECT min(org_id) FROM runs WHERE {WAITING} AND runs.org_id > orgs.org_id) FROM orgs"
    " WHERE orgs.org_id IS NOT NULL)"
    f" SELECT org_id, (SELECT created_at FROM runs WHERE {WAITING} AND runs.org_id = orgs.org_id {_ORDER} LIMIT 1)"
    " FROM orgs WHERE org_id IS NOT NULL"
)
_COLUMNS = "runs.run_id, runs.org_id, status, priority, created_at"
_OF_ORG = f"SELECT * FROM (SELECT {_COLUMNS} FROM runs WHERE {WAITING} AND org_id=? {_ORDER} LIMIT ?) AS waiting"
_ASLEEP = (
    f"SELECT {_COLUMNS} FROM runs WHERE owner IS NULL AND wake_at IS NOT NULL AND wake_at<=? ORDER BY wake_at LIMIT ?"
)
_WANTED = (
    f"SELECT {_COLUMNS}, data FROM commands JOIN runs ON runs.run_id=commands.run_id"
    " WHERE taken_seq IS NULL AND owner IS NULL ORDER BY number LIMIT ?"
)
_HELD = "SELECT org_id, count(*) FROM runs WHERE owner>''{} GROUP BY org_id"
_LIMITS = "SELECT org_id, max_concurrent_runs, max_queued_runs, weight FROM org_limits WHERE org_id IN ({})"
# It may have been claimed, walked to its end and let go since it was looked at.
_STILL_FREE = (
    "SELECT run_id FROM runs WHERE run_id IN ({}) AND owner IS NULL"
    " AND (status IN ('queued', 'running') AND wake_at IS NULL OR wake_at<=?"
    " OR EXISTS (SELECT 1 FROM commands WHERE commands.run_id=runs.run_id AND taken_seq IS NULL))"
)
_IN_LIMIT = 400
_LOOK_AT = 4096
_decode_command = msgspec.msgpack.Decoder(Command).decode

Rank = tuple[bool, int, int, str]


class Candidate(msgspec.Struct, frozen=True):
    """A run that may be taken."""

    run_id: RunId
    org_id: OrgId
    most: int | None = None
    """How many runs its org may have held; None: any number, or the run is urgent."""


def look(connection: Connection, conductor: ConductorId, now: int, limit: int, spare: int) -> list[Candidate] | None:
    """Candidates in the order of their turns; None where there are none, [] where the conductor is not listed."""
    if not connection.run("SELECT 1 FROM conductors WHERE conductor_id=?", (conductor,)).fetchone():
        return []
    heads: dict[str, int] = dict(connection.run(_ORGS).fetchall())
    extra, urgent = _beside(connection, now)
    if not heads and not extra and not urgent:
        return None
    held = Counter(dict(connection.run(_HELD.format("")).fetchall()))
    found = [Candidate(run_id, org_id) for run_id, org_id in urgent.items()][:limit]
    held.update(each.org_id for each in found)
    limits = read_limits(connection, {*heads, *(org for org, _ in extra.values())})
    room = limit - len(found)

    def part(org: str) -> tuple[float, int, str]:
        return held[org] / max(1, limits.get(OrgId(org), NO_LIMITS).weight), heads[org], org

    full = {
        org
        for org, each in limits.items()
        if each.max_concurrent_runs is not None and held[org] >= each.max_concurrent_runs
    }
    first = sorted(heads.keys() - full, key=part)[: max(room, 0)]
    depth = min(room, max(8, 2 * room // max(1, len(first)) + 1))
    while True:
        waiting = _waiting(connection, first, depth, extra, urgent)
        turns = in_turn(room, waiting, held=held, limits=limits, spare=spare)
        taken = Counter(org for org, _ in turns)
        # An org whose whole part was taken may have more.
        if len(turns) == room or depth >= room or not any(taken[OrgId(org)] >= depth for org in first):
            break
        depth = min(room, depth * 4)
    found += [Candidate(run_id, org, limits.get(org, NO_LIMITS).max_concurrent_runs) for org, run_id in turns]
    return found or None


def read_limits(connection: Connection, orgs: Iterable[str]) -> dict[OrgId, OrgLimits]:
    """The limits of those orgs that have any."""
    found: dict[OrgId, OrgLimits] = {}
    ids = sorted(orgs)
    for start in range(0, len(ids), _IN_LIMIT):
        part = ids[start : start + _IN_LIMIT]
        for org_id, *limits in connection.run(_LIMITS.format(rows.marks(part)), part).fetchall():
            found[OrgId(org_id)] = OrgLimits(*limits)
    return found


def _beside(connection: Connection, now: int) -> tuple[dict[RunId, tuple[OrgId, Rank]], dict[RunId, OrgId]]:
    """Runs that wait for another reason than being queued: whose time has come, or of whom something is wanted."""
    extra: dict[RunId, tuple[OrgId, Rank]] = {}
    urgent: dict[RunId, OrgId] = {}
    for run_id, org_id, *rank in connection.run(_ASLEEP, (now, _LOOK_AT)).fetchall():
        extra[run_id] = (org_id, _rank(run_id, *rank))
    for run_id, org_id, *rank, data in connection.run(_WANTED, (_LOOK_AT,)).fetchall():
        if _decode_command(data).name in URGENT:
            urgent[run_id] = org_id
        extra[run_id] = (org_id, _rank(run_id, *rank))
    return {run_id: each for run_id, each in extra.items() if run_id not in urgent}, urgent


def _waiting(
    connection: Connection,
    orgs: Sequence[str],
    depth: int,
    extra: dict[RunId, tuple[OrgId, Rank]],
    urgent: dict[RunId, OrgId],
) -> dict[OrgId, list[Waiting]]:
    ranked: dict[OrgId, dict[RunId, Rank]] = defaultdict(dict)
    for start in range(0, len(orgs), _IN_LIMIT):
        part = orgs[start : start + _IN_LIMIT]
        sql = " UNION ALL ".join([_OF_ORG] * len(part))
        for run_id, org_id, *rank in connection.run(sql, [each for org in part for each in (org, depth)]).fetchall():
            if run_id not in urgent:
                ranked[org_id][run_id] = _rank(run_id, *rank)
    for run_id, (org_id, one) in extra.items():
        ranked[org_id][run_id] = one
    return {
        org: [Waiting(run_id, rank[2]) for run_id, rank in sorted(runs.items(), key=lambda item: item[1])]
        for org, runs in ranked.items()
    }


def _rank(run_id: str, status: str, priority: int, created_at: int) -> Rank:
    return status == "queued", -priority, created_at, run_id


class Claim(Operation):
    """Take runs. The candidates were looked for outside the transaction and may be taken by now."""

    def __init__(
        self, database: Database, conductor: ConductorId, candidates: Sequence[Candidate], now: int = 0
    ) -> None:
        self.database, self.conductor, self.candidates, self.now = database, conductor, candidates, now
        self.result: list[Claimed] = []

    def run(self, connection: Connection) -> None:
        self.result = []
        self.alive(connection)
        wanted = _within_limits(self.database, connection, self.candidates)
        for start in range(0, len(wanted), _IN_LIMIT):
            part = wanted[start : start + _IN_LIMIT]
            self.take(connection, _STILL_FREE.format(rows.marks(part)), part, self.now)

    def alive(self, connection: Connection) -> None:
        """Raise `FencedError` unless the conductor is listed."""
        if not _listed(self.database, connection, self.conductor):
            raise FencedError(f"conductor {self.conductor} was buried or never enlisted")

    def take(self, connection: Connection, free: str, run_ids: Sequence[RunId], *more: int) -> None:
        """Make the runs that `free` selects ours."""
        found = connection.run(
            f"UPDATE runs SET owner=?, epoch=epoch+1, wake_at=NULL WHERE run_id IN ({free}{self.database.lock_rows})"
            f" RETURNING {rows.COLUMNS}",
            (self.conductor, *run_ids, *more),
        ).fetchall()
        order = {run_id: number for number, run_id in enumerate(run_ids)}
        self.result += sorted((Claimed(rows.decode(row)) for row in found), key=lambda each: order[each.row.run_id])

    def written(self, connection: Connection) -> bool:
        held = [rows.one(connection, claimed.row.run_id) for claimed in self.result]
        ours = [claimed.row.epoch for claimed in self.result]
        return bool(held) and [row.epoch if row else None for row in held] == ours


class ClaimByName(Claim):
    """Take one run, whatever its state, unless a living conductor holds it."""

    def __init__(self, database: Database, conductor: ConductorId, run_id: RunId) -> None:
        super().__init__(database, conductor, ())
        self.run_id = run_id

    def run(self, connection: Connection) -> None:
        self.result = []
        self.alive(connection)
        dead = "(owner IS NULL OR NOT EXISTS (SELECT 1 FROM conductors WHERE conductor_id=runs.owner))"
        self.take(connection, f"SELECT run_id FROM runs WHERE {dead} AND run_id=?", [self.run_id])


class Begin(Submit):
    """Record a run and claim it. `result`: its row, and whether it is the conductor's."""

    def __init__(self, database: Database, run: NewRun, conductor: ConductorId) -> None:
        super().__init__(run)
        self.database, self.conductor = database, conductor

    def run(self, connection: Connection) -> None:
        self.inserted = False
        self.owner = self.conductor if self._has_place(connection) else None
        super().run(connection)
        self.result = (self.result, self.inserted and self.owner is not None)

    def _has_place(self, connection: Connection) -> bool:
        if not _listed(self.database, connection, self.conductor):
            return False
        org_id = self.new.org_id
        most = read_limits(connection, [org_id]).get(org_id, NO_LIMITS).max_concurrent_runs
        return bool(_within_limits(self.database, connection, [Candidate(self.new.run_id, org_id, most)]))

    def written(self, connection: Connection) -> bool:
        row = rows.one(connection, self.new.run_id)
        if row is None or (row.owner, row.epoch) != (self.owner, 1):
            return False
        sql = "SELECT written_at, written_by, data FROM frames WHERE run_id=? AND first_seq=1"
        frame = connection.run(sql, (self.new.run_id,)).fetchone()
        return frame is not None and tuple(frame) == (self.new.at, self.new.by, self.data)


def _listed(database: Database, connection: Connection, conductor: ConductorId) -> bool:
    """Whether a conductor is listed; nobody buries it before this transaction ends."""
    sql = "SELECT 1 FROM conductors WHERE conductor_id=?" + database.share_rows
    return connection.run(sql, (conductor,)).fetchone() is not None


def _within_limits(database: Database, connection: Connection, candidates: Sequence[Candidate]) -> list[RunId]:
    """Two conductors that look at once both find room under the same limit: here it is counted one by one."""
    limited = sorted({each.org_id for each in candidates if each.most is not None})
    if not limited:
        return [each.run_id for each in candidates]
    if database.one_by_one:
        connection.run(database.one_by_one)
    held: Counter[str] = Counter()
    for start in range(0, len(limited), _IN_LIMIT):
        part = limited[start : start + _IN_LIMIT]
        sql = _HELD.format(f" AND org_id IN ({rows.marks(part)})")
        held.update(dict(connection.run(sql, part).fetchall()))
    wanted = []
    for each in candidates:
        if each.most is None or held[each.org_id] < each.most:
            held[each.org_id] += 1
            wanted.append(each.run_id)
    return wanted
