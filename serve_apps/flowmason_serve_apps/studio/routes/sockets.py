"""The WebSocket of runs: many runs over one connection, and commands to them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, WebSocket

from flowmason.errors import Code, Failure, Retry
from flowmason.studio.identity.callers import Caller
from flowmason_serve_apps.studio import problems
from flowmason_serve_apps.studio.guard.sockets import PROTOCOL, offered, runs_socket
from flowmason_serve_apps.studio.run_socket import RunSocket

router = APIRouter(tags=["streams"])
MOST_SOCKETS = 200
"""Sockets that one user has open at once, in one process."""


@router.websocket("/ws/runs", name="runs_socket")
async def runs(websocket: WebSocket, found: Annotated[Caller | Failure, Depends(runs_socket)]) -> None:
    """Follow runs and steer them, until either side closes."""
    services = websocket.app.state.services
    if isinstance(found, Caller) and services.sockets[found.user_id] >= MOST_SOCKETS:
        found = Failure(
            code=Code.RATE_LIMITED,
            message=f"at most {MOST_SOCKETS} sockets of one user are open here",
            retry=Retry.AFTER,
            retry_after_ms=5_000,
        )
    if isinstance(found, Failure):
        await websocket.send_denial_response(problems.of_failure(found, websocket.url.path))
        return
    services.sockets[found.user_id] += 1
    try:
        await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered(websocket) else None)
        await RunSocket(websocket, services, found, older=websocket.query_params.get("compat") == "1").serve()
    finally:
        services.sockets[found.user_id] -= 1
        if not services.sockets[found.user_id]:
            del services.sockets[found.user_id]
