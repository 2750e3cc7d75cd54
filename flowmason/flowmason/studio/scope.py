"""`StudioStore` and `Scope`: the only doors to the Studio's tables.

A `Scope` is a transaction bound to one org. It takes tables and conditions, never statements, and adds `org_id`
to each by itself: a handler cannot forget it. On PostgreSQL the API's store runs under the role `flowmason_api`, and
the transaction tells row-level security its org: the second wall. `System` is a transaction of no org, for what
belongs to none and for finding the org of somebody who signs in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, RowMapping

from flowmason.database import database, migrate, normalise_url, sqlite
from flowmason.errors import Code, EngineUnavailableError, JournalError
from flowmason.ids import OrgId
from flowmason.studio.schema import TENANT

Role = Literal["engine", "api"]
Condition = sa.ColumnElement[bool]
API_ROLE = "flowmason_api"
_PROOFS = frozenset({"key_hash", "user", "token_hash"})


class StudioStore:
    """The Studio's tables at one database URL. Thread-safe."""

    def __init__(self, engine: Engine, role: Role) -> None:
        self._engine = engine
        self._role = role

    @classmethod
    def open(cls, url: str, *, role: Role = "engine") -> StudioStore:
        """Open (as `engine`, also make) the tables. `api` is bound by row-level security on PostgreSQL.

        Raises `UsageError` for a URL of another kind of database, `EngineUnavailableError` where no server answers
        or the role is missing, `FormatError` for a database of a newer FlowMason.
        """
        url = normalise_url(url)
        if role == "engine" or url.startswith("sqlite"):
            place = database(url)
            connection = place.connect()
            try:
                migrate(place, connection)
            finally:
                connection.close()
        return cls(_engine(url, role), role)

    @contextmanager
    def scope(self, org_id: OrgId, *, writing: bool = True, **proof: str) -> Iterator[Scope]:
        """A transaction in which only the rows of `org_id` exist; rolled back where the block raises.

        One that only reads (`writing=False`) waits for nobody on SQLite, where there is one writer at a time. A proof
        is for what its `system` side does (see `system`).
        """
        with self.system(writing=writing, **proof) as system:
            yield system.scope(org_id)

    @contextmanager
    def system(self, *, writing: bool = True, **proof: str) -> Iterator[System]:
        """A transaction of no org.

        `key_hash=`, `user=` or `token_hash=` is the proof that somebody presents; it opens the rows it belongs to, and
        no others, in tables of orgs.
        """
        unknown = set(proof) - _PROOFS
        if unknown:
            raise ValueError(f"not a proof: {sorted(unknown)}")
        with self._begin(proof, writing) as connection:
            yield System(connection, proof, walled=self._walled)

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @property
    def _walled(self) -> bool:
        return self._role == "api" and self._engine.dialect.name == "postgresql"

    @contextmanager
    def _begin(self, settings: Mapping[str, str], writing: bool) -> Iterator[Connection]:
        try:
            with self._engine.execution_options(writing=writing).begin() as connection:
                if self._walled:
                    _set(
                        connection,
                        {"role": API_ROLE, **{f"flowmason.{name}": value for name, value in settings.items()}},
                    )
                yield connection
        except sa.exc.OperationalError as error:
            raise JournalError(f"the database refused: {error.orig}", code=Code.STORAGE) from error


