"""`Watching`: the outermost middleware. It times requests, gives each an id and a place in a trace, and logs it."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowmason.studio.logs import request_id
from flowmason.telemetry.context import Traceparent, current, exports, parse
from flowmason.telemetry.spans import Span

if TYPE_CHECKING:
    from flowmason.telemetry.otlp import Sender

BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
UNKNOWN = "unmatched"
"""The route of a request that none answers: a label never holds what strangers write."""
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "WEBSOCKET"})
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
log = logging.getLogger("flowmason.access")


class Requests:
    """What this process knows of the requests that it answered."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.replica = f"{socket.gethostname()}:{os.getpid()}"
        self._seconds = Histogram(
            "flowmason_http_request_seconds",
            "How long requests took, until the last byte of their answer.",
            ("replica", "method", "route", "status"),
            registry=self.registry,
            buckets=BUCKETS_S,
        )
        self._known: dict[tuple[str, str, int], Histogram] = {}
        self._sender: Sender | None = None
        self.exports = exports()

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = (method, route, status)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._seconds.labels(self.replica, method, route, str(status))
        known.observe(seconds)

    def send(self, span: Span, trace_id: int) -> None:
        """Have a span sent, in the background."""
        if self._sender is None:
            from flowmason.telemetry.otlp import Sender

            self._sender = Sender()
        self._sender.add(span, trace_id)

    def close(self) -> None:
        """Send what is left. Blocks."""
        if self._sender is not None:
            self._sender.close()


class Watching:
    """Pure ASGI: no body and no header is copied."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        wanted, given_id, above = self._requests.exports, b"", None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given_id = value
            elif name == b"traceparent":
                above = parse(value.decode("latin-1"))
        own_id = given_id if _GIVEN_ID.fullmatch(given_id) else b"%032x" % random.getrandbits(128)
        here = _below(above) if wanted else above
        begun, at = time.perf_counter(), time.time_ns() // 1_000_000
        status = 101 if kind == "websocket" else 500

        async def sent(message: Message) -> None:
            nonlocal status
            said = message["type"]
            if said == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", own_id)]
            elif said == "websocket.http.response.start":
                status = message["status"]
            elif said == "websocket.close" and status == 101 and message.get("code", 1000) >= 4000:
                status = 400
            await send(message)

        tokens = request_id.set(own_id.decode()), current.set(here)
        try:
            await self._app(scope, receive, sent)
        finally:
            request_id.reset(tokens[0])
            current.reset(tokens[1])
            method = scope["method"] if kind == "http" else "WEBSOCKET"
            method = method if method in _METHODS else "OTHER"
            seconds, route = time.perf_counter() - begun, route_of(scope)
            self._requests.note(method, route, status, seconds)
            if log.isEnabledFor(logging.INFO):
                _log(scope, method, route, status, seconds, own_id)
            if wanted and here is not None and here.sampled:
                span = _span(scope, method, route, status, here, above, at, seconds, own_id)
                self._requests.send(span, here.trace_id)


def route_of(scope: Scope) -> str:
    """The template of the route that answered."""
    # FastAPI keeps the whole template here; the route itself knows no prefix of the router that includes it.
    found = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(found if found is not None else scope.get("route"), "path", None)
    return path if isinstance(path, str) else UNKNOWN


def _below(above: Traceparent | None) -> Traceparent:
    """A span of ours under somebody's, or the first of a trace."""
    span_id = random.getrandbits(64) or 1
    if above is None:
        return Traceparent(random.getrandbits(128) or 1, span_id)
    return Traceparent(above.trace_id, span_id, above.sampled)


def _span(
    scope: Scope,
    method: str,
    route: str,
    status: int,
    here: Traceparent,
    above: Traceparent | None,
    at: int,
    seconds: float,
    own_id: bytes,
) -> Span:
    return Span(
        name=f"{method} {route}",
        span_id=here.span_id,
        parent=above.span_id if above is not None else None,
        start=at,
        end=at + round(seconds * 1000),
        kind="server",
        attributes={
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "flowmason.request.id": own_id.decode(),
            "flowmason.org.id": _org(scope) or "",
        },
        error=f"status {status}" if status >= 500 else None,
    )


def _log(scope: Scope, method: str, route: str, status: int, seconds: float, own_id: bytes) -> None:
    extra: dict[str, Any] = {
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "request_id": own_id.decode(),
    }
    if (org := _org(scope)) is not None:
        extra["org_id"] = org
    if (run := scope.get("path_params", {}).get("run_id")) is not None:
        extra["run_id"] = run
    log.info("%s %s %d", method, route, status, extra=extra)


def _org(scope: Scope) -> str | None:
    caller = scope.get("state", {}).get("caller")
    return caller.org_id if caller is not None else None
