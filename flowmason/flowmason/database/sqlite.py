"""SQLite through the driver of the standard library."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flowmason.database import urls
from flowmason.database.connections import Connection, Question, Rows, Trouble
from flowmason.errors import JournalError, Retry

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another process's transaction on the same SQLite file."""


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
