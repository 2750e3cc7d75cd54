from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

Serve = Callable[[asyncio.StreamWriter, "Received"], Awaitable[None]]


@dataclass
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """A real server on loopback that says exactly the bytes it is told to."""

    port: int = 0
    requests: list[Received] = field(default_factory=list)
    connections: int = 0

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"


Start = Callable[..., Awaitable[Web]]


@pytest.fixture
async def web() -> AsyncIterator[Start]:
    """Starts servers: `await web(answer)`; `answer` is bytes, or a function of the writer and the request."""
    servers: list[asyncio.Server] = []

    async def start(answer: bytes | Serve, tls: ssl.SSLContext | None = None) -> Web:
        site = Web()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            site.connections += 1
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, target, _ = head[0].split(" ")
                received = Received(method, target, headers, body)
                site.requests.append(received)
                if callable(answer):
                    await answer(writer, received)
                else:
                    writer.write(answer)
                    await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
        servers.append(server)
        site.port = server.sockets[0].getsockname()[1]
        return site

    yield start
    for server in servers:
        server.close()


def ok(body: bytes = b"ok", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture(name="ok")
def ok_fixture() -> Callable[..., bytes]:
    return ok
