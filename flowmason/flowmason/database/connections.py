"""The two databases behind one narrow face: connect, run a statement, tell errors apart.

Statements are plain SQL that both understand, with `?` for parameters. The drivers are used directly:
SQLAlchemy would cost 0.3 s of every start and six times the time of a small statement. It is loaded,
with Alembic, only when tables have to be made or changed (`migrating`).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from flowmason.database import urls
from flowmason.errors import EngineUnavailableError, JournalError, Retry

API_ROLE = "flowmason_api"
"""The role of PostgreSQL that row-level security binds: what serves requests of one org at a time runs under it."""

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another process's transaction on the same SQLite file."""


class Trouble(Enum):
    """What an error of a driver means for the transaction it hit."""

    LOST = "lost"
    """The connection is gone; whether a commit under way was done is unknown."""
    AGAIN = "again"
    """Rolled back because of others: the same transaction may succeed now."""
    FINAL = "final"


class Rows(Protocol):
    """What a statement gave: the part of a DBAPI cursor that is used here."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


Question = tuple[str, str, Sequence[Any]]
"""An org, a `SELECT` of its rows, and the parameters."""


class Connection(Protocol):
    """One connection, in autocommit until `begin`."""

    changed: int
    """Rows written since it was opened; tells whether a refused operation left anything behind."""

    session: Sequence[Any]
    """What the server knows the connection by; empty where there is no server."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows: ...
    def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        """The rows of each question, each seen as its org sees it; one round trip for all of them."""
        ...

    def bind(self, org_id: str) -> None:
        """From here to the end of the transaction only the rows of this org exist, where the database enforces it."""
        ...

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> int: ...
    def write_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None: ...
    def begin(self, durable: bool) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...
    def end_session(self, session: Sequence[Any]) -> None: ...


class Database(Protocol):
    """Where the journal lies."""

    url: str
    lock_rows: str
    """Suffix of a `SELECT` that locks rows and leaves out those that somebody else locks."""
    share_rows: str
    """Suffix of a `SELECT` that keeps rows from being changed until the commit."""

    one_by_one: str
    """What a transaction runs so that nobody else is between the same statement and its end; empty: nobody is."""

    def connect(self, *, writing: bool = True) -> Connection: ...
    def trouble(self, error: Exception) -> Trouble: ...
    def error(self, error: Exception) -> JournalError: ...
    def revision(self, connection: Connection) -> str | None: ...


def database(url: str, *, role: str | None = None) -> Database:
    """The database of a URL. Connects to nothing yet. `role`: what each connection to PostgreSQL runs as."""
    url = urls.normalise_url(url)
    if url.startswith("sqlite"):
        return SqliteDatabase(url)
    from flowmason.database.postgres import PostgresDatabase

    return PostgresDatabase(url, role)


class SqliteConnection:
    """A connection to a SQLite file."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self._cursor = raw.cursor()
        self._full: bool | None = None
        self.changed = 0
        self.session: Sequence[Any] = ()

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return self._raw.execute(sql, parameters)

    def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        return [self._raw.execute(sql, parameters).fetchall() for _, sql, parameters in questions]

    def bind(self, org_id: str) -> None:
        """Nothing to do: a file knows no row-level security."""

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        count = self._cursor.execute(sql, parameters).rowcount
        self.changed += max(count, 0)
        return count

    def write_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self.changed += max(self._cursor.executemany(sql, rows).rowcount, 0)

    def begin(self, durable: bool) -> None:
        if durable is not self._full:
            # It cannot be changed inside a transaction.
            self._raw.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._full = durable
        self._raw.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._raw.execute("COMMIT")

    def rollback(self) -> None:
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")

    def close(self) -> None:
        self._raw.close()

    def end_session(self, session: Sequence[Any]) -> None:
        """Nothing to do: a file has no server that could go on without us."""


class SqliteDatabase:
    """A SQLite file in WAL mode: one writer at a time, readers beside it."""

    lock_rows = ""
    share_rows = ""
    one_by_one = ""

    def __init__(self, url: str) -> None:
        self.url = url
        self.path = Path(urls.sqlite_path(url)).absolute()

    def connect(self, *, writing: bool = True) -> SqliteConnection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.path.exists():
                # SQLite would make it for everybody to read. What it makes beside it has the same mode.
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise JournalError(f"cannot make the journal {self.path}, or its folder: {error}") from error
        raw = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            raw.execute("PRAGMA foreign_keys=ON")
            if not writing:
                raw.execute("PRAGMA query_only=ON")
            else:
                _use_wal(raw)
        except BaseException:
            raw.close()
            raise
        return SqliteConnection(raw)

    def trouble(self, error: Exception) -> Trouble:
        return Trouble.AGAIN if _sqlite_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) else Trouble.FINAL

    def error(self, error: Exception) -> JournalError:
        name = _sqlite_name(error)
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return JournalError(
                f"the journal {self.path} is locked by another process: {error}",
                retry=Retry.NOW,
                help="A process that writes to it has stopped inside a transaction; end or continue it.",
            )
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return JournalError(
                f"the disk under the journal {self.path} does not take more: {error}",
                help="Make room and resume the run.",
            )
        return JournalError(f"the journal {self.path} refused: {error}")

    def revision(self, connection: Connection) -> str | None:
        """The Alembic revision that is stored; None in an empty database."""
        if not connection.run("SELECT 1 FROM sqlite_master WHERE name='alembic_version'").fetchone():
            return None
        row = connection.run("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None


def _use_wal(raw: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, once per file. SQLite does not wait for locks here by itself."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            if raw.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                raw.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not _sqlite_name(error).startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _sqlite_name(error: Exception) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


def unreachable(url: str, error: Exception) -> EngineUnavailableError:
    """The error for a database server that does not answer."""
    return EngineUnavailableError(
        f"the database {urls.without_password(url)} cannot be reached: {error}",
        help="Check DATABASE_URL and that the server is running.",
    )
