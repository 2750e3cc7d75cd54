"""Runs, their frames, commands, values and side lines; plans; conductors; idempotency keys.

Rows that belong to a run carry its `org_id`. Plans (shared by digest) and conductors (which walk the
runs of every org) belong to no org.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _run_id(*, key: bool = False) -> sa.Column[str]:
    cascade = sa.ForeignKey("runs.run_id", ondelete="CASCADE")
    return sa.Column("run_id", sa.Text, cascade, nullable=False, primary_key=key)


def _org_id() -> sa.Column[str]:
    return sa.Column("org_id", sa.Text, nullable=False)


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text, primary_key=True),
        _org_id(),
        sa.Column("plan_id", sa.Text, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("wake_at", sa.BigInteger),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("parent", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
    )
    # None of these columns changes with an ordinary append, so that it touches no index.
    op.create_index("runs_by_age", "runs", ["org_id", "created_at", "run_id"])
    op.create_index("runs_by_owner", "runs", ["owner"])
    waiting = sa.text("owner IS NULL AND status IN ('queued', 'running')")
    op.create_index("runs_waiting", "runs", ["priority", "created_at"], sqlite_where=waiting, postgresql_where=waiting)
    asleep = sa.text("wake_at IS NOT NULL")
    op.create_index("runs_asleep", "runs", ["wake_at"], sqlite_where=asleep, postgresql_where=asleep)

    op.create_table(
        "plans",
        sa.Column("plan_id", sa.Text, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "frames",
        _run_id(key=True),
        sa.Column("first_seq", sa.BigInteger, primary_key=True),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        _org_id(),
        sa.Column("written_at", sa.BigInteger, nullable=False),
        sa.Column("written_by", sa.Text, nullable=False),
        sa.Column("codec", sa.SmallInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "commands",
        sa.Column("number", _number, primary_key=True, autoincrement=True),
        sa.Column("command_id", sa.Text, nullable=False, unique=True),
        _run_id(),
        _org_id(),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("taken_seq", sa.BigInteger),
    )
    pending = sa.text("taken_seq IS NULL")
    op.create_index("commands_by_run", "commands", ["run_id"])
    op.create_index("commands_pending", "commands", ["run_id"], sqlite_where=pending, postgresql_where=pending)

    op.create_table(
        "conductors",
        sa.Column("conductor_id", sa.Text, primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "run_values",
        _run_id(key=True),
        sa.Column("digest", sa.Text, primary_key=True),
        _org_id(),
        sqlite_with_rowid=False,
    )
    op.create_index("run_values_by_digest", "run_values", ["digest"])
    op.create_table(
        "side_lines",
        sa.Column("number", _number, primary_key=True, autoincrement=True),
        _run_id(),
        _org_id(),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_index("side_lines_once", "side_lines", ["run_id", "kind", "path", "attempt", "n"], unique=True)
    op.create_table(
        "idempotency",
        sa.Column("org_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
    )
    op.create_index("idempotency_by_run", "idempotency", ["run_id"])
