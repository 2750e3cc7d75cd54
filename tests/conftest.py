"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

from services import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]
