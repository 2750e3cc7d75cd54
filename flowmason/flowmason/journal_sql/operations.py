"""What the journal's writer writes: runs, events, commands, beats."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec

from flowmason.database.connections import Connection
from flowmason.errors import FencedError, JournalError
from flowmason.ids import ConductorId, OrgId, PlanId, RunId, format_path
from flowmason.journal import Append, Command, NewRun, RunRow
from flowmason.journal_sql import frames, rows, slices, usage
from flowmason.journal_sql.operation import Operation
from flowmason.ledger import entries
from flowmason.report import Delta, LogLine

_encode = msgspec.msgpack.Encoder().encode
_INSERT_RUN = f"INSERT INTO runs ({rows.COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,NULL,?,?,?,?,'{{}}') ON CONFLICT DO NOTHING"
_INSERT_FRAME = (
    "INSERT INTO frames (run_id, first_seq, last_seq, org_id, written_at, written_by, codec, data)"
    " VALUES (?,?,?,?,?,?,?,?)"
)
_INSERT_VALUE = "INSERT INTO run_values (run_id, digest, org_id) VALUES (?,?,?) ON CONFLICT DO NOTHING"
_INSERT_PLAN = "INSERT INTO plans (plan_id, data, stored_at) VALUES (?,?,?) ON CONFLICT (plan_id) DO NOTHING"
_ADVANCE = "UPDATE runs SET seq=?, updated_at=? WHERE run_id=? AND epoch=? AND seq=?"
_ADVANCE_SUMMARY = "UPDATE runs SET seq=?, updated_at=?, summary=? WHERE run_id=? AND epoch=? AND seq=?"
_ADVANCE_ALL = (
    "UPDATE runs SET seq=?, updated_at=?, summary=COALESCE(?, summary), status=COALESCE(?, status),"
    " owner=CASE WHEN ?=1 THEN NULL ELSE owner END, wake_at=CASE WHEN ?=1 THEN ? ELSE wake_at END"
    " WHERE run_id=? AND epoch=? AND seq=?"
)


class Submit(Operation):
    """Record a new run."""

    durable = True

    def __init__(self, run: NewRun) -> None:
        self.new = run
        self.owner: ConductorId | None = None
        """Whose the run is from the start."""
        self.inserted = False
        """Whether the run was not there before."""
        self.codec, self.data, self.digests = frames.pack(run.events)

    def run(self, connection: Connection) -> None:
        self.result = self.by_key(connection) or self.insert(connection)

    def by_key(self, connection: Connection) -> RunRow | None:
        """The run that was submitted with this idempotency key."""
        new = self.new
        if new.idempotency_key is None:
            return None
        key = (new.org_id, new.idempotency_key)
        row = connection.run("SELECT run_id FROM idempotency WHERE org_id=? AND key=?", key).fetchone()
        return rows.of_org(connection, new.org_id, row[0]) if row else None

    def known(self, connection: Connection) -> RunRow | None:
        """The org's run with that id, if it is the same; raises `JournalError` if it is another."""
        found = rows.of_org(connection, self.new.org_id, self.new.run_id)
        if found and found.plan_id != self.new.plan_id:
            raise self._taken()
        return found

    def _taken(self) -> JournalError:
        return JournalError(f"another run has the id {self.new.run_id} already")

    def insert(self, connection: Connection) -> RunRow:
        """Insert the run, its plan and its first frame, unless it is there; returns its row."""
        new = self.new
        count, epoch = len(new.events), 0 if self.owner is None else 1
        inserted = connection.write(
            _INSERT_RUN,
            (
                *(new.run_id, new.org_id, new.plan_id, new.pipeline, new.version, new.status, epoch, count, self.owner),
                *(new.priority, new.parent, new.at, new.at),
            ),
        )
        self.inserted = inserted == 1
        if not inserted:
            found = self.known(connection)
            if found is None:
                raise self._taken()
            return found
        connection.write(_INSERT_PLAN, (new.plan_id, new.plan, new.at))
        if new.idempotency_key is not None:
            # Where another process holds the same key uncommitted, this waits for it and then fails on
            # the key; the writer runs the operation again and finds the earlier run.
            key = (new.org_id, new.idempotency_key, new.run_id)
            connection.write("INSERT INTO idempotency (org_id, key, run_id) VALUES (?,?,?)", key)
        if new.events:
            frame = (new.run_id, 1, count, new.org_id, new.at, new.by, self.codec, self.data)
            connection.write(_INSERT_FRAME, frame)
        _insert_values(connection, new.run_id, new.org_id, self.digests | {new.plan_id})
        return RunRow(
            run_id=new.run_id,
            org_id=new.org_id,
            plan_id=new.plan_id,
            pipeline=new.pipeline,
            version=new.version,
            status=new.status,
            epoch=epoch,
            seq=count,
            owner=self.owner,
            priority=new.priority,
            parent=new.parent,
            created_at=new.at,
            updated_at=new.at,
        )


