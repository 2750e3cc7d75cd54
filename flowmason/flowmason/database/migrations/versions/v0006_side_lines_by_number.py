"""Lines beside a run in the order in which they came: what its followers ask for many times a second."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_index("side_lines_by_number", "side_lines", ["run_id", "number"])
