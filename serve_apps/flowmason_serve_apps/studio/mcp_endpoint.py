"""The Studio as an MCP server: the heart's five tools over streamable HTTP, behind the door of the API.

A tool asks this very application's API, in this process, with the credential of the request that called it. So rights,
scopes, limits, the audit log and errors are those of the API, and there is one implementation of each. No session is
kept: any replica answers any request.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flowmason.errors import Code, EngineUnavailableError, UsageError
from flowmason.mcp.studio import StudioOrg
from flowmason.remote.client import refusal

_PREFIX = "/api/v1"
_HANDED_ON = ("authorization", "x-api-key", "host", "user-agent")
_NOBODY = ("127.0.0.1", 0)


class Endpoint:
    """Answers requests while `running`. Without the SDK every request is refused by name."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._manager: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the application runs. May be entered again after it was left."""
        if importlib.util.find_spec("mcp") is None:
            yield
            return
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        from flowmason.mcp.server import make_server

        def offered(ctx: Any) -> StudioOrg:
            return StudioOrg(_Api(self._app, ctx.request_context.request))

        server = make_server(offered)
        # Hosts, origins and sizes are looked at by the door and by `answer`.
        self._manager = StreamableHTTPSessionManager(server._lowlevel_server, stateless=True)
        async with self._manager.run():
            yield
        self._manager = None

    def answer(self, request: Request) -> Response:
        """The answer to a request whose caller is known. Raises `UsageError` for a page of an unknown origin, and
        `EngineUnavailableError` without the SDK."""
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._app.state.services.settings.cors_origins:
            raise UsageError("pages of this origin may not ask", code=Code.FORBIDDEN)
        if self._manager is None:
            raise EngineUnavailableError(
                "this Studio does not speak MCP: a package is not installed", help='pip install "flowmason[mcp]"'
            )
        return _Handed(self._manager)


class _Handed(Response):
    """A response that the SDK writes."""

    def __init__(self, manager: Any) -> None:
        super().__init__()
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)


class _Api:
    """`flowmason.mcp.studio.Ask`: the API in this process, as the caller of a request."""

    def __init__(self, app: FastAPI, request: Request) -> None:
        self._app = app
        proxy = app.state.services.settings.forwarded_header
        names = (*_HANDED_ON, *((proxy,) if proxy is not None else ()))
        self._headers = {name: request.headers[name] for name in names if name in request.headers}
        self._client = (request.client.host, request.client.port) if request.client is not None else _NOBODY

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        transport = httpx2.ASGITransport(app=self._app, client=self._client)
        more = {**self._headers, **(headers or {}), "accept": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        if content is not None:
            more["content-type"] = "application/json"
        async with httpx2.AsyncClient(transport=transport, base_url="http://studio", trust_env=False) as client:
            answer = await client.request(
                method, f"{_PREFIX}{path}", params=dict(query or {}), content=content, headers=more
            )
        if answer.status_code >= 300:
            raise refusal(answer)
        return msgspec.json.decode(answer.content) if answer.content else None
