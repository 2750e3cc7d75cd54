"""`context.mcp`: MCP servers, as one stage reaches them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowmason.mcp_client import Connections, McpServer, Tools
    from flowmason.region.context import StageContext

_MEBIBYTE = 1024 * 1024


class StageMcp:
    """The servers of the project; what they write to their stderr goes to the stage's log."""

    def __init__(self, connections: Connections, context: StageContext, org: str) -> None:
        self._connections = connections
        self._context = context
        self._org = org

    def server(
        self,
        name: str | None = None,
        *,
        command: str | None = None,
        args: tuple[str, ...] = (),
        url: str | None = None,
    ) -> StageMcpServer:
        """A declared server, or an address. Raises `UsageError`; see `flowmason.component.Mcp`."""
        found = self._connections.server(name, command=command, args=args, url=url)
        return StageMcpServer(self._connections, found, self._context, self._org)


class StageMcpServer:
    """One server."""

    def __init__(self, connections: Connections, server: McpServer, context: StageContext, org: str) -> None:
        self._connections = connections
        self._server = server
        self._context = context
        self._org = org

    async def list_tools(self, *, timeout: float | None = None) -> Tools:
        """Every tool; see `flowmason.component.McpServer`."""
        return await self._connections.list_tools(self._org, self._server, timeout=timeout, tell=self._tell)

    async def call_tool(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float | None = None,
        repeatable: bool = False,
        at_most: int = 10 * _MEBIBYTE,
    ) -> dict[str, Any]:
        """Call a tool; see `flowmason.component.McpServer`."""
        return await self._connections.call_tool(
            self._org,
            self._server,
            tool,
            arguments,
            timeout=timeout,
            tell=self._tell,
            repeatable=repeatable,
            at_most=at_most,
        )

    def _tell(self, line: str) -> None:
        self._context.logger.info(line, server=self._server.name)
