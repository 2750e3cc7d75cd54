"""The one database: where it is, how to connect to it, and its tables.

    urls         which database, and how its URL is written
    connections  the narrow face of SQLite (`sqlite`) and PostgreSQL (`postgres`), each by its driver
    opening      the one of the two that a URL means
    migrating    tables, by one Alembic tree (migrations/)

`journal_sql` keeps runs in it, `studio` orgs, people and pipelines. Nothing here knows what a row means.
"""

from __future__ import annotations

from flowmason.database.connections import Connection, Database, Rows, Trouble, unreachable
from flowmason.database.migrating import migrate
from flowmason.database.opening import database
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
