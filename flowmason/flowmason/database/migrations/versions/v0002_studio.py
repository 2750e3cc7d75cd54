"""The Studio: orgs and people, keys and tokens, pipelines, packages, secrets, audit; and the second wall between orgs.

On PostgreSQL every table that has an `org_id`, those of the runs included, gets row-level security: a row is seen
only by a transaction whose `flowmason.org` is the row's. The owner of the tables (which migrates, and serves
conductors, whose commits mix orgs) is not bound by it. `flowmason.key_hash`, `flowmason.user` and
`flowmason.token_hash` open the one row that somebody who signs in presents the proof of.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OF_RUNS = ("runs", "frames", "commands", "run_values", "side_lines", "idempotency")
_PROOFS = {
    "api_keys": "key_hash = current_setting('flowmason.key_hash', true)",
    "members": "user_id = current_setting('flowmason.user', true)",
    "orgs": "org_id IN (SELECT m.org_id FROM members m WHERE m.user_id = current_setting('flowmason.user', true))",
    "sessions": "user_id = current_setting('flowmason.user', true)",
    "refresh_tokens": "token_hash = current_setting('flowmason.token_hash', true)",
    "tickets": "ticket_hash = current_setting('flowmason.token_hash', true)",
}


def _text(name: str, *, key: bool = False, null: bool = False, unique: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=null, unique=unique or None)


def _number(name: str, *, key: bool = False, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=key, nullable=null)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def upgrade() -> None:
    op.create_table(
        "orgs",
        _text("org_id", key=True),
        _text("name"),
        _text("slug", unique=True),
        _text("plan"),
        _text("settings"),
        _number("created_at"),
    )
    op.create_table(
        "org_limits",
        _text("org_id", key=True),
        _number("max_concurrent_runs", null=True),
        _number("max_queued_runs", null=True),
        _number("weight"),
    )
    _people()
    _pipelines()
    op.create_table(
        "audit_log",
        _text("org_id", key=True),
        _number("number", key=True),
        _text("audit_id", unique=True),
        _number("at"),
        *(_text(name) for name in ("actor", "action", "resource_type", "resource_id", "details")),
        _text("previous_hash"),
        _text("hash"),
    )
    _indexes_of_claims()
    if op.get_bind().dialect.name == "postgresql":
        _row_level_security()


def _indexes_of_claims() -> None:
    """Waiting runs org by org, in the order in which an org's runs are claimed; held ones by who holds them."""
    op.drop_index("runs_waiting", "runs")
    op.drop_index("runs_by_owner", "runs")
    waiting = sa.text("owner IS NULL AND status IN ('queued', 'running') AND wake_at IS NULL")
    columns: list[str | sa.TextClause] = [
        "org_id",
        sa.text("status DESC"),
        sa.text("priority DESC"),
        "created_at",
        "run_id",
    ]
    op.create_index("runs_waiting", "runs", columns, sqlite_where=waiting, postgresql_where=waiting)
    held = sa.text("owner IS NOT NULL")
    op.create_index("runs_held", "runs", ["owner", "org_id"], sqlite_where=held, postgresql_where=held)


