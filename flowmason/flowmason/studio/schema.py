"""The Studio's tables, as SQLAlchemy sees them. They are made by `database/migrations`; a test holds the two together.

Times are milliseconds since the epoch. A table with a column `org_id` is an org's own: it is reached through a
`Scope` only, and PostgreSQL guards it by row-level security. The others belong to no org.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()


def _text(name: str, *, key: bool = False, null: bool = False, unique: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=null, unique=unique or None)


def _time(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null)


def _count(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null)


orgs = sa.Table(
    "orgs",
    metadata,
    _text("org_id", key=True),
    _text("name"),
    _text("slug", unique=True),
    _text("plan"),
    _text("settings"),
    _time("created_at"),
)
org_limits = sa.Table(
    "org_limits",
    metadata,
    _text("org_id", key=True),
    _count("max_concurrent_runs", null=True),
    _count("max_queued_runs", null=True),
    _count("weight"),
    _count("kept_answers_s", null=True),
)
org_budgets = sa.Table(
    "org_budgets",
    metadata,
    _text("org_id", key=True),
    _count("nanodollars", null=True),
    _count("tokens", null=True),
)
members = sa.Table(
    "members",
    metadata,
    _text("member_id", key=True),
    _text("org_id"),
    _text("user_id"),
    _text("role"),
    _time("created_at"),
    sa.UniqueConstraint("org_id", "user_id", name="members_once"),
)
api_keys = sa.Table(
    "api_keys",
    metadata,
    _text("key_id", key=True),
    _text("org_id"),
    _text("user_id"),
    _text("name"),
    _text("prefix"),
    _text("key_hash", unique=True),
    _text("scopes"),
    _text("role"),
    _time("created_at"),
    _time("expires_at", null=True),
    _time("last_used_at", null=True),
    _time("revoked_at", null=True),
    _text("revoke_reason", null=True),
    _text("replaces", null=True),
)
pipelines = sa.Table(
    "pipelines",
    metadata,
    _text("pipeline_id", key=True),
    _text("org_id"),
    _text("name"),
    _text("version"),
    _text("description"),
    _text("category", null=True),
    _text("tags"),
    _text("status"),
    _count("revision"),
    _text("document"),
    _text("digest"),
    _text("last_test_run_id", null=True),
    _text("created_by"),
    _time("created_at"),
    _time("updated_at"),
    _time("published_at", null=True),
    _text("published_version", null=True),
    sa.UniqueConstraint("org_id", "name", name="pipelines_by_name"),
)
pipeline_versions = sa.Table(
    "pipeline_versions",
    metadata,
    _text("org_id", key=True),
    _text("pipeline_id", key=True),
    _count("revision"),
    _text("version", key=True),
    _text("document"),
    _text("digest"),
    _text("created_by"),
    _time("created_at"),
    _time("published_at", null=True),
)
packages = sa.Table(
    "packages",
    metadata,
    _text("package_id", key=True),
    _text("org_id"),
    _text("name"),
    _text("version"),
    _text("digest"),
    _text("manifest"),
    sa.Column("data", sa.LargeBinary, nullable=False),
    _count("size"),
    _text("uploaded_by"),
    _time("uploaded_at"),
    sa.UniqueConstraint("org_id", "name", "version", name="packages_once"),
)
secrets = sa.Table(
    "secrets",
    metadata,
    _text("org_id", key=True),
    _text("name", key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, nullable=False),
    _text("secret_id"),
    _text("key_id"),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    _text("created_by"),
    _time("created_at"),
    sa.UniqueConstraint("secret_id", "version", name="secrets_by_id"),
)
audit_log = sa.Table(
    "audit_log",
    metadata,
    _text("org_id", key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, nullable=False),
    _text("audit_id", unique=True),
    _time("at"),
    _text("actor"),
    _text("action"),
    _text("resource_type"),
    _text("resource_id"),
    _text("details"),
    _text("previous_hash"),
    _text("hash"),
)
tickets = sa.Table(
    "tickets",
    metadata,
    _text("ticket_hash", key=True),
    _text("org_id"),
    _text("caller"),
    _time("expires_at"),
)
sessions = sa.Table(
    "sessions",
    metadata,
    _text("session_id", key=True),
    _text("org_id"),
    _text("user_id"),
    _time("created_at"),
    _time("expires_at"),
    _time("ended_at", null=True),
    _text("end_reason", null=True),
)
refresh_tokens = sa.Table(
    "refresh_tokens",
    metadata,
    _text("token_hash", key=True),
    _text("session_id"),
    _text("org_id"),
    _text("user_id"),
    _time("created_at"),
    _time("expires_at"),
    _time("used_at", null=True),
)

# -- what belongs to no org ---------------------------------------------------------------------

users = sa.Table(
    "users",
    metadata,
    _text("user_id", key=True),
    _text("email", unique=True),
    _text("name"),
    _text("password_hash", null=True),
    _time("created_at"),
    _time("disabled_at", null=True),
)
revoked_tokens = sa.Table("revoked_tokens", metadata, _text("token_id", key=True), _time("expires_at"))
password_resets = sa.Table(
    "password_resets",
    metadata,
    _text("token_hash", key=True),
    _text("user_id"),
    _time("created_at"),
    _time("expires_at"),
    _time("used_at", null=True),
)
login_failures = sa.Table(
    "login_failures",
    metadata,
    _text("subject", key=True),
    _count("count"),
    _time("first_at"),
    _time("locked_until", null=True),
)
login_places = sa.Table(
    "login_places",
    metadata,
    _text("user_id", key=True),
    _text("place", key=True),
    _time("seen_at"),
)
signing_keys = sa.Table(
    "signing_keys",
    metadata,
    _text("key_id", key=True),
    sa.Column("sealed_private", sa.LargeBinary, nullable=False),
    _text("public"),
    _time("created_at"),
    _time("retired_at", null=True),
)
bootstrap_tokens = sa.Table(
    "bootstrap_tokens", metadata, _text("token_hash", key=True), _time("created_at"), _time("used_at", null=True)
)

TENANT = tuple(table for table in metadata.sorted_tables if "org_id" in table.c)
"""The tables of which every row is one org's."""
