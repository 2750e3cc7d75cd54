"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

from hypothesis import settings

from services import postgres_server, postgres_url

# On a busy machine any example may take a second: that says nothing about the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

__all__ = ["postgres_server", "postgres_url"]
