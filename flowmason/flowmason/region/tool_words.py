"""Tools for providers that take none: the model is told of them in words, and its reply is read as a step.

It is asked for one JSON object a step: `{"step": {"tool": …, "arguments": …}}` or `{"step": {"answer": …}}`. That is
guided decoding where the server has it, and words where it has not, so that every provider can do it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from flowmason.component import parse_json
from flowmason.errors import Code, StageError
from flowmason.model import Message, ModelRequest, ModelResponse, Tool, ToolCall

_RULES = (
    "You can use tools. Reply with one JSON object and nothing else: "
    '{"step": {"tool": NAME, "arguments": {…}}} to call a tool, or {"step": {"answer": TEXT}} once you know the answer.'
)


class NoStep(StageError):
    """A reply that neither calls a tool nor answers."""

    def __init__(self, reason: str, response: ModelResponse) -> None:
        super().__init__(reason, code=Code.BAD_ANSWER)
        self.response = response


def in_words_of(request: ModelRequest) -> ModelRequest:
    """The request without tools: they are in the system prompt, and all turns are one prompt."""
    listed = [{"name": t.name, "description": t.description, "arguments": t.parameters} for t in request.tools]
    system = "\n\n".join(part for part in (request.system_prompt, _RULES, f"Tools: {_json(listed)}") if part)
    return msgspec.structs.replace(
        request,
        prompt=transcript(request.messages),
        messages=(),
        system_prompt=system,
        tools=(),
        json_schema=_step_schema(request.tools),
    )


def transcript(turns: Sequence[Message]) -> str:
    """The turns as one text: what was asked, what was called with which result, what was refused."""
    parts: list[str] = []
    calls: dict[str, ToolCall] = {}
    for turn in turns:
        calls |= {call.id: call for call in turn.tool_calls}
        if turn.role == "tool":
            call = calls[turn.tool_call_id]
            parts.append(f"You called {call.name} with {call.arguments}. It gave: {turn.content}")
        elif turn.role == "user":
            parts.append(turn.content)
    return "\n\n".join(parts)


def step_of(response: ModelResponse, request: ModelRequest) -> ModelResponse:
    """The reply as an answer to `request`, which has tools: the call that it makes, or the text that it says.

    Raises `NoStep` where it is neither.
    """
    try:
        found = parse_json(response.content)
    except StageError as error:
        raise NoStep(str(error), response) from error
    step = found.get("step", found) if isinstance(found, dict) else None
    if not isinstance(step, dict):
        raise NoStep('an object with the key "step" is expected', response)
    if isinstance(step.get("answer"), str):
        return msgspec.structs.replace(response, content=step["answer"])
    name = step.get("tool")
    if not isinstance(name, str):
        raise NoStep('the key "tool" or "answer" is expected', response)
    call = ToolCall(f"call_{len(request.messages)}", name, _json(step.get("arguments", {})))
    return msgspec.structs.replace(response, content="", finish_reason="tool_calls", tool_calls=(call,))


def _step_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    def closed(**properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def arguments(tool: Tool) -> dict[str, Any]:
        # A schema with references cannot be put inside another one; its arguments are checked when they come.
        unfit = "$defs" in tool.parameters or "$ref" in tool.parameters
        return {"type": "object"} if unfit else tool.parameters

    steps = [closed(tool={"type": "string", "enum": [tool.name]}, arguments=arguments(tool)) for tool in tools]
    return closed(step={"anyOf": [*steps, closed(answer={"type": "string"})]})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
