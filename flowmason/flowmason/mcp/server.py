"""The five tools as a server of the SDK's. What is refused is an error of the tool, with code, reason and help."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

from flowmason.errors import FlowMasonError
from flowmason.mcp.offered import Components, ComponentShown, Offered, Pipelines, PipelineShown, RunShown

INSTRUCTIONS = (
    "FlowMason runs pipelines: files of typed stages. List them, look at one's input_schema, then run it with an "
    "input that fits. A run that fails is an answer with status 'failed' and an error."
)
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_RUNS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True)


def make_server(offered: Callable[[Context[Any]], Offered]) -> MCPServer:
    """A server of the five tools; `offered` says what a request's caller is offered."""
    with _logging_as_it_was():
        server = MCPServer("flowmason", version=version("flowmason"), instructions=INSTRUCTIONS)

    @server.tool(annotations=_READS)
    async def list_pipelines(ctx: Context[Any]) -> Pipelines:
        """List the pipelines that can be run."""
        with _refused():
            return Pipelines(await offered(ctx).pipelines())

    @server.tool(annotations=_READS)
    async def get_pipeline(pipeline_name: str, ctx: Context[Any]) -> PipelineShown:
        """Describe a pipeline, given as NAME or NAME@VERSION: its input and output schemas and its stages."""
        with _refused():
            return await offered(ctx).pipeline(pipeline_name)

    @server.tool(annotations=_RUNS)
    async def run_pipeline(pipeline_name: str, ctx: Context[Any], input_data: str | dict[str, Any] = "{}") -> RunShown:
        """Run a pipeline to its end and give its output. input_data: an object that fits its input_schema (or that
        as JSON text)."""
        with _refused():

            async def progress(done: int, total: int, status: str) -> None:
                await ctx.report_progress(done, total, status)

            return await offered(ctx).run(pipeline_name, _object(input_data), progress)

    @server.tool(annotations=_READS)
    async def list_components(ctx: Context[Any]) -> Components:
        """List the components that stages can be made of."""
        with _refused():
            return Components(await offered(ctx).components())

    @server.tool(annotations=_READS)
    async def get_component(component_type: str, ctx: Context[Any]) -> ComponentShown:
        """Describe a component: what it takes and gives, and what it does to the world."""
        with _refused():
            return await offered(ctx).component(component_type)

    return server


@contextlib.contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """The SDK sets the process's logging up when a server is made; that is for whoever owns the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except FlowMasonError as error:
        failure = error.failure
        raise ToolError(f"{failure.code}: {error}" + (f"\n{failure.help}" if failure.help else "")) from error


def _object(given: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(given, dict):
        return given
    try:
        found = json.loads(given or "{}")
    except (ValueError, RecursionError) as error:
        raise ToolError(f"INVALID_INPUT: input_data is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ToolError("INVALID_INPUT: input_data must be a JSON object")
    return found
