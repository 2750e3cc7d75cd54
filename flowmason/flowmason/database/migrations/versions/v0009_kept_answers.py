"""For how long an org is given kept answers of models; beside its limits, which every submission reads anyway."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("org_limits", sa.Column("kept_answers_s", sa.BigInteger, nullable=True))
