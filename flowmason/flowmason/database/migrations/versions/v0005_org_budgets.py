"""What an org may spend a day, the slices of it that conductors hold, and what runs have reserved.

A slice's row is written by its conductor alone, a run's reservation by the owner of the run; what is given out is
counted under the lock of the org's budget. Nothing that starts a model call waits for that lock.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_MINE = "org_id = current_setting('flowmason.org', true)"


def _text(name: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=False)


def _number(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null)


def upgrade() -> None:
    op.create_table(
        "org_budgets", _text("org_id", key=True), _number("nanodollars", null=True), _number("tokens", null=True)
    )
    op.create_table(
        "budget_slices",
        *(_text(name, key=True) for name in ("org_id", "day", "owner")),
        *(_number(name) for name in ("free_nanodollars", "free_tokens", "spent_nanodollars", "spent_tokens")),
    )
    op.create_index("budget_slices_by_owner", "budget_slices", ["owner"])
    op.create_table(
        "run_reservations",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True),
        _text("org_id"),
        _number("nanodollars"),
        _number("tokens"),
    )
    op.create_index("run_reservations_by_org", "run_reservations", ["org_id"])
    if op.get_bind().dialect.name == "postgresql":
        for table in ("org_budgets", "budget_slices", "run_reservations"):
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            more = f" WITH CHECK ({_MINE})" if table == "org_budgets" else ""
            only = "" if table == "org_budgets" else " FOR SELECT"
            op.execute(f"CREATE POLICY {table}_of_org ON {table}{only} USING ({_MINE}){more}")
