"""`allow`: what a route demands of its caller. Every route has one, or stands in `OPEN`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.routing import BaseRoute

from flowmason.errors import Code, UsageError
from flowmason.studio.identity.callers import Caller, refused
from flowmason.studio.identity.permissions import Permission
from flowmason_serve_apps.studio.services import services_of

OPEN = frozenset(
    {
        "health",
        "auth_bootstrap",
        "auth_login",
        "auth_refresh",
        "password_forgot",
        "password_reset",
    }
)
"""Operation ids of the routes that ask for no credential."""
OPEN_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/api/v1/openapi.json"})

_bearer = HTTPBearer(auto_error=False, description="An API key (`fm_live_…`) or an access token.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key (`fm_live_…`).")
_CARRIERS = (b"authorization", b"x-api-key")
_TWO = "Two different credentials were given; give one."
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
Header = Annotated[str | None, Depends(_header)]


def allow(permission: Permission) -> Callable[..., Awaitable[Caller]]:
    """A dependency that gives the caller, if they have a permission.

    caller: Annotated[Caller, Depends(allow(Permission.RUNS_READ))]

    Answers 401 where nobody is known by the credential, 403 where they may not.
    """

    async def caller(request: Request, bearer: Bearer, header: Header) -> Caller:
        names = [name for name, _ in request.headers.raw]
        if any(names.count(each) > 1 for each in _CARRIERS):
            raise refused(_TWO)
        services = services_of(request)
        found = await services.authenticator.caller(_credential(bearer, header), services.address_of(request))
        request.state.caller = found  # for the log line and the span of the request, and for those who count
        require(found, permission)
        return found

    caller.permission = permission  # type: ignore[attr-defined]
    return caller


def require(caller: Caller, permission: Permission) -> None:
    """Raise `UsageError` (FORBIDDEN) unless the caller has a permission."""
    if not caller.may(permission):
        raise UsageError(
            f"this needs the permission {permission}, which you do not have",
            code=Code.FORBIDDEN,
            help=f"You are {caller.role} in this org"
            + (", and the scopes of your API key may allow less." if caller.key_id else "."),
        )


def permission_of(route: BaseRoute) -> Permission | None:
    """The permission that a route demands; None where it demands none."""
    if not isinstance(route, APIRoute | APIWebSocketRoute):
        return None
    for dependency in route.dependant.dependencies:
        permission = getattr(dependency.call, "permission", None)
        if isinstance(permission, Permission):
            return permission
    return None


def unguarded(app: FastAPI) -> list[str]:
    """The routes that neither demand a permission nor stand in `OPEN` or `OPEN_PATHS`."""
    from fastapi.routing import iter_route_contexts  # newer than the FastAPI that vLLM takes

    return [
        str(each.path)
        for each in iter_route_contexts(app.routes)
        if permission_of(each.original_route) is None
        and getattr(each.original_route, "operation_id", None) not in OPEN
        and each.path not in OPEN_PATHS
    ]


def _credential(bearer: HTTPAuthorizationCredentials | None, header: str | None) -> str:
    given = {each for each in (bearer.credentials if bearer else None, header) if each}
    if len(given) > 1:
        raise refused(_TWO)
    if not given:
        raise refused("This needs an API key or an access token.")
    return given.pop()
