"""The narrow face of the two databases (`sqlite`, `postgres`): connect, run a statement, tell errors apart.

Statements are plain SQL that both understand, with `?` for parameters. The drivers are used directly:
SQLAlchemy would cost 0.3 s of every start and six times the time of a small statement. It is loaded,
with Alembic, only when tables have to be made or changed (`migrating`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Protocol

from flowmason.database import urls
from flowmason.errors import EngineUnavailableError, JournalError

API_ROLE = "flowmason_api"
"""The role of PostgreSQL that row-level security binds: what serves requests of one org at a time runs under it."""


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


def unreachable(url: str, error: Exception) -> EngineUnavailableError:
    """The error for a database server that does not answer."""
    return EngineUnavailableError(
        f"the database {urls.without_password(url)} cannot be reached: {error}",
        help="Check DATABASE_URL and that the server is running.",
    )
