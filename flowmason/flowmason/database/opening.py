"""Which of the two databases a URL means."""

from __future__ import annotations

from flowmason.database import urls
from flowmason.database.connections import Database
from flowmason.database.sqlite import SqliteDatabase


def database(url: str, *, role: str | None = None) -> Database:
    """The database of a URL. Connects to nothing yet. `role`: what each connection to PostgreSQL runs as."""
    url = urls.normalise_url(url)
    if url.startswith("sqlite"):
        return SqliteDatabase(url)
    from flowmason.database.postgres import PostgresDatabase

    return PostgresDatabase(url, role)
