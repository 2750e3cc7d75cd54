"""Bring a database to the tables that this FlowMason knows.

There is one Alembic tree, `migrations/`, from the first table on. Alembic and SQLAlchemy are imported
only where something is to be done: on every other start one small select is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowmason.database import urls
from flowmason.database.connections import Connection, Database
from flowmason.errors import FormatError

REVISIONS: Sequence[str] = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009")
"""Every revision of the tree, in order; a test holds it to the tree."""

FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x466C6F774D61736F
"""Key of PostgreSQL's advisory lock that keeps two processes from migrating at once."""


def migrate(database: Database, connection: Connection) -> bool:
    """Create or update the tables; returns whether anything had to be done.

    Raises `FormatError` for a database that a newer FlowMason has written.
    """
    stored = database.revision(connection)
    if stored == REVISIONS[-1]:
        return False
    if stored is not None and stored not in REVISIONS:
        raise FormatError(
            f"the tables of {urls.without_password(database.url)} are of revision {stored!r}; "
            f"this FlowMason knows up to {REVISIONS[-1]!r}",
            help="Update FlowMason.",
        )
    _upgrade(database.url)
    return True


def _upgrade(url: str) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    engine = create_engine(url, poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        # The driver's own BEGIN comes too late to make DDL transactional.
        @event.listens_for(engine, "connect")
        def _no_begin(raw: Any, _record: object) -> None:
            raw.isolation_level = None
            raw.execute("PRAGMA busy_timeout=60000")

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
