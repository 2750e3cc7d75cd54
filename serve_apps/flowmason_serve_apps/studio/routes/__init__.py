"""The routes, one file a resource. A handler reads its body, calls the heart, and answers; nothing else."""

from __future__ import annotations

from fastapi import APIRouter

from flowmason_serve_apps.studio.routes import (
    auth,
    blobs,
    debugging,
    health,
    keys,
    looking,
    mcp,
    metrics,
    orgs,
    pipelines,
    registry,
    runs,
    secrets,
    sockets,
    storage,
    streams,
)

ROUTERS: tuple[APIRouter, ...] = (
    runs.router,
    auth.router,
    blobs.router,
    debugging.router,
    health.router,
    keys.router,
    orgs.router,
    looking.router,
    pipelines.router,
    registry.router,
    secrets.router,
    sockets.router,
    storage.router,
    streams.router,
)
"""Everything under `/api/v1`.

Routes are tried in this order, by Serve for its metrics and by FastAPI once more: what is asked most comes first.
"""
OUTSIDE: tuple[APIRouter, ...] = (health.router, mcp.router, metrics.router)
"""What is also found without that prefix."""