class AddEvents(Operation):
    """Add events to a run, if nobody else has."""

    def __init__(self, append: Append) -> None:
        self.append = append
        self.durable = append.durable or bool(append.children)
        self.codec, self.data, self.digests = frames.pack(append.events)
        self.summary = None if append.summary is None else msgspec.json.encode(append.summary).decode()
        self.calls = list(entries(append.events, append.seq + 1))
        self.children = [Submit(child) for child in append.children]
        self.result = append.seq + len(append.events)

    def run(self, connection: Connection) -> None:
        append = self.append
        missing = [child for child in self.children if not child.known(connection)]
        fence = (append.run_id, append.epoch, append.seq)
        if append.status is not None or append.release or append.wake_at is not None:
            sets_wake = int(append.release or append.wake_at is not None)
            row = (self.summary, append.status, int(append.release), sets_wake, append.wake_at)
            changed = connection.write(_ADVANCE_ALL, (self.result, append.at, *row, *fence))
        elif self.summary is not None:
            changed = connection.write(_ADVANCE_SUMMARY, (self.result, append.at, self.summary, *fence))
        else:
            changed = connection.write(_ADVANCE, (self.result, append.at, *fence))
        if changed != 1:
            raise FencedError(f"run {append.run_id} has another owner, or went on without this one")
        # Only now: a burial writes to the same row, and so came before this or comes after it.
        if append.reserves and not slices.listed(connection, append.by):
            raise FencedError(f"{append.by} was buried or never enlisted")
        if append.events:
            frame = (append.run_id, append.seq + 1, self.result, append.org_id, append.at, append.by)
            connection.write(_INSERT_FRAME, (*frame, self.codec, self.data))
        if self.digests:
            _insert_values(connection, append.run_id, append.org_id, self.digests)
        if append.moves is not None:
            slices.move(connection, append.run_id, append.org_id, append.by, append.moves)
        if self.calls:
            usage.insert(connection, append.run_id, append.org_id, append.at, self.calls)
        for command_id in append.taken:
            taken = (self.result, command_id, append.run_id)
            connection.write("UPDATE commands SET taken_seq=? WHERE command_id=? AND run_id=?", taken)
        if append.status == "completed":
            connection.write("DELETE FROM side_lines WHERE run_id=? AND kind='delta'", (append.run_id,))
        for child in missing:
            child.insert(connection)

    def written(self, connection: Connection) -> bool:
        append = self.append
        if not append.events:
            return False
        row = connection.run(
            "SELECT last_seq, written_at, written_by, data FROM frames WHERE run_id=? AND first_seq=?",
            (append.run_id, append.seq + 1),
        ).fetchone()
        return row is not None and tuple(row) == (self.result, append.at, append.by, self.data)


class PutPlan(Operation):
    """Store a Plan."""

    def __init__(self, plan_id: PlanId, data: bytes) -> None:
        self.plan_id, self.data = plan_id, data

    def run(self, connection: Connection) -> None:
        row = (self.plan_id, self.data, int(time.time() * 1000))
        connection.write(_INSERT_PLAN.replace("NOTHING", "UPDATE SET stored_at=excluded.stored_at"), row)


class Post(Operation):
    """Put a command into a run's inbox."""

    durable = True

    def __init__(self, command: Command) -> None:
        self.command, self.data = command, _encode(command)

    def run(self, connection: Connection) -> None:
        command = self.command
        found = connection.run("SELECT org_id FROM runs WHERE run_id=?", (command.run_id,)).fetchone()
        self.result = found is not None
        if found:
            self._insert(connection, found[0])

    def _insert(self, connection: Connection, org_id: str) -> None:
        connection.write(
            "INSERT INTO commands (command_id, run_id, org_id, data) VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
            (self.command.id, self.command.run_id, org_id, self.data),
        )


