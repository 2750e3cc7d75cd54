"""What can be written, as objects that the writer thread runs inside a shared transaction.

`run` either does its whole work, or raises a `JournalError` before it has changed a row: then only this
operation is refused. `written` is asked after a connection died during COMMIT, once the database
answers again: whether the operation that ran before is there. Where running it again does no harm, the
answer is always False.
"""

from __future__ import annotations

from typing import Any

from flowmason.database.connections import Connection


class Operation:
    """One write."""

    durable = False
    """Whether the commit must survive a power cut."""
    result: Any = None

    def run(self, connection: Connection) -> None:
        """Do the work and set `result`."""
        raise NotImplementedError

    def written(self, connection: Connection) -> bool:
        """Whether the work is there already."""
        return False
