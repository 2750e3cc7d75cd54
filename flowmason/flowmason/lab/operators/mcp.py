"""Ask MCP servers: what tools they have, and call one."""

from __future__ import annotations

import time
from typing import Any, Literal

from flowmason.component import Context, operator
from flowmason.component.models import Field, OperatorInput, OperatorOutput
from flowmason.errors import Code, StageError
from flowmason.policy import Effect

_MEBIBYTE = 1024 * 1024


class _Server(OperatorInput):
    server: str | None = Field(default=None, description="A name of mcp.servers in flowmason.json.")
    transport: Literal["stdio", "sse", "http"] | None = Field(
        default=None, description="Older spelling; command or url says it."
    )
    command: str | None = Field(default=None, description="Older spelling; must be that of a declared server.")
    args: list[str] = []
    env: dict[str, str] = Field(default={}, description="Refused: the declaration of the server says it.")
    url: str | None = Field(default=None, description="A server (streamable HTTP) that needs no declaration.")
    timeout: float | None = Field(default=None, gt=0, le=3600, description="Seconds; null: the server's (30).")

    def where(self) -> dict[str, Any]:
        """What `context.mcp.server` takes."""
        if self.env:
            raise StageError(
                "env is set where the server is declared, not by a stage",
                code=Code.SECURITY,
                help='"mcp": {"servers": {"name": {"command": …, "env": {…}}}} in flowmason.json',
            )
        if self.transport == "stdio" and self.url is not None:
            raise StageError("transport stdio goes with a command, not with a url", code=Code.INVALID_INPUT)
        return {"name": self.server, "command": self.command, "args": tuple(self.args), "url": self.url}


@operator(
    name="mcp_list_tools",
    category="mcp",
    description="List the tools of an MCP server.",
    icon="list",
    color="#6366F1",
    timeout_seconds=60,
    effect=Effect.IDEMPOTENT,
)
class McpListTools:
    """What the server says it offers, with the JSON Schema of each tool's arguments."""

    class Input(_Server):
        pass

    class Output(OperatorOutput):
        tools: list[dict[str, Any]] = Field(description="name, description, input_schema, annotations of each.")
        tool_count: int
        server_name: str
        server_version: str

    async def execute(self, input: Input, context: Context) -> Output:
        found = await context.mcp.server(**input.where()).list_tools(timeout=input.timeout)
        tools = [
            {
                "name": tool["name"],
                "description": tool.get("description", ""),
                "input_schema": tool.get("inputSchema", {}),
                "annotations": tool.get("annotations", {}),
            }
            for tool in found.tools
        ]
        return self.Output(
            tools=tools, tool_count=len(tools), server_name=found.server_name, server_version=found.server_version
        )


@operator(
    name="mcp_tool_call",
    category="mcp",
    description="Call a tool of an MCP server. What the tool itself calls an error is an answer.",
    icon="cpu",
    color="#6366F1",
    timeout_seconds=60,
    deterministic=False,
    effect_by={
        "field": "effect",
        "map": {"idempotent": Effect.IDEMPOTENT.value},
        "default": Effect.UNSAFE.value,
    },
)
class McpToolCall:
    """A tool may do anything, so that a call counts as unsafe unless the stage says `effect: idempotent`."""

    class Input(_Server):
        tool_name: str = Field(min_length=1)
        tool_arguments: dict[str, Any] = {}
        effect: Literal["unsafe", "idempotent"] = Field(
            default="unsafe", description="idempotent: the same call may happen twice."
        )
        max_result_bytes: int = Field(default=10 * _MEBIBYTE, ge=1, le=16 * _MEBIBYTE)

    class Output(OperatorOutput):
        content: list[dict[str, Any]] = Field(description="The blocks of the answer, as the protocol gives them.")
        text: str = Field(description="Its text blocks, joined by newlines.")
        data: Any = Field(default=None, description="The structured answer, where the tool gives one.")
        is_error: bool
        error_message: str | None = None
        tool_name: str
        elapsed_ms: float

    async def execute(self, input: Input, context: Context) -> Output:
        started = time.perf_counter()
        server = context.mcp.server(**input.where())
        answer = await server.call_tool(
            input.tool_name,
            input.tool_arguments,
            timeout=input.timeout,
            repeatable=input.effect == "idempotent",
            at_most=input.max_result_bytes,
        )
        content = answer.get("content", [])
        text = "\n".join(block["text"] for block in content if block.get("type") == "text")
        failed = bool(answer.get("isError"))
        return self.Output(
            content=content,
            text=text,
            data=answer.get("structuredContent"),
            is_error=failed,
            error_message=text or "the tool failed" if failed else None,
            tool_name=input.tool_name,
            elapsed_ms=round((time.perf_counter() - started) * 1000, 3),
        )
