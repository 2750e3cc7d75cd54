"""Runs of all orgs by their age: whoever scrapes the figures of a day reads that day's runs alone."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_index("runs_recent", "runs", ["created_at"])
