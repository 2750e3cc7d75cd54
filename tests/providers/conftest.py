from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Api:
    """A server on loopback that plays a provider's protocol; answers are taken in order, the last one stays."""

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client went away in the middle of a stream."""


@dataclass
class Status:
    """An answer that is no success."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Stream:
    """Server-sent events: texts to send as they are, `delay_s` between them; `cut` ends without a proper end."""

    events: list[str]
    delay_s: float = 0.0
    cut: bool = False


StartApi = Callable[..., Awaitable[Api]]


@pytest.fixture
async def api() -> AsyncIterator[StartApi]:
    servers: list[asyncio.Server] = []

    async def start(*answers: Any) -> Api:
        site = Api(answers=list(answers))

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                site.asked.append(Asked(head[0].split(" ")[1], headers, json.loads(body or b"{}")))
                answer = site.answers.pop(0) if len(site.answers) > 1 else site.answers[0]
                if isinstance(answer, Status):
                    data = json.dumps(answer.body or {}).encode()
                    lines = [f"HTTP/1.1 {answer.status} X", f"Content-Length: {len(data)}", "Connection: close"]
                    lines += ["Content-Type: application/json", *(f"{k}: {v}" for k, v in answer.headers.items())]
                    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
                    await writer.drain()
                    return
                lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
                # Said since it is so: a client that thinks the connection is kept may send on it just as it closes.
                lines += ["Connection: close", "", ""]
                writer.write("\r\n".join(lines).encode())
                for event in answer.events:
                    data = event.encode()
                    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(answer.delay_s)
                if not answer.cut:
                    writer.write(b"0\r\n\r\n")
                    await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                site.gone.set()
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        site.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return site

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def status() -> type[Status]:
    return Status


@pytest.fixture
def stream() -> type[Stream]:
    return Stream
