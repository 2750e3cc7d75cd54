"""MCP over streamable HTTP. What a caller may do there, the API's own routes say."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from flowmason_serve_apps.studio.routes.parts import Themselves

router = APIRouter(tags=["mcp"])


@router.post("/mcp", operation_id="mcp", response_class=Response)
async def mcp(request: Request, caller: Themselves) -> Response:
    """One message of the Model Context Protocol; the answer is JSON or a stream of events."""
    answer: Response = request.app.state.mcp.answer(request)
    return answer