def _people() -> None:
    op.create_table(
        "users",
        _text("user_id", key=True),
        _text("email", unique=True),
        _text("name"),
        _text("password_hash", null=True),
        _number("created_at"),
        _number("disabled_at", null=True),
    )
    op.create_table(
        "members",
        _text("member_id", key=True),
        _text("org_id"),
        _text("user_id"),
        _text("role"),
        _number("created_at"),
        sa.UniqueConstraint("org_id", "user_id", name="members_once"),
    )
    op.create_index("members_by_user", "members", ["user_id"])
    op.create_table(
        "api_keys",
        _text("key_id", key=True),
        _text("org_id"),
        _text("user_id"),
        _text("name"),
        _text("prefix"),
        _text("key_hash", unique=True),
        _text("scopes"),
        _text("role"),
        _number("created_at"),
        _number("expires_at", null=True),
        _number("last_used_at", null=True),
        _number("revoked_at", null=True),
        _text("revoke_reason", null=True),
        _text("replaces", null=True),
    )
    op.create_index("api_keys_by_org", "api_keys", ["org_id"])
    op.create_table(
        "sessions",
        _text("session_id", key=True),
        _text("org_id"),
        _text("user_id"),
        _number("created_at"),
        _number("expires_at"),
        _number("ended_at", null=True),
        _text("end_reason", null=True),
    )
    op.create_index("sessions_by_user", "sessions", ["user_id"])
    op.create_table(
        "refresh_tokens",
        _text("token_hash", key=True),
        *(_text(name) for name in ("session_id", "org_id", "user_id")),
        _number("created_at"),
        _number("expires_at"),
        _number("used_at", null=True),
    )
    op.create_index("refresh_tokens_by_session", "refresh_tokens", ["session_id"])
    op.create_index("refresh_tokens_by_expiry", "refresh_tokens", ["expires_at"])
    op.create_table("tickets", _text("ticket_hash", key=True), _text("org_id"), _text("caller"), _number("expires_at"))
    op.create_table("revoked_tokens", _text("token_id", key=True), _number("expires_at"))
    op.create_table(
        "password_resets",
        _text("token_hash", key=True),
        _text("user_id"),
        _number("created_at"),
        _number("expires_at"),
        _number("used_at", null=True),
    )
    op.create_index("password_resets_by_user", "password_resets", ["user_id"])
    op.create_table(
        "login_failures",
        _text("subject", key=True),
        _number("count"),
        _number("first_at"),
        _number("locked_until", null=True),
    )
    op.create_table("login_places", _text("user_id", key=True), _text("place", key=True), _number("seen_at"))
    op.create_table(
        "signing_keys",
        _text("key_id", key=True),
        _bytes("sealed_private"),
        _text("public"),
        _number("created_at"),
        _number("retired_at", null=True),
    )
    op.create_table(
        "bootstrap_tokens", _text("token_hash", key=True), _number("created_at"), _number("used_at", null=True)
    )


def _pipelines() -> None:
    op.create_table(
        "pipelines",
        _text("pipeline_id", key=True),
        *(_text(name) for name in ("org_id", "name", "version", "description")),
        _text("category", null=True),
        _text("tags"),
        _text("status"),
        _number("revision"),
        _text("document"),
        _text("digest"),
        _text("last_test_run_id", null=True),
        _text("created_by"),
        _number("created_at"),
        _number("updated_at"),
        _number("published_at", null=True),
        _text("published_version", null=True),
        sa.UniqueConstraint("org_id", "name", name="pipelines_by_name"),
    )
    op.create_table(
        "pipeline_versions",
        _text("org_id", key=True),
        _text("pipeline_id", key=True),
        _number("revision"),
        _text("version", key=True),
        _text("document"),
        _text("digest"),
        _text("created_by"),
        _number("created_at"),
        _number("published_at", null=True),
    )
    op.create_table(
        "packages",
        _text("package_id", key=True),
        *(_text(name) for name in ("org_id", "name", "version", "digest", "manifest")),
        _bytes("data"),
        _number("size"),
        _text("uploaded_by"),
        _number("uploaded_at"),
        sa.UniqueConstraint("org_id", "name", "version", name="packages_once"),
    )
    op.create_table(
        "secrets",
        _text("org_id", key=True),
        _text("name", key=True),
        _number("version", key=True),
        _text("secret_id"),
        _text("key_id"),
        _bytes("sealed"),
        _text("created_by"),
        _number("created_at"),
        sa.UniqueConstraint("secret_id", "version", name="secrets_by_id"),
    )


def _row_level_security() -> None:
    own = (
        "orgs", "org_limits", "members", "api_keys", "sessions", "refresh_tokens", "tickets", "pipelines",
        "pipeline_versions", "packages", "secrets", "audit_log",
    )  # fmt: skip
    for table in (*own, *_OF_RUNS):
        mine = "org_id = current_setting('flowmason.org', true)"
        proof = f" OR {_PROOFS[table]}" if table in _PROOFS else ""
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        # Somebody who proved who they are ends their own sessions in every org; nothing else is written by a proof.
        written = f"{mine}{proof}" if table == "sessions" else mine
        op.execute(f"CREATE POLICY {table}_of_org ON {table} USING ({mine}{proof}) WITH CHECK ({written})")
