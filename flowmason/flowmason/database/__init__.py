"""The one database: where it is, how to connect to it, and its tables.

    urls         which database, and how its URL is written
    connections  SQLite and PostgreSQL (`postgres`) behind one narrow face, by their drivers
    migrating    tables, by one Alembic tree (migrations/)

`journal_sql` keeps runs in it, `studio` orgs, people and pipelines. Nothing here knows what a row means.
"""

from __future__ import annotations

from flowmason.database.connections import Connection, Database, Rows, Trouble, database, unreachable
from flowmason.database.migrating import migrate
from flowmason.database.urls import default_journal_url, normalise_url

__all__ = [
    "Connection",
    "Database",
    "Rows",
    "Trouble",
    "database",
    "default_journal_url",
    "migrate",
    "normalise_url",
    "unreachable",
]
