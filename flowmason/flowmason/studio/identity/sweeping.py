"""What is over and of no use any more: refresh tokens, tickets, revocations, resets, counts of failures."""

from __future__ import annotations

import sqlalchemy as sa

from flowmason.studio import schema
from flowmason.studio.identity import lockout, sessions
from flowmason.studio.scope import StudioStore


def sweep(store: StudioStore, now: int) -> int:
    """Delete what is over, in all orgs; returns how many rows. `store` must be the engine's, whom no wall binds."""
    tokens, ended = schema.refresh_tokens.c, schema.sessions.c
    failures, places = schema.login_failures.c, schema.login_places.c
    statements = [
        sa.delete(schema.refresh_tokens).where(tokens.expires_at <= now),
        sa.delete(schema.sessions).where(ended.expires_at <= now - sessions.REFRESH_MS),
        sa.delete(schema.tickets).where(schema.tickets.c.expires_at <= now),
        sa.delete(schema.revoked_tokens).where(schema.revoked_tokens.c.expires_at <= now),
        sa.delete(schema.password_resets).where(schema.password_resets.c.expires_at <= now),
        sa.delete(schema.login_failures).where(
            sa.func.coalesce(failures.locked_until, failures.first_at) <= now - lockout.FORGET_MS
        ),
        sa.delete(schema.login_places).where(places.seen_at <= now - lockout.KNOWN_MS),
    ]
    with store.system() as system:
        return sum(system.execute(statement).rowcount for statement in statements)
