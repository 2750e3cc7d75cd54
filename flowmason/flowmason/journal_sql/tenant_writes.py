"""What is written on behalf of one org: every statement names it."""

from __future__ import annotations

from flowmason.database.connections import Connection
from flowmason.errors import Code, UsageError
from flowmason.ids import OrgId
from flowmason.journal import Command, NewRun, RunRow
from flowmason.journal_sql import rows
from flowmason.journal_sql.claims import WAITING
from flowmason.journal_sql.operation import Operation
from flowmason.journal_sql.operations import Post, Submit

QUEUED = (
    f"SELECT count(*) FROM (SELECT 1 FROM runs WHERE org_id=? AND status='queued' AND {WAITING} LIMIT ?) AS waiting"
)
"""How many runs of an org wait, counted no further than the second parameter."""
COUNT_ALL = 2**31


class Bound(Operation):
    """An operation in a shared transaction in which, while it runs, only the rows of one org exist."""

    def __init__(self, org_id: OrgId, inner: Operation) -> None:
        self.org_id, self.inner = org_id, inner
        self.durable = inner.durable

    def run(self, connection: Connection) -> None:
        connection.bind(self.org_id)
        self.inner.run(connection)
        self.result = self.inner.result

    def written(self, connection: Connection) -> bool:
        connection.bind(self.org_id)
        self.result = self.inner.result
        return self.inner.written(connection)


class SubmitWithin(Submit):
    """Record a new run unless too many wait already."""

    def __init__(self, run: NewRun, most_queued: int | None) -> None:
        super().__init__(run)
        self.most_queued = most_queued

    def run(self, connection: Connection) -> None:
        self.result = self.by_key(connection) or self._when_full(connection) or self.insert(connection)

    def _when_full(self, connection: Connection) -> RunRow | None:
        """Where the queue is full: the run, if it is known already; else raises `UsageError`."""
        if self.most_queued is None:
            return None
        waiting = connection.run(QUEUED, (self.new.org_id, self.most_queued)).fetchone()[0]
        if waiting < self.most_queued:
            return None
        known = self.known(connection)
        if known is None:
            raise UsageError(
                f"{waiting} runs of this org wait already, and {self.most_queued} is its limit",
                code=Code.QUEUE_FULL,
                help="Submit again once some have started, or have the limit raised.",
            )
        return known


class PostTo(Post):
    """Put a command into the inbox of an org's run."""

    def __init__(self, org_id: OrgId, command: Command) -> None:
        super().__init__(command)
        self.org_id = org_id

    def run(self, connection: Connection) -> None:
        self.result = rows.of_org(connection, self.org_id, self.command.run_id) is not None
        if self.result:
            self._insert(connection, self.org_id)
