"""PostgreSQL through psycopg 3."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

from flowmason.database import urls
from flowmason.database.connections import Connection, Question, Rows, Trouble
from flowmason.errors import EngineUnavailableError, JournalError, Retry

try:
    import psycopg
except ImportError as _missing:
    raise EngineUnavailableError(
        "the PostgreSQL driver is not installed", help="Install it with: pip install 'flowmason[postgres]'"
    ) from _missing

# Deadlocks, lock timeouts, and two processes that insert the same row: seen once more, it is there.
# A conductor that is stopped inside a transaction must not keep its rows locked.
_SESSION = b"SET idle_in_transaction_session_timeout = '10s'"
_WHO = b"SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid=pg_backend_pid()"
_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid=? AND backend_start::text=?"
_END_WAIT_S = 5.0
_BIND = b"SELECT set_config('flowmason.org', %s, true)"
_AGAIN = ("40001", "40P01", "55P03", "23503", "23505")
_FULL = ("53100", "53200")
_SHUTDOWN = ("57P01", "57P02", "57P03", "25P03")


@lru_cache(maxsize=512)
def _spelled(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()


class PostgresConnection:
    """A connection to a PostgreSQL server."""

    def __init__(self, raw: psycopg.Connection[Any], role: str | None = None) -> None:
        self._raw = raw
        self._role = role
        self._cursor = raw.cursor()
        self.changed = 0
        # Before the role is taken on: it may not see the session of the user who logged in.
        self.session: Sequence[Any] = raw.execute(_WHO).fetchone() or ()
        self._become()

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return cast(Rows, self._raw.execute(_spelled(sql), parameters or None))

    def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        cursors = []
        # Outside a transaction, what is sent in one pipeline is one.
        with self._raw.pipeline():
            for org_id, sql, parameters in questions:
                self._raw.execute(_BIND, (org_id,))
                cursors.append(self._raw.execute(_spelled(sql), parameters))
        return [cursor.fetchall() for cursor in cursors]

    def bind(self, org_id: str) -> None:
        self._raw.execute(_BIND, (org_id,))

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        count = self._cursor.execute(_spelled(sql), parameters).rowcount
        self.changed += max(count, 0)
        return count

    def write_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._cursor.executemany(_spelled(sql), rows)
        self.changed += max(self._cursor.rowcount, 0)

    def begin(self, durable: bool) -> None:
        """Every commit is durable: with a relaxed one the server's own death could lose a run's end."""
        self._raw.execute(b"BEGIN")

    def commit(self) -> None:
        self._raw.execute(b"COMMIT")

    def rollback(self) -> None:
        if not self._raw.closed:
            self._raw.execute(b"ROLLBACK")

    def close(self) -> None:
        self._raw.close()

    def end_session(self, session: Sequence[Any]) -> None:
        """End what is left of a lost connection on the server, and wait until its transaction is over.

        The server may still be at its COMMIT, or hold its locks without knowing that the client is gone.
        """
        if self._role is not None:
            self._raw.execute(b"RESET ROLE")
        deadline = time.monotonic() + _END_WAIT_S
        while session and self.run(_END, session).fetchone():
            if time.monotonic() > deadline:
                raise psycopg.OperationalError("the server still works on what a lost connection asked for")
            time.sleep(0.01)
        self._become()

    def _become(self) -> None:
        if self._role is None:
            return
        try:
            self._raw.execute(f"SET ROLE {self._role}".encode())
        except (psycopg.ProgrammingError, psycopg.DataError) as error:
            raise EngineUnavailableError(
                f"the database role {self._role} cannot be used: {error}",
                help="It is made where the user of DATABASE_URL has CREATEROLE; docs/studio.md says how by hand.",
            ) from error


class PostgresDatabase:
    """A PostgreSQL database, 13 or later."""

    lock_rows = " FOR UPDATE SKIP LOCKED"
    share_rows = " FOR SHARE"
    one_by_one = f"SELECT pg_advisory_xact_lock({0x466C6F77436C6169})"

    def __init__(self, url: str, role: str | None = None) -> None:
        self.url = url
        self._role = role
        self._conninfo = "postgresql" + url.removeprefix("postgresql+psycopg")

    def connect(self, *, writing: bool = True) -> PostgresConnection:
        raw = psycopg.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=5,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=15_000,
            application_name="flowmason",
        )
        raw.execute(_SESSION)
        try:
            return PostgresConnection(raw, self._role)
        except BaseException:
            raw.close()
            raise

    def trouble(self, error: Exception) -> Trouble:
        state = getattr(error, "sqlstate", None) or ""
        if state in _AGAIN:
            return Trouble.AGAIN
        if state in _SHUTDOWN or state.startswith("08"):
            return Trouble.LOST
        if not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return Trouble.LOST
        return Trouble.FINAL

    def error(self, error: Exception) -> JournalError:
        shown = urls.without_password(self.url)
        state = getattr(error, "sqlstate", None) or ""
        if state in _FULL:
            return JournalError(
                f"the disk under the database {shown} is full: {error}", help="Make room and resume the run."
            )
        if self.trouble(error) is not Trouble.FINAL:
            return JournalError(f"the database {shown} does not answer: {error}", retry=Retry.NOW)
        return JournalError(f"the database {shown} refused: {error}")

    def revision(self, connection: Connection) -> str | None:
        """The Alembic revision that is stored; None in an empty database."""
        if connection.run("SELECT to_regclass('alembic_version')").fetchone()[0] is None:
            return None
        row = connection.run("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None
