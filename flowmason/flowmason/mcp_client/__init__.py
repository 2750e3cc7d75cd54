"""The client's side of MCP: servers that a project declares, connections to them, what their tools answer.

The SDK (`mcp`, the extra of that name) is imported only when a server is first reached. A command is started only
where the project declares it, word for word; every URL is called through the egress guard.
"""

from __future__ import annotations

from flowmason.mcp_client.pool import Connections, Tools
from flowmason.mcp_client.servers import McpServer, read_server

__all__ = ["Connections", "McpServer", "Tools", "read_server"]
