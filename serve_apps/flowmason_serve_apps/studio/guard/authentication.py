"""Credentials to callers, with a short memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from flowmason.studio.identity import callers, tickets
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.credentials import API_KEY, hashed
from flowmason.studio.identity.refusals import Refusals
from flowmason.studio.identity.sessions import Sessions
from flowmason.studio.identity.signing import looks_like_token
from flowmason.studio.scope import StudioStore

log = logging.getLogger("flowmason.studio")

REMEMBERED_S = 2.0
"""For how long a process believes what it was told of a credential: a revoked one works no longer than this."""
_MOST = 10_000


class Authenticator:
    """Answers who holds a credential. One per process; lives on the event loop."""

    def __init__(
        self,
        store: StudioStore,
        now: Callable[[], int],
        sessions: Callable[[], Sessions],
        refusals: Refusals,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sessions` is asked once somebody comes with an access token; `refusals` is told of keys that are over."""
        self._store = store
        self._sessions = sessions
        self._refusals = refusals
        self._now = now
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    async def caller(self, credential: str, address: str) -> Caller:
        """Who holds a credential, which comes from `address`.

        Raises `UsageError` (UNAUTHENTICATED) if it is unknown, over or revoked.
        """
        name = hashed(credential)
        asked = self._monotonic()
        known = self._known.get(name)
        if known is not None and asked < known[1]:
            if known[0].expires_at is not None and known[0].expires_at <= self._now():
                raise callers.refused()
            return known[0]
        caller = await asyncio.to_thread(self._ask, credential, address)
        # Counted from before the question: what was revoked since is not believed for longer.
        self._known[name] = (caller, asked + REMEMBERED_S)
        self._known.move_to_end(name)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return caller

    async def by_ticket(self, ticket: str) -> Caller:
        """Who fetched a ticket, which is used up by it. Raises `UsageError` (UNAUTHENTICATED)."""
        return await asyncio.to_thread(tickets.redeem, self._store, ticket, self._now())

    async def renewed(self, caller: Caller) -> Caller:
        """The caller as they are now, for connections that live long. Raises `UsageError` (UNAUTHENTICATED)."""
        return await asyncio.to_thread(tickets.renewed, self._store, caller, self._now())

    def forget(self) -> None:
        """Believe nothing any more: called where this process itself changed who may what."""
        self._known.clear()

    def _ask(self, credential: str, address: str) -> Caller:
        if looks_like_token(credential):
            return self._sessions().caller(credential, address)
        if not credential.startswith(API_KEY):
            raise callers.refused()
        caller, due = callers.by_api_key(self._store, credential, self._now(), refusals=self._refusals, address=address)
        if due:
            callers.note_use(self._store, caller, self._now())
        return caller
