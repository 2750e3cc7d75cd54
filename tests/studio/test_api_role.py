"""The API's role on PostgreSQL: made by whoever may, asked for where not, and bound by row-level security."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowmason.database import database, normalise_url
from flowmason.errors import EngineUnavailableError
from flowmason.journal_sql.store import open_tables
from flowmason.studio import schema
from flowmason.studio.roles import BY_HAND, ensure_api_role
from flowmason.studio.scope import StudioStore
from services import PostgresServer, _as_somebody, _find_binaries
from studio.kit import ACME, OTHER, people_in

pytestmark = pytest.mark.postgres


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own: roles belong to a whole server."""
    binaries = _find_binaries()
    assert binaries is not None, "run `make setup`"
    folder = Path(tempfile.mkdtemp(prefix="flowmason-roles-"))
    try:
        if _as_somebody():
            shutil.chown(folder, "postgres")
        made = PostgresServer(binaries, folder)
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_superuser(server: PostgresServer, *statements: str) -> None:
    import psycopg

    with psycopg.connect(server.url(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _owned(server: PostgresServer, user: str) -> str:
    """The URL, for a user, of a new database of theirs with our tables."""
    name = server.new_database()
    _as_superuser(server, f"ALTER DATABASE {name} OWNER TO {user}")
    url = normalise_url(server.url(name).replace("postgres@", f"{user}@"))
    open_tables(database(url)).close()
    return url


def test_the_role_is_asked_for_where_the_user_may_not_make_it_and_then_used(server: PostgresServer) -> None:
    _as_superuser(server, "CREATE ROLE plain LOGIN")
    url = _owned(server, "plain")
    with pytest.raises(EngineUnavailableError, match="flowmason_api cannot be made") as refused:
        ensure_api_role(url)
    assert BY_HAND[0] in (refused.value.failure.help or "")
    _as_superuser(server, "CREATE ROLE flowmason_api NOLOGIN", "GRANT flowmason_api TO plain")
    ensure_api_role(url)
    _walled(url)
    _as_superuser(server, "REVOKE flowmason_api FROM plain")
    with pytest.raises(EngineUnavailableError, match="cannot be made"):
        ensure_api_role(url)


def test_the_role_is_made_by_a_user_who_may_and_again_changes_nothing(server: PostgresServer) -> None:
    _as_superuser(server, "CREATE ROLE maker LOGIN CREATEROLE")
    url = _owned(server, "maker")
    ensure_api_role(url)
    ensure_api_role(url)
    _walled(url)


def _walled(url: str) -> None:
    """The API sees one org's rows, and not the other's, and may not touch what tells the tables' revision."""
    owner = StudioStore.open(url)
    people_in(owner, ACME, "acme")
    people_in(owner, OTHER, "other")
    owner.close()
    api = StudioStore.open(url, role="api")
    try:
        with api.scope(ACME, writing=False) as scope:
            seen = scope.system.execute(schema.members.select()).mappings().all()
            assert seen and {row["org_id"] for row in seen} == {ACME}
        with pytest.raises(Exception, match="permission denied"), api.system() as system:
            import sqlalchemy as sa

            system.execute(sa.text("UPDATE alembic_version SET version_num='9999'"))
    finally:
        api.close()