class Enlist(Operation):
    """Make a conductor known."""

    def __init__(self, conductor: ConductorId, host: str, pid: int) -> None:
        self.row = (conductor, host, pid)

    def run(self, connection: Connection) -> None:
        connection.write(
            "INSERT INTO conductors (conductor_id, beat, host, pid) VALUES (?,0,?,?)"
            " ON CONFLICT (conductor_id) DO UPDATE SET host=excluded.host, pid=excluded.pid",
            self.row,
        )


class Beat(Operation):
    """Raise a conductor's counter."""

    def __init__(self, conductor: ConductorId) -> None:
        self.conductor = conductor

    def run(self, connection: Connection) -> None:
        raised = connection.write("UPDATE conductors SET beat=beat+1 WHERE conductor_id=?", (self.conductor,))
        self.result = raised == 1


class Remove(Operation):
    """Take a conductor off the list (if its counter is still `beat`) and its runs out of its hands."""

    def __init__(self, conductor: ConductorId, beat: int | None) -> None:
        self.conductor, self.beat = conductor, beat

    def run(self, connection: Connection) -> None:
        if self.beat is None:
            connection.write("DELETE FROM conductors WHERE conductor_id=?", (self.conductor,))
        elif not connection.write(
            "DELETE FROM conductors WHERE conductor_id=? AND beat=?", (self.conductor, self.beat)
        ):
            self.result = False
            return
        self.result = True
        connection.write("UPDATE runs SET owner=NULL WHERE owner=?", (self.conductor,))
        connection.write(slices.EMPTY, (self.conductor,))

        slices.forfeit_calls(connection, self.conductor)

    def written(self, connection: Connection) -> bool:
        sql = "SELECT 1 FROM conductors WHERE conductor_id=?"
        return bool(self.result) and not connection.run(sql, (self.conductor,)).fetchone()


class AddSide(Operation):
    """Store log lines and deltas; those of a run that is gone are left out."""

    def __init__(self, org_id: OrgId, run_id: RunId, lines: Sequence[LogLine], deltas: Sequence[Delta]) -> None:
        self.run_id = run_id
        items: Iterable[tuple[str, LogLine | Delta]] = [
            *(("log", line) for line in lines),
            *(("delta", delta) for delta in deltas),
        ]
        self.rows = [
            (run_id, org_id, kind, format_path(item.path), item.attempt, item.n, _encode(item)) for kind, item in items
        ]

    def run(self, connection: Connection) -> None:
        if self.rows and connection.run("SELECT 1 FROM runs WHERE run_id=?", (self.run_id,)).fetchone():
            connection.write_many(
                "INSERT INTO side_lines (run_id, org_id, kind, path, attempt, n, data) VALUES (?,?,?,?,?,?,?)"
                " ON CONFLICT DO NOTHING",
                self.rows,
            )


class Prune(Operation):
    """Delete ended runs with everything that belongs to them, and the Plans that no run mentions."""

    PLAN_GRACE_MS = 24 * 3600 * 1000
    """A Plan may be stored some time before the event that mentions it."""

    def __init__(self, org_id: OrgId, before: int, statuses: Sequence[str]) -> None:
        self.org_id, self.before, self.statuses = org_id, before, statuses
        self.result: list[RunId] = []

    def run(self, connection: Connection) -> None:
        self.result = rows.prunable(connection, self.org_id, self.before, self.statuses)
        for run_id in self.result:
            connection.write("DELETE FROM idempotency WHERE run_id=?", (run_id,))
            connection.write("DELETE FROM runs WHERE run_id=?", (run_id,))
        unused = "SELECT 1 FROM run_values WHERE digest=plan_id"
        recent = int(time.time() * 1000) - self.PLAN_GRACE_MS
        connection.write(f"DELETE FROM plans WHERE stored_at<? AND NOT EXISTS ({unused})", (recent,))

    def written(self, connection: Connection) -> bool:
        return bool(self.result) and not any(rows.one(connection, run_id) for run_id in self.result)


def _insert_values(connection: Connection, run_id: RunId, org_id: OrgId, digests: set[str]) -> None:
    connection.write_many(_INSERT_VALUE, [(run_id, digest, org_id) for digest in sorted(digests)])


__all__ = [
    "AddEvents",
    "AddSide",
    "Beat",
    "Enlist",
    "Operation",
    "Post",
    "Prune",
    "PutPlan",
    "Remove",
    "Submit",
]
