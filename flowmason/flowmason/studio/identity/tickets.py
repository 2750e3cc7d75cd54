"""Tickets: a browser cannot send a header with a WebSocket, so it fetches a ticket first: good once, for 30 seconds."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity import callers, credentials
from flowmason.studio.identity.callers import Caller, refused
from flowmason.studio.identity.sessions import by_session
from flowmason.studio.scope import Scope, StudioStore

LIFE_MS = 30_000
_tickets = schema.tickets.c


def issue(store: StudioStore, caller: Caller, now: int) -> tuple[str, int]:
    """A ticket for the caller, and when it ends (milliseconds since the epoch)."""
    ticket = credentials.new(credentials.TICKET)
    with store.scope(caller.org_id) as scope:
        scope.remove(schema.tickets, _tickets.expires_at <= now)
        scope.add(
            schema.tickets,
            ticket_hash=credentials.hashed(ticket),
            caller=msgspec.json.encode(caller).decode(),
            expires_at=now + LIFE_MS,
        )
    return ticket, now + LIFE_MS


def redeem(store: StudioStore, ticket: str, now: int) -> Caller:
    """Who fetched a ticket, as they are now. Raises `UsageError` (UNAUTHENTICATED) if it is unknown, used or over."""
    digest = credentials.hashed(ticket)
    with store.system(token_hash=digest) as system:
        # Whoever deletes it has it: of two at once only one does.
        gone = sa.delete(schema.tickets).where(_tickets.ticket_hash == digest).returning(schema.tickets)
        found = system.execute(gone).mappings().first()
        caller = None if found is None else msgspec.json.decode(found["caller"], type=Caller)
        if caller is not None and found is not None and found["expires_at"] > now:
            return still(system.scope(OrgId(found["org_id"])), caller, now)
    raise refused()


def renewed(store: StudioStore, caller: Caller, now: int) -> Caller:
    """The caller as they are now: for connections that live long. Raises `UsageError` (UNAUTHENTICATED)."""
    with store.scope(caller.org_id, writing=False) as scope:
        return still(scope, caller, now)


def still(scope: Scope, caller: Caller, now: int) -> Caller:
    """`renewed` inside a transaction."""
    if caller.key_id is not None:
        return callers.by_key_id(scope, caller.key_id, now)
    if caller.session_id is None or caller.token_id is None:
        raise refused()
    return by_session(scope, caller.session_id, caller.user_id, caller.token_id, caller.expires_at, now)
