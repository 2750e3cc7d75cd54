"""Rows of what orgs may spend a day: budgets, the slices of conductors, reservations of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowmason import slices
from flowmason.database.connections import Connection
from flowmason.ids import ConductorId, OrgId, RunId
from flowmason.journal_sql.operations import EMPTY_SLICES, Operation
from flowmason.slices import Day, Moves
from flowmason.usage import Amount, Limit

LIMITS = "SELECT org_id, nanodollars, tokens FROM org_budgets WHERE org_id IN ({})"
DAY = (
    "SELECT b.nanodollars, b.tokens,"
    " COALESCE((SELECT SUM(spent_nanodollars) FROM budget_slices WHERE org_id=b.org_id AND day=?), 0),"
    " COALESCE((SELECT SUM(spent_tokens) FROM budget_slices WHERE org_id=b.org_id AND day=?), 0),"
    " COALESCE((SELECT SUM(free_nanodollars) FROM budget_slices WHERE org_id=b.org_id AND day=?), 0),"
    " COALESCE((SELECT SUM(free_tokens) FROM budget_slices WHERE org_id=b.org_id AND day=?), 0),"
    " COALESCE((SELECT SUM(nanodollars) FROM run_reservations WHERE org_id=b.org_id), 0),"
    " COALESCE((SELECT SUM(tokens) FROM run_reservations WHERE org_id=b.org_id), 0)"
    " FROM org_budgets b WHERE b.org_id=?"
)
"""One statement, so that it sees one moment: commits of other conductors move amounts between these tables."""
_ADD = (
    "INSERT INTO budget_slices (org_id, day, owner, free_nanodollars, free_tokens, spent_nanodollars, spent_tokens)"
    " VALUES (?,?,?,?,?,?,?) ON CONFLICT (org_id, day, owner) DO UPDATE SET"
    " free_nanodollars=budget_slices.free_nanodollars+excluded.free_nanodollars,"
    " free_tokens=budget_slices.free_tokens+excluded.free_tokens,"
    " spent_nanodollars=budget_slices.spent_nanodollars+excluded.spent_nanodollars,"
    " spent_tokens=budget_slices.spent_tokens+excluded.spent_tokens"
)
_RESERVE = (
    "INSERT INTO run_reservations (run_id, org_id, nanodollars, tokens) VALUES (?,?,?,?) ON CONFLICT (run_id)"
    " DO UPDATE SET nanodollars=excluded.nanodollars, tokens=excluded.tokens"
)


def day_of_row(row: Sequence[Any]) -> Day:
    """The answer of `DAY`."""
    numbers = [int(item) for item in row[2:]]
    pairs = [Amount(*numbers[at : at + 2]) for at in (0, 2, 4)]
    return Day(Limit(row[0], row[1]), *pairs)


def move(connection: Connection, run_id: RunId, org_id: OrgId, owner: str, moves: Moves) -> None:
    """What one commit of a run moves."""
    if moves.free or moves.spent:
        free, spent = moves.free, moves.spent
        amounts = (free.nanodollars, free.tokens, spent.nanodollars, spent.tokens)
        connection.write(_ADD, (org_id, moves.day, owner, *amounts))
    if moves.reserved:
        connection.write(_RESERVE, (run_id, org_id, moves.reserved.nanodollars, moves.reserved.tokens))
    else:
        connection.write("DELETE FROM run_reservations WHERE run_id=?", (run_id,))


class TakeSlice(Operation):
    """A slice of an org's budget for a conductor."""

    def __init__(self, conductor: ConductorId, org_id: OrgId, day: str, need: Amount) -> None:
        self.conductor, self.org_id, self.day, self.need = conductor, org_id, day, need

    def run(self, connection: Connection) -> None:
        # Whoever gives out of this budget comes one after the other.
        self.result = None
        if not connection.write("UPDATE org_budgets SET org_id=org_id WHERE org_id=?", (self.org_id,)):
            return
        if not connection.run("SELECT 1 FROM conductors WHERE conductor_id=?", (self.conductor,)).fetchone():
            return  # it was buried: what it held is others'
        row = connection.run(DAY, (*([self.day] * 4), self.org_id)).fetchone()
        assert row is not None
        own = connection.run(
            "SELECT free_nanodollars, free_tokens FROM budget_slices WHERE org_id=? AND day=? AND owner=?",
            (self.org_id, self.day, self.conductor),
        ).fetchone()
        taken = slices.take(day_of_row(row), self.need, Amount(*own) if own else Amount())
        if taken.got:
            amounts = (taken.got.nanodollars, taken.got.tokens, 0, 0)
            connection.write(_ADD, (self.org_id, self.day, self.conductor, *amounts))
        self.result = taken


class ReturnSlices(Operation):
    """A conductor gives back what is free in its slices of an org."""

    def __init__(self, conductor: ConductorId, org_id: OrgId) -> None:
        self.conductor, self.org_id = conductor, org_id

    def run(self, connection: Connection) -> None:
        connection.write(f"{EMPTY_SLICES} AND org_id=?", (self.conductor, self.org_id))
