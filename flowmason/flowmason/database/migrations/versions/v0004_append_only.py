"""What the API only adds to, and what it only reads: on PostgreSQL row-level security says so too.

An entry of the audit log and a frame of a journal, once written, are there for the API to read: policies of their own
for reading and adding leave none by which it could change or delete one. The ledger and the side lines are written by
conductors alone. The owner of the tables is not bound by any of it.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

_MINE = "org_id = current_setting('flowmason.org', true)"
_ADDED_TO = ("audit_log", "frames")
_READ = ("side_lines", "usage_ledger")
_ROLE = "flowmason_api"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in (*_ADDED_TO, *_READ):
        op.execute(f"DROP POLICY {table}_of_org ON {table}")
        op.execute(f"CREATE POLICY {table}_read ON {table} FOR SELECT USING ({_MINE})")
        if table in _ADDED_TO:
            op.execute(f"CREATE POLICY {table}_added ON {table} FOR INSERT WITH CHECK ({_MINE})")
    # The role may be there from an earlier start, with more rights than it has now (`studio/roles.py`).
    op.execute(
        f"DO $$ BEGIN IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{_ROLE}') THEN "
        f"REVOKE UPDATE, DELETE, TRUNCATE ON {', '.join((*_ADDED_TO, *_READ))} FROM {_ROLE}; END IF; END $$"
    )
