"""The journal in SQL: SQLite for one machine, PostgreSQL in earnest.

    urls        which database, and how its URL is written
    database    the two databases behind one narrow face (postgres: the second)
    migrating   tables, by one Alembic tree (migrations/)
    frames      encoded events; rows: the rows of runs
    operations  what can be written, as objects
    writer      the thread that runs them in shared transactions
    store       `SqlJournal`, the port itself

Only this package speaks SQL. It imports no other adapter.
"""

from __future__ import annotations

from flowmason.journal_sql.store import SqlJournal, open_journal
from flowmason.journal_sql.urls import default_journal_url, normalise_url

__all__ = ["SqlJournal", "default_journal_url", "normalise_url", "open_journal"]
