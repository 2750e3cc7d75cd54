"""The journal in SQL: SQLite for one machine, PostgreSQL in earnest.

    frames      encoded events; rows: the rows of runs
    operation   what a write is; operations, slices: those there are
    claims      which runs a conductor takes
    writer      the thread that runs them in shared transactions
    readers     the threads that read
    store       `SqlJournal`, the port itself
    standing    how conductors stand, for operators
    tenant      `RunStore` and `OrgRuns`: the runs of one org, for those who serve requests

Connections and tables come from `flowmason.database`. It imports no other adapter.
"""

from __future__ import annotations

from flowmason.journal_sql.store import SqlJournal, open_journal

__all__ = ["SqlJournal", "open_journal"]
