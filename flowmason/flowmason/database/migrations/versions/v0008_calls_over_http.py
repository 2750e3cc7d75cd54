"""Model calls that no run makes: who made them stands in the ledger, and what they hold of an org's budget of a day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def _text(name: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=False)


def upgrade() -> None:
    op.add_column("usage_ledger", sa.Column("caller", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "held_calls",
        _text("call_id", key=True),
        *(_text(name) for name in ("org_id", "owner", "caller", "provider", "model", "day")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("at", "nanodollars", "tokens")),
    )
    op.create_index("held_calls_by_owner", "held_calls", ["owner", "org_id"])
    op.create_index("held_calls_by_org", "held_calls", ["org_id"])
    if op.get_bind().dialect.name == "postgresql":
        mine = "org_id = current_setting('flowmason.org', true)"
        op.execute("ALTER TABLE held_calls ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY held_calls_of_org ON held_calls FOR SELECT USING ({mine})")
