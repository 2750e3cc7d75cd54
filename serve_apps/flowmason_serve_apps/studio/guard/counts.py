"""Who is counted at the door, and how much they have.

A credential is counted as itself once this process has seen that somebody holds it, and with it its org. Until then it
is the address that is counted, as if nothing had been presented: whoever makes up tokens gets no more than whoever has
none, and is turned away before anything is looked up or computed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from starlette.datastructures import Headers
from starlette.types import Scope

from flowmason.ids import OrgId
from flowmason.limiter import Rate, Verdict
from flowmason.studio.identity.credentials import hashed
from flowmason.studio.identity.lockout import place
from flowmason_serve_apps.studio.guard.limiting import SharedLimiter
from flowmason_serve_apps.studio.settings import StudioSettings

SIGN_IN = frozenset(
    f"/api/v1/auth/{name}" for name in ("login", "refresh", "bootstrap", "password/forgot", "password/reset")
)
"""Where somebody who has not signed in shows a secret: these are closed where attempts cannot be counted."""
UNCOUNTED = frozenset({"/health", "/api/v1/health", "/-/healthz", "/-/routes"})
_MOST = 10_000
_ORG_TIMES = 5


class Counts:
    """Counts requests. One per process; lives on the event loop."""

    def __init__(self, settings: StudioSettings, limiter: SharedLimiter) -> None:
        self._limiter = limiter
        self._forwarded = settings.forwarded_header
        self._held: OrderedDict[str, OrgId] = OrderedDict()
        every = settings.requests_per_minute
        # A replica that counts alone must be able to allow one, so a burst has at least one for each.
        least = max(1, settings.replicas)
        of_org = settings.org_requests_per_minute or _ORG_TIMES * every
        self._of_credential = Rate(every, 60.0, max(least, every // 10))
        self._of_org = Rate(of_org, 60.0, max(least, of_org // 10))
        self._of_address = Rate(max(1, every // 10), 60.0, max(least, every // 20))
        self._of_sign_in = Rate(settings.sign_ins_per_minute, 60.0, max(least, settings.sign_ins_per_minute))

    async def take(self, scope: Scope, headers: Headers) -> Verdict | None:
        """Count a request; None where it is not counted. Raises `EngineUnavailableError` where nobody can count."""
        path = scope["path"]
        if path in UNCOUNTED:
            return None
        if path in SIGN_IN:
            return await self._limiter.take(f"{path}:{self._place(scope, headers)}", self._of_sign_in, strict=True)
        name = _name(headers)
        org = self._held.get(name) if name is not None else None
        if org is None:
            return await self._limiter.take(f"address:{self._place(scope, headers)}", self._of_address)
        own, all_of_org = await asyncio.gather(
            self._limiter.take(f"credential:{name}", self._of_credential),
            self._limiter.take(f"org:{org}", self._of_org),
        )
        if own.allowed is not all_of_org.allowed:
            return all_of_org if own.allowed else own
        wait_s = max(own.wait_s, all_of_org.wait_s)
        return Verdict(own.allowed, min(own.remaining, all_of_org.remaining), wait_s)

    def _place(self, scope: Scope, headers: Headers) -> str:
        # A subscriber of IPv6 has a whole network of addresses to come from.
        return place(address_of(scope, headers, self._forwarded))

    def learn(self, scope: Scope, headers: Headers, status: int) -> None:
        """Note whether somebody holds the credential of a request, now that it was answered with a status."""
        name = _name(headers)
        if name is None:
            return
        caller = scope.get("state", {}).get("caller")
        if caller is not None:
            self._held[name] = caller.org_id
            self._held.move_to_end(name)
            if len(self._held) > _MOST:
                self._held.popitem(last=False)
        elif status == 401:
            self._held.pop(name, None)


def address_of(scope: Scope, headers: Headers, forwarded: str | None) -> str:
    """Where a request comes from: whom our proxy names in the header `forwarded`, else the peer."""
    said = headers.getlist(forwarded) if forwarded is not None else []
    named = said[-1].rpartition(",")[2].strip() if said else ""
    return named or str(scope["client"][0] if scope.get("client") else "unknown")


def _name(headers: Headers) -> str | None:
    """What stands for the credential, which itself is never kept: names of subjects lie in Redis."""
    given = headers.get("authorization") or headers.get("x-api-key")
    return hashed(given)[:32] if given else None
