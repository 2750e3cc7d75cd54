"""The second wall on PostgreSQL, as somebody meets it who got hold of the API's own connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from flowmason.database import database, normalise_url
from flowmason.database.connections import API_ROLE
from flowmason.journal_sql.store import open_tables
from flowmason.studio.roles import APPEND_ONLY, READ_ONLY, ensure_api_role
from studio.kit import ACME, OTHER

pytestmark = pytest.mark.postgres

Connection = psycopg.Connection[Any]


@pytest.fixture
def owner(postgres_url: str) -> Iterator[Connection]:
    """The owner's connection to a database in which each of two orgs has one row in every table of orgs."""
    open_tables(database(normalise_url(postgres_url))).close()
    ensure_api_role(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for org in (ACME, OTHER):
            _fill(connection, org)
        yield connection


@pytest.fixture
def api(owner: Connection, postgres_url: str) -> Iterator[Connection]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"SET ROLE {API_ROLE}".encode())
        yield connection


def _tables(owner: Connection) -> list[str]:
    """Every table with an `org_id`; the runs first, which others point to."""
    rows = owner.execute(
        "SELECT table_name FROM information_schema.columns WHERE column_name='org_id' AND table_schema='public'"
    ).fetchall()
    return sorted((row[0] for row in rows), key=lambda name: (name != "runs", name))


def _columns(owner: Connection, table: str) -> list[tuple[str, str]]:
    """Names and types of the columns that an insert must give."""
    return owner.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name=%s AND table_schema='public'"
        " AND is_nullable='NO' AND column_default IS NULL ORDER BY ordinal_position",
        (table,),
    ).fetchall()


def _row(owner: Connection, table: str, org: str, mark: str) -> tuple[bytes, list[Any]]:
    """An INSERT of a row of an org that meets no other row; runs are called as their org is."""
    values: dict[str, Any] = {}
    for name, kind in _columns(owner, table):
        values[name] = {"text": f"{mark}-{name}", "bytea": b"x"}.get(kind, abs(hash(mark)) % 10_000)
    values["org_id"] = org
    if "run_id" in values:
        values["run_id"] = f"{mark}-run" if table == "runs" else f"{org}-run"
    names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    return f"INSERT INTO {table} ({names}) VALUES ({marks})".encode(), list(values.values())


def _fill(owner: Connection, org: str) -> None:
    for table in _tables(owner):
        owner.execute(*_row(owner, table, org, org))


def _bound(api: Connection, org: str) -> None:
    api.execute("SELECT set_config('flowmason.org', %s, false)", (org,))


def _refused(api: Connection, statement: str) -> bool:
    try:
        api.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_what_is_only_added_to_is_neither_changed_nor_deleted_nor_emptied(owner: Connection, api: Connection) -> None:
    _bound(api, ACME)
    for table in (*APPEND_ONLY, *READ_ONLY):
        column = owner.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name=%s AND table_schema='public'", (table,)
        ).fetchall()[0][0]
        for statement in (f"UPDATE {table} SET {column}={column}", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            assert _refused(api, statement), statement
    assert _refused(api, "UPDATE pipeline_versions SET document='{}'")
    api.execute("UPDATE pipeline_versions SET published_at=1")
    for table in _tables(owner):
        assert _refused(api, f"TRUNCATE {table} CASCADE"), table
        # What is read as empty without the right to delete would prove nothing: it is still there.
        assert owner.execute(f"SELECT count(*) FROM {table}".encode()).fetchall() == [(2,)], table


def test_rights_that_were_given_by_hand_do_not_open_the_audit_log(owner: Connection, api: Connection) -> None:
    owner.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {API_ROLE}".encode())
    _bound(api, ACME)
    for table in ("audit_log", "frames", "usage_ledger", "side_lines"):
        assert api.execute(f"DELETE FROM {table}".encode()).rowcount == 0, table
        assert api.execute(f"UPDATE {table} SET org_id=org_id".encode()).rowcount == 0, table
        assert owner.execute(f"SELECT count(*) FROM {table}".encode()).fetchall() == [(2,)], table


def test_no_table_of_orgs_shows_or_takes_anything_of_another_org(owner: Connection, api: Connection) -> None:
    tables = _tables(owner)
    assert {"runs", "audit_log", "secrets", "usage_ledger", "packages"} <= set(tables)
    for bound in ("", "org_nobody", ACME):
        _bound(api, bound)
        seen = {bound} & {ACME}
        for table in tables:
            found = {row[0] for row in api.execute(f"SELECT org_id FROM {table}".encode()).fetchall()}
            assert found == seen, (table, bound)
            for statement in (f"UPDATE {table} SET org_id=%s WHERE org_id=%s", f"DELETE FROM {table} WHERE org_id<>%s"):
                given = (ACME,) if "DELETE" in statement else (ACME, OTHER)
                try:
                    assert api.execute(statement.encode(), given).rowcount == 0, (table, statement)
                except psycopg.errors.InsufficientPrivilege:
                    pass
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                api.execute(*_row(owner, table, OTHER, f"new-{bound}"))
    _bound(api, ACME)
    for table in tables:
        # Nor is a row of one's own given away.
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            api.execute(f"UPDATE {table} SET org_id=%s".encode(), (OTHER,))
    for table in tables:
        assert owner.execute(f"SELECT count(*) FROM {table} WHERE org_id=%s".encode(), (OTHER,)).fetchall() == [(1,)]
