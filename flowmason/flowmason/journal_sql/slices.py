"""Rows of what orgs may spend a day: budgets, the slices of conductors, what runs and calls over HTTP have reserved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowmason import slices
from flowmason.database.connections import Connection
from flowmason.errors import FencedError
from flowmason.ids import ConductorId, OrgId, RunId
from flowmason.journal_sql import usage
from flowmason.journal_sql.operation import Operation
from flowmason.ledger import OrgCall, day_of, lost
from flowmason.slices import Day, Moves
from flowmason.usage import Amount, Call, Limit, used

LIMITS = "SELECT org_id, nanodollars, tokens FROM org_budgets WHERE org_id IN ({})"
DAY = (
    "SELECT b.nanodollars, b.tokens,"
    " COALESCE((SELECT SUM(spent_nanodollars) FROM budget_slices WHERE org_id=b.org_id AND day=?), 0),"
    " COALESCE((SELECT SUM(spent_tokens) FROM budget_slices WHERE org_id=b.org_id AND day=?), 0),"
    " COALESCE((SELECT SUM(free_nanodollars) FROM budget_slices WHERE org_id=b.org_id AND day=?), 0),"
    " COALESCE((SELECT SUM(free_tokens) FROM budget_slices WHERE org_id=b.org_id AND day=?), 0),"
    " COALESCE((SELECT SUM(nanodollars) FROM run_reservations WHERE org_id=b.org_id), 0)"
    " + COALESCE((SELECT SUM(nanodollars) FROM held_calls WHERE org_id=b.org_id), 0),"
    " COALESCE((SELECT SUM(tokens) FROM run_reservations WHERE org_id=b.org_id), 0)"
    " + COALESCE((SELECT SUM(tokens) FROM held_calls WHERE org_id=b.org_id), 0)"
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
EMPTY = "UPDATE budget_slices SET free_nanodollars=0, free_tokens=0 WHERE owner=?"
_RESERVE = (
    "INSERT INTO run_reservations (run_id, org_id, nanodollars, tokens) VALUES (?,?,?,?) ON CONFLICT (run_id)"
    " DO UPDATE SET nanodollars=excluded.nanodollars, tokens=excluded.tokens"
)


_HOLD = (
    "INSERT INTO held_calls (call_id, org_id, owner, caller, provider, model, day, at, nanodollars, tokens)"
    " VALUES (?,?,?,?,?,?,?,?,?,?)"
)
_HELD = "call_id, org_id, caller, provider, model, day, at, nanodollars, tokens"
_IDLE = " AND org_id=? AND NOT EXISTS (SELECT 1 FROM held_calls h WHERE h.owner=? AND h.org_id=?)"


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
        if not listed(connection, self.conductor):
            return  # it was buried: what it held is others'
        row = connection.run(DAY, (*([self.day] * 4), self.org_id)).fetchone()
        assert row is not None
        own = _own_free(connection, self.conductor, self.org_id, self.day)
        taken = slices.take(day_of_row(row), self.need, own)
        if taken.got:
            amounts = (taken.got.nanodollars, taken.got.tokens, 0, 0)
            connection.write(_ADD, (self.org_id, self.day, self.conductor, *amounts))
        self.result = taken


class ReturnSlices(Operation):
    """A conductor gives back what is free in its slices of an org."""

    def __init__(self, conductor: ConductorId, org_id: OrgId) -> None:
        self.conductor, self.org_id = conductor, org_id

    def run(self, connection: Connection) -> None:
        connection.write(f"{EMPTY} AND org_id=?", (self.conductor, self.org_id))


class HoldCall(Operation):
    """Reserve a call that no run makes, out of a slice of its owner, which grows where that is needed."""

    def __init__(self, owner: ConductorId, made: OrgCall, need: Amount, at: int) -> None:
        self.owner, self.made, self.need, self.at = owner, made, need, at

    def run(self, connection: Connection) -> None:
        self.result = None
        if not listed(connection, self.owner):
            raise FencedError(f"{self.owner} was buried or never enlisted")
        made, day = self.made, day_of(self.at)
        found = connection.run(LIMITS.format("?"), (made.org_id,)).fetchone()
        limit = Limit(*found[1:]) if found else Limit()
        if not limit:
            return
        need = limit.of(self.need).amount
        missing = need.beyond(_own_free(connection, self.owner, made.org_id, day))
        if missing:
            grown = TakeSlice(self.owner, made.org_id, day, missing)
            grown.run(connection)
            if grown.result is None or grown.result.got is None:
                self.result = grown.result
                return
        connection.write(_ADD, (made.org_id, day, self.owner, -need.nanodollars, -need.tokens, 0, 0))
        who = (made.id, made.org_id, self.owner, made.caller, made.provider, made.model)
        connection.write(_HOLD, (*who, day, self.at, need.nanodollars, need.tokens))

    def written(self, connection: Connection) -> bool:
        sql = "SELECT 1 FROM held_calls WHERE call_id=?"
        return connection.run(sql, (self.made.id,)).fetchone() is not None


class EndCall(Operation):
    """Note a call that no run made, and settle what was held for it. One that is noted already changes nothing."""

    def __init__(self, made: OrgCall, call: Call, at: int) -> None:
        self.made, self.call, self.at = made, call, at

    def run(self, connection: Connection) -> None:
        made = self.made
        held = connection.run(
            "DELETE FROM held_calls WHERE call_id=? RETURNING owner, day, nanodollars, tokens", (made.id,)
        ).fetchone()
        usage.insert_call(connection, made, self.call, self.at)
        if held is None:
            return
        owner, day, *amount = held
        spent, today = used(self.call.usage), day_of(self.at)
        # Held on another day: it is this day that pays, as for runs.
        free = Amount(*amount) - spent if day == today else Amount()
        amounts = (free.nanodollars, free.tokens, spent.nanodollars, spent.tokens)
        connection.write(_ADD, (made.org_id, today, owner, *amounts))
        # Nobody comes back to a slice of which nothing is held: others can have it.
        connection.write(EMPTY + _IDLE, (owner, made.org_id, owner, made.org_id))


def forfeit_calls(connection: Connection, owner: ConductorId) -> None:
    """What was held for calls of somebody who died is spent: nobody knows what they used."""
    found = connection.run(f"DELETE FROM held_calls WHERE owner=? RETURNING {_HELD}", (owner,)).fetchall()
    for call_id, org_id, caller, provider, model, day, at, *amounts in found:
        usage.insert_call(connection, OrgCall(call_id, org_id, caller, provider, model), lost(Amount(*amounts)), at)
        connection.write(_ADD, (org_id, day, owner, 0, 0, *amounts))


def listed(connection: Connection, conductor: str) -> bool:
    """Whether a conductor is alive as far as anybody knows."""
    found = connection.run("SELECT 1 FROM conductors WHERE conductor_id=?", (conductor,)).fetchone()
    return found is not None


def _own_free(connection: Connection, conductor: ConductorId, org_id: OrgId, day: str) -> Amount:
    row = connection.run(
        "SELECT free_nanodollars, free_tokens FROM budget_slices WHERE org_id=? AND day=? AND owner=?",
        (org_id, day, conductor),
    ).fetchone()
    return Amount(*row) if row else Amount()