class Scope:
    """A transaction of one org. Every method reads and writes that org's rows alone."""

    def __init__(self, system: System, connection: Connection, org_id: OrgId) -> None:
        self._connection = connection
        self.org_id = org_id
        self.system = system
        """The same transaction, for tables of no org."""

    def find(
        self,
        table: sa.Table,
        *conditions: Condition,
        columns: Sequence[sa.Column[Any]] = (),
        order_by: Sequence[sa.ColumnElement[Any]] = (),
        limit: int | None = None,
        lock: bool = False,
    ) -> list[RowMapping]:
        """Rows of a table; `lock` keeps others from changing them until the end (PostgreSQL)."""
        chosen = sa.select(*(columns or (table,))).select_from(table).where(self._mine(table), *conditions)
        chosen = chosen.order_by(*order_by).limit(limit)
        if lock:
            chosen = chosen.with_for_update()
        return list(self._connection.execute(chosen).mappings())

    def one(self, table: sa.Table, *conditions: Condition, lock: bool = False) -> RowMapping | None:
        """The one row that meets the conditions, or None."""
        found = self.find(table, *conditions, limit=1, lock=lock)
        return found[0] if found else None

    def count(self, table: sa.Table, *conditions: Condition) -> int:
        """How many rows meet the conditions."""
        chosen = sa.select(sa.func.count()).select_from(table).where(self._mine(table), *conditions)
        return int(self._connection.execute(chosen).scalar_one())

    def add(self, table: sa.Table, **values: Any) -> None:
        """Insert a row. Raises `sqlalchemy.exc.IntegrityError` where it exists."""
        self._mine(table)
        self._connection.execute(sa.insert(table).values(**values, org_id=self.org_id))

    def change(self, table: sa.Table, *conditions: Condition, **values: Any) -> int:
        """Update rows; returns how many."""
        if "org_id" in values:
            raise ValueError("a row never changes its org")
        changed = sa.update(table).where(self._mine(table), *conditions).values(**values)
        return int(self._connection.execute(changed).rowcount)

    def remove(self, table: sa.Table, *conditions: Condition) -> int:
        """Delete rows; returns how many."""
        return int(self._connection.execute(sa.delete(table).where(self._mine(table), *conditions)).rowcount)

    def _mine(self, table: sa.Table) -> Condition:
        if table not in TENANT:
            raise ValueError(f"{table.name} belongs to no org")
        mine: Condition = table.c.org_id == self.org_id
        return mine


class System:
    """A transaction of no org: for its own tables, and for the org's rows that a proof opens."""

    def __init__(self, connection: Connection, proof: Mapping[str, str], *, walled: bool) -> None:
        self._connection = connection
        self._proof = proof
        self._walled = walled

    def execute(self, statement: sa.Executable) -> sa.CursorResult[Any]:
        """Run a statement. Tables of orgs may only be searched by the proof that was given."""
        result: sa.CursorResult[Any] = self._connection.execute(statement)
        return result

    def scope(self, org_id: OrgId) -> Scope:
        """The same transaction, bound to one org from here on: for an org that a proof has led to."""
        if self._walled:
            _set(self._connection, {"flowmason.org": org_id})
        return Scope(self, self._connection, org_id)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._connection.dialect.name

    @property
    def bound_to(self) -> Mapping[str, str]:
        """The proof."""
        return self._proof


def _set(connection: Connection, settings: Mapping[str, str]) -> None:
    """Set what holds until the transaction ends; one round trip."""
    calls = [sa.func.set_config(name, value, True) for name, value in settings.items()]
    connection.execute(sa.select(*calls))


def _engine(url: str, role: Role) -> Engine:
    if url.startswith("sqlite"):
        engine = sa.create_engine(
            url,
            connect_args={"timeout": sqlite.BUSY_TIMEOUT_S, "check_same_thread": False},
            hide_parameters=True,
        )

        @sa.event.listens_for(engine, "connect")
        def _ready(raw: Any, _record: object) -> None:
            raw.isolation_level = None
            raw.execute("PRAGMA foreign_keys=ON")
            raw.execute("PRAGMA synchronous=FULL")

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            # The lock is taken at once: one that reads first and then writes would be refused beside another writer.
            writing = connection.get_execution_options().get("writing", True)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

        return engine
    # Errors never show parameters: hashes and people's addresses are among them.
    engine = sa.create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=8, hide_parameters=True)
    if role == "api":
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"SET LOCAL ROLE {API_ROLE}")
        except sa.exc.SQLAlchemyError as error:
            engine.dispose()
            raise EngineUnavailableError(
                f"the database role {API_ROLE} cannot be used: {error.__cause__ or error}",
                help="`fm studio start` makes it where DATABASE_URL's user may create roles; see docs/studio.md.",
            ) from error
    return engine
