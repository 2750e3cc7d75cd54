"""The ledger of model calls. Its rows outlive the runs that they tell of, so they hang on none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str, *, key: bool = False, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=key, nullable=null)


def upgrade() -> None:
    op.create_table(
        "usage_ledger",
        sa.Column("run_id", sa.Text, primary_key=True),
        _number("seq", key=True),
        _number("n", key=True),
        *(_text(name) for name in ("org_id", "day")),
        _number("at"),
        *(_text(name) for name in ("pipeline", "path")),
        _number("attempt"),
        *(_text(name) for name in ("provider", "model", "outcome")),
        *(_number(name) for name in ("input_tokens", "output_tokens", "cached_tokens")),
        _number("cost_nanodollars", null=True),
        _text("prices"),
        _number("estimated"),
    )
    op.create_index("usage_ledger_by_day", "usage_ledger", ["org_id", "day"])
    if op.get_bind().dialect.name == "postgresql":
        mine = "org_id = current_setting('flowmason.org', true)"
        op.execute("ALTER TABLE usage_ledger ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY usage_ledger_of_org ON usage_ledger USING ({mine}) WITH CHECK ({mine})")
