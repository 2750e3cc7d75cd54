"""How conductors stand, for operators: what they hold, and how often they beat."""

from __future__ import annotations

import msgspec

from flowmason.database.connections import Database
from flowmason.ids import GATE, ConductorId

_SQL = (
    "SELECT c.conductor_id, c.host, c.pid, c.beat, (SELECT count(*) FROM runs r WHERE r.owner=c.conductor_id)"
    f" FROM conductors c WHERE substr(c.conductor_id, 1, {len(GATE)}) <> '{GATE}' ORDER BY c.conductor_id"
)


class Standing(msgspec.Struct, frozen=True):
    """A conductor that has not retired and that nobody has buried."""

    conductor: ConductorId
    host: str
    pid: int
    beat: int
    """A counter; it rises every two seconds while the conductor lives."""
    runs: int
    """Runs that it holds."""


def standings(database: Database) -> list[Standing]:
    """All conductors of a database, as its owner sees them. Blocks. Raises whatever the database raises."""
    connection = database.connect(writing=False)
    try:
        return [Standing(ConductorId(row[0]), *row[1:]) for row in connection.run(_SQL).fetchall()]
    finally:
        connection.close()
