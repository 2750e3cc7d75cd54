"""Who opens a WebSocket: by the header of a credential, or by a ticket that was fetched with one."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import WebSocket

from flowmason.errors import Code, Failure, FlowMasonError, UsageError
from flowmason.studio.identity.callers import Caller, refused
from flowmason.studio.identity.permissions import Permission
from flowmason_serve_apps.studio.guard.callers import require
from flowmason_serve_apps.studio.services import Services

PROTOCOL = "flowmason"
"""The subprotocol; what follows `flowmason.ticket.` in another one that is offered is a ticket."""
_TICKET = f"{PROTOCOL}.ticket."


async def runs_socket(websocket: WebSocket) -> Caller | Failure:
    """Who opens the socket, or why they may not: an answer is the handler's to give."""
    try:
        check_origin(websocket)
        caller = await _caller(websocket, websocket.app.state.services)
        websocket.state.caller = caller
        require(caller, Permission.RUNS_READ)
        return caller
    except FlowMasonError as error:
        return error.failure


runs_socket.permission = Permission.RUNS_READ  # type: ignore[attr-defined]


def check_origin(websocket: WebSocket) -> None:
    """Browsers say whose page asks, and let any page ask: only known ones may. Raises `UsageError` (FORBIDDEN)."""
    origin = websocket.headers.get("origin")
    settings = websocket.app.state.services.settings
    own = urlsplit(settings.public_url)
    if origin is None or origin in (*settings.cors_origins, f"{own.scheme}://{own.netloc}"):
        return
    raise UsageError(
        f"pages of {origin[:200]} may not connect",
        code=Code.FORBIDDEN,
        help="The operator lists the origins that may in FLOWMASON_CORS_ORIGINS.",
    )


def offered(websocket: WebSocket) -> list[str]:
    """The subprotocols that the client offers."""
    return [str(name) for name in websocket.scope.get("subprotocols", [])]


async def _caller(websocket: WebSocket, services: Services) -> Caller:
    kind, _, bearer = websocket.headers.get("authorization", "").partition(" ")
    given = {("header", bearer.strip())} if kind.lower() == "bearer" and bearer.strip() else set()
    if key := websocket.headers.get("x-api-key"):
        given.add(("header", key))
    if ticket := websocket.query_params.get("ticket"):
        given.add(("ticket", ticket))
    given |= {("ticket", name[len(_TICKET) :]) for name in offered(websocket) if name.startswith(_TICKET)}
    if len(given) > 1:
        raise refused("Two different credentials were given; give one.")
    if not given:
        raise refused("This needs an API key or an access token, or a ticket from POST /ws/tickets.")
    kind, credential = given.pop()
    if kind == "ticket":
        return await services.authenticator.by_ticket(credential)
    return await services.authenticator.caller(credential, services.address_of(websocket))
