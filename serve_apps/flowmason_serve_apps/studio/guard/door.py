"""The door of the API: hosts, origins, limits and bodies before any handler, headers on every answer. Pure ASGI."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from flowmason.document import parse_document
from flowmason.errors import Code, EngineUnavailableError, RefusedError
from flowmason.limiter import Verdict
from flowmason_serve_apps.studio import problems
from flowmason_serve_apps.studio.guard.counts import Counts
from flowmason_serve_apps.studio.guard.limiting import SharedLimiter
from flowmason_serve_apps.studio.settings import StudioSettings

_UPLOADS = frozenset({"/api/v1/registry/deploy"})
_STREAMED = frozenset({"/api/v1/blobs"})
"""Whose handler reads the body piece by piece, once it knows who asks, and bounds it."""
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
BODY_S = 120.0
"""For how long a client may be about its body."""
_ENVELOPE_BYTES = 64 * 1024
"""What a form may have around the file that it carries."""
_NUL = re.compile(rb"\\(?:0|x00|u0000|U00000000)")
"""How JSON or YAML may spell U+0000; a text where an escaped backslash stands before digits is looked at too."""
_YAML = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_API_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_DOCS_POLICY = (
    b"content-security-policy",
    b"default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; style-src 'self' 'unsafe-inline'"
    b" https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com; frame-ancestors 'none'",
)
_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-Match, Last-Event-ID, X-API-Key, X-Request-ID"
_EXPOSED = "ETag, Location, Retry-After, X-Request-ID, RateLimit-Limit, RateLimit-Remaining"
_METHODS = "GET, POST, PUT, PATCH, DELETE"


class Door:
    """Refuses what no handler should see, and adds to answers what every one should have."""

    def __init__(self, app: ASGIApp, settings: StudioSettings, limiter: SharedLimiter) -> None:
        self._app = app
        self._settings = settings
        public = urlsplit(settings.public_url).hostname or ""
        self._hosts = {*(name.lower() for name in settings.allowed_hosts), public.lower()} - {""}
        self._origins = frozenset(settings.cors_origins)
        self._counts = Counts(settings, limiter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        known = origin is not None and origin in self._origins
        verdict: Verdict | None = None
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._counts.learn(scope, headers, message["status"])
                self._dress(message, scope["path"], origin if known else None, verdict)
            await send(message)

        answer = self._misdirected(headers, scope["path"]) or _unreadable(scope)
        answer = answer or self._preflight(scope, headers, known)
        if answer is None:
            answer, verdict = await self._counted(scope, headers)
        if answer is None and scope["method"] in _WITH_BODY and scope["path"] not in _STREAMED:
            body = await self._body(scope, headers, receive)
            if isinstance(body, Response):
                answer = body
            else:
                receive = _again(body, receive)
        if answer is not None:
            await answer(scope, receive, sent)
            return
        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            # Answered here and not by the framework, whose answer would have none of the headers.
            if begun:
                raise
            await problems.unforeseen(scope["path"], error)(scope, receive, sent)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: the same names and limits. Whose page asks is the handler's to look at, as who asks."""
        headers = Headers(scope=scope)
        answer = self._misdirected(headers, scope["path"]) or _unreadable(scope)
        if answer is None:
            answer, _ = await self._counted(scope, headers)
        if answer is None:

            async def sent(message: Message) -> None:
                if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                    self._counts.learn(scope, headers, message.get("status", 101))
                await send(message)

            await self._app(scope, receive, sent)
            return
        await WebSocket(scope, receive, send).send_denial_response(answer)

    # -- hosts and origins -----------------------------------------------------------------------

    def _misdirected(self, headers: Headers, path: str) -> Response | None:
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.strip("[]").lower() in self._hosts or path.startswith("/-/"):
            return None
        return problems.problem(
            421, "this Studio does not answer under that name", code="MISDIRECTED", instance=path,
            help="The operator lists its names in FLOWMASON_ALLOWED_HOSTS.",
        )  # fmt: skip

    def _preflight(self, scope: Scope, headers: Headers, known: bool) -> Response | None:
        if scope["method"] != "OPTIONS" or "access-control-request-method" not in headers:
            return None
        if not known:
            detail = "pages of this origin may not ask"
            return problems.problem(403, detail, code=Code.FORBIDDEN, instance=scope["path"])
        more = {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
            "Access-Control-Max-Age": "600",
        }
        return Response(status_code=204, headers=more)

    def _dress(self, message: Message, path: str, origin: str | None, verdict: Verdict | None) -> None:
        raw: list[tuple[bytes, bytes]] = [*message.get("headers", ()), *_HEADERS]
        raw.append(_DOCS_POLICY if path.startswith("/docs") else _API_POLICY)
        message["headers"] = raw
        headers = MutableHeaders(raw=raw)
        headers.setdefault("Cache-Control", "no-store")
        if self._origins:
            headers.add_vary_header("Origin")
        if origin is not None:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED
        if verdict is not None:
            headers["RateLimit-Remaining"] = str(verdict.remaining)

    # -- limits ----------------------------------------------------------------------------------

    async def _counted(self, scope: Scope, headers: Headers) -> tuple[Response | None, Verdict | None]:
        path = scope["path"]
        try:
            verdict = await self._counts.take(scope, headers)
        except EngineUnavailableError as error:
            more = {"Retry-After": "5"}
            detail = error.failure.message
            return problems.problem(503, detail, code=Code.ENGINE_UNAVAILABLE, instance=path, headers=more), None
        if verdict is None:
            return None, None
        if verdict.allowed:
            return None, verdict
        wait = max(1, math.ceil(verdict.wait_s))
        detail = f"too many requests; the next one is answered in {wait} s"
        answer = problems.problem(
            429, detail, code=Code.RATE_LIMITED, instance=path, headers={"Retry-After": str(wait)}
        )
        return answer, verdict

    # -- bodies ----------------------------------------------------------------------------------

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes | Response:
        path, most = scope["path"], self._settings.max_body_bytes
        upload = path in _UPLOADS
        large = f"a body may have {most >> 20} MiB"
        if upload:
            most += _ENVELOPE_BYTES
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            return problems.problem(413, large, code="TOO_LARGE", instance=path)
        try:
            async with asyncio.timeout(BODY_S):
                body = await _read(receive, most)
        except TimeoutError:
            detail = f"the body did not come within {BODY_S:g} s"
            return problems.problem(408, detail, code="REQUEST_TIMEOUT", instance=path)
        except EOFError:
            return problems.problem(400, "the body broke off", code=Code.USAGE, instance=path)
        if body is None:
            return problems.problem(413, large, code="TOO_LARGE", instance=path)
        if upload or not body:
            return body
        media = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media in _YAML and not _NUL.search(body):
            return body
        if media not in _YAML and media != "application/json":
            detail = f"a body is sent as application/json, not as {media[:100]!r}"
            return problems.problem(415, detail, code=Code.UNSUPPORTED_MEDIA_TYPE, instance=path)
        try:
            document = parse_document(body, format="yaml" if media in _YAML else "json")
        except RefusedError as error:
            return problems.of_failure(error.failure, path, status=422)
        if _NUL.search(body) and any("\0" in text for text in _texts(document.value)):
            detail = "a text in the body has the character U+0000, which cannot be stored"
            faults = [{"pointer": "$", "reason": detail}]
            return problems.problem(422, detail, code=Code.INVALID_DOCUMENT, instance=path, faults=faults)
        return body


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body; None where it is larger than `most`. Raises `EOFError` where it breaks off."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EOFError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            return None
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


def _unreadable(scope: Scope) -> Response | None:
    # PostgreSQL stores no text with U+0000; what asks for one would be an error of the database's.
    if "\0" in scope["path"] or b"%00" in scope.get("query_string", b""):
        detail = "an address may not have the character U+0000"
        return problems.problem(400, detail, code=Code.USAGE, instance=scope["path"])
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, for the handler; then whatever else comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
