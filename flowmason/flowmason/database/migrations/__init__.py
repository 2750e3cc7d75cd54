"""The Alembic tree of every table that FlowMason keeps. Revisions are never edited once released."""
