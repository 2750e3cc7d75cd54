"""A real MCP server: `python server_for_tests.py` speaks stdio, with a port streamable HTTP on the loopback."""

from __future__ import annotations

import asyncio
import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel

server = MCPServer("parrots", version="1.2")


class Sum(BaseModel):
    total: int


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> Sum:
    """Add two numbers."""
    print("adding", file=sys.stderr, flush=True)
    return Sum(total=a + b)


@server.tool()
def environment() -> list[str]:
    """Names of the variables here."""
    return sorted(os.environ)


@server.tool()
def value(name: str) -> str:
    return os.environ.get(name, "")


@server.tool()
def pid() -> int:
    return os.getpid()


@server.tool()
def large(size: int) -> str:
    return "x" * size


@server.tool()
def fail() -> str:
    raise ToolError("no seeds left")


@server.tool()
async def hang() -> str:
    await asyncio.sleep(600)
    return "late"


@server.tool()
def die() -> str:
    os._exit(3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
