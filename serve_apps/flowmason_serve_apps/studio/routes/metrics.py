"""Figures for Prometheus: those of the caller's org, or, by the operator's token, of all."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.permissions import Permission
from flowmason_serve_apps.studio.guard.callers import Bearer, Header, allow
from flowmason_serve_apps.studio.services import services_of
from flowmason_serve_apps.studio.watching.exposition import CONTENT_TYPE

router = APIRouter(tags=["health"])
_known = allow(Permission.STATS_READ)


async def _reader(request: Request, bearer: Bearer, header: Header) -> Caller | None:
    """The caller; None: the operator, by FLOWMASON_METRICS_TOKEN."""
    token = services_of(request).settings.metrics_token
    if token and bearer is not None and hmac.compare_digest(bearer.credentials.encode(), token.encode()):
        return None
    return await _known(request, bearer, header)


_reader.permission = Permission.STATS_READ  # type: ignore[attr-defined]


@router.get("/metrics", operation_id="metrics")
async def metrics(request: Request, caller: Annotated[Caller | None, Depends(_reader)]) -> Response:
    """Figures of runs, the same from every replica; the operator also gets those of this replica's requests."""
    state = request.app.state
    org = None if caller is None else caller.org_id
    requests = state.requests.registry if caller is None else None
    text = await state.exposition.text(services_of(request), org, requests)
    return Response(text, media_type=CONTENT_TYPE)
