"""Who may call: a credential is demanded, its role decides, and what is revoked ends within two seconds."""

from __future__ import annotations

from flowmason_serve_apps.studio.guard.callers import unguarded
from studio.kit import Studio


def test_every_route_demands_a_permission_or_is_known_to_be_open(studio: Studio) -> None:
    assert unguarded(studio.app) == []


def test_health_is_open(studio: Studio) -> None:
    assert studio.client.get("/health").json()["status"] == "healthy"
    assert studio.client.get("/api/v1/health").status_code == 200
