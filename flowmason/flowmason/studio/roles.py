"""The role of the API on PostgreSQL: it may read and write rows, of the org that its transaction names, and no more.

The user of `DATABASE_URL` (`flowmason_engine` in docs/studio.md) owns the tables, and row-level security does not bind
an owner. The API logs in as that user and at once takes on `flowmason_api`, whom it binds.
"""

from __future__ import annotations

from flowmason.database.connections import API_ROLE
from flowmason.database.opening import database
from flowmason.errors import EngineUnavailableError, FlowMasonError

BY_HAND = (
    f"CREATE ROLE {API_ROLE} NOLOGIN",
    f"GRANT {API_ROLE} TO CURRENT_USER",
)
"""What only a user with CREATEROLE (or a superuser) may do; once per server, and once per user."""
APPEND_ONLY = ("audit_log", "frames", "plans", "run_values")
"""What the API adds to and reads, and never changes: rows of runs that are deleted go by the run's own row."""
READ_ONLY = (
    "alembic_version", "budget_slices", "conductors", "held_calls", "run_reservations", "side_lines", "usage_ledger",
)  # fmt: skip
"""What only the owner writes."""
GRANTS = (
    f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {API_ROLE}",
    f"GRANT USAGE ON SCHEMA public TO {API_ROLE}",
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {API_ROLE}",
    f"REVOKE UPDATE, DELETE ON {', '.join(APPEND_ONLY)} FROM {API_ROLE}",
    f"REVOKE INSERT, UPDATE, DELETE ON {', '.join(READ_ONLY)} FROM {API_ROLE}",
    # A version that is kept never changes; which one is published does.
    f"REVOKE UPDATE ON pipeline_versions FROM {API_ROLE}",
    f"GRANT UPDATE (published_at) ON pipeline_versions TO {API_ROLE}",
    f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {API_ROLE}",
)
"""What the owner of the tables may do; in one transaction, and again after every migration."""


def ensure_api_role(url: str) -> None:
    """Make the role and have it see the tables, which are there. Nothing to do on SQLite.

    Raises `EngineUnavailableError` where the role is missing and this user may not make it.
    """
    if url.startswith("sqlite"):
        return
    place = database(url)
    connection = place.connect()
    try:
        found = connection.run("SELECT 1 FROM pg_roles WHERE rolname=?", (API_ROLE,)).fetchall()
        if not found:
            connection.run(BY_HAND[0])
        member = "SELECT pg_has_role(current_user, ?, 'MEMBER')"
        if not connection.run(member, (API_ROLE,)).fetchall()[0][0]:
            connection.run(BY_HAND[1])
        # In one transaction: at no time does the API have more, or nothing.
        connection.begin(durable=True)
        try:
            for statement in GRANTS:
                connection.run(statement)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
    except FlowMasonError:
        raise
    except Exception as error:
        raise EngineUnavailableError(
            f"the database role {API_ROLE} cannot be made: {str(error).splitlines()[0]}",
            help=f"Have somebody who may run: {'; '.join(BY_HAND)} (CURRENT_USER is the user of DATABASE_URL).",
        ) from error
    finally:
        connection.close()
