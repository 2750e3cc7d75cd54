"""Problems, told so that OpenAI's clients understand them too. Pure ASGI."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowmason_serve_apps.studio.problems import MEDIA_TYPE


class Spoken:
    """Adds to every problem the member `error` with `message`, `type` and `code`, where those clients look."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        body = b""

        async def sent(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            whole = _with_error(body)
            raw: list[tuple[bytes, bytes]] = list(start["headers"])
            MutableHeaders(raw=raw)["content-length"] = str(len(whole))
            await send({**start, "headers": raw})
            await send({"type": "http.response.body", "body": whole})

        await self._app(scope, receive, sent if scope["type"] == "http" else send)


def _is_problem(message: Message) -> bool:
    return Headers(raw=list(message.get("headers", ()))).get("content-type", "").startswith(MEDIA_TYPE)


def _with_error(body: bytes) -> bytes:
    problem: dict[str, Any] = msgspec.json.decode(body)
    code = str(problem.get("code", "")).lower()
    return msgspec.json.encode({**problem, "error": {"message": problem.get("detail"), "type": code, "code": code}})
