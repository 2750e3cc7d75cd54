"""Tool use: the model says which tools it wants, they are run here, their results go back, until there is an answer.

A provider that takes tools is told of them in its own protocol; any other in words (`tool_words`). The steps, their
limit and what is recorded are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.errors import Code, FlowMasonError, StageError, did_you_mean
from flowmason.model import Message, Tool, ToolCall
from flowmason.policy import Effect
from flowmason.region.tool_words import NoStep
from flowmason.usage import Usage

if TYPE_CHECKING:
    from flowmason.component import ComponentSpec
    from flowmason.region.context import StageContext
    from flowmason.region.llm import StageLLM
    from flowmason.region.run import RegionRun
    from flowmason.state import StageState

_LIBRARY = "flowmason.lab"
_SHOWN = 20_000
"""Characters of a tool's result that the model is shown."""
_BAD_STEPS = 3
"""Steps in a row that are no step at all, before the stage fails."""
_SPOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")

Call = Callable[[dict[str, Any]], Awaitable[Any]]


class ToolAnswer(msgspec.Struct, frozen=True):
    """The answer after all steps; as a `ModelResponse`, with what was called on the way."""

    content: str
    model: str
    finish_reason: str
    usage: Usage
    """Of all steps together."""
    tool_calls: tuple[dict[str, Any], ...]
    """`tool`, `arguments`, and `result` or `error` of each call, in order."""

    @property
    def text(self) -> str:
        return self.content

    @property
    def input_tokens(self) -> int:
        return self.usage.input_tokens

    @property
    def output_tokens(self) -> int:
        return self.usage.output_tokens

    @property
    def total_tokens(self) -> int:
        return self.usage.total_tokens


class _Tool(msgspec.Struct, frozen=True):
    name: str
    description: str
    schema: dict[str, Any]
    call: Call


async def use_tools(
    llm: StageLLM,
    run: RegionRun,
    stage: StageState,
    context: StageContext,
    prompt: str,
    tools: Sequence[str | Mapping[str, Any]],
    *,
    max_steps: int,
    system_prompt: str | None,
    **options: Any,
) -> ToolAnswer:
    """See `flowmason.component.LLM.use_tools`."""
    known = _spoken(await _tools(run, stage, context, tools))
    told = [Tool(name, tool.description, tool.schema) for name, tool in known.items()]
    turns, usage, bad = [Message("user", prompt)], Usage(), 0
    calls: list[dict[str, Any]] = []
    while True:
        try:
            response = await llm.step(turns, told, system_prompt, **options)
        except NoStep as refused:
            usage, bad = usage + refused.response.usage, bad + 1
            if bad >= _BAD_STEPS:
                raise StageError(
                    f"the model's answer is no step, even after {_BAD_STEPS - 1} repairs: {refused}",
                    code=Code.BAD_ANSWER,
                    details={"answer": refused.response.content[:1500], "model": refused.response.model},
                ) from refused
            turns.append(Message("user", f"Your last reply was refused: {refused}"))
            continue
        usage, bad = usage + response.usage, 0
        wanted = response.tool_calls
        if not wanted:
            return ToolAnswer(response.content, response.model, response.finish_reason, usage, tuple(calls))
        if len(calls) + len(wanted) > max_steps:
            raise StageError(
                f"the model called {len(calls)} tools and wanted {len(wanted)} more; {max_steps} are allowed",
                code=Code.TOOL_STEPS_EXCEEDED,
                details={"tool_calls": calls},
                help="Raise max_steps, or say in the prompt when it is to stop.",
            )
        results: list[Message] = []
        understood: list[ToolCall] = []
        for call in wanted:
            cut = response.finish_reason == "length" and call is wanted[-1]
            called = await _called(known, call, cut, context, len(calls) + 1)
            calls.append(called)
            results.append(_result(call, called))
            understood.append(_sendable(call))
        turns.append(Message("assistant", response.content, tuple(understood), blocks=response.blocks))
        turns += results


async def _called(
    known: Mapping[str, _Tool], call: ToolCall, cut: bool, context: StageContext, number: int
) -> dict[str, Any]:
    """Make one call. What is wrong with it, and what goes wrong in it, is its result."""
    tool, arguments = known.get(call.name), _object(call.arguments)
    name = call.name if tool is None else tool.name
    called: dict[str, Any] = {"tool": name, "arguments": call.arguments if arguments is None else arguments}
    reason = None
    if tool is None:
        near = did_you_mean(call.name, list(known))
        reason = f"there is no tool {call.name!r}" + (f"; did you mean {near!r}?" if near else "")
    elif cut:
        reason = "the call was cut off: the reply was longer than max_tokens"
    elif arguments is None:
        reason = "arguments must be a JSON object"
    if tool is None or arguments is None or reason is not None:
        called["error"] = {"code": Code.INVALID_INPUT, "message": reason}
    else:
        try:
            called["result"] = await tool.call(arguments)
        except FlowMasonError as error:
            if error.failure.code == Code.OUTCOME_UNKNOWN:
                raise  # nobody may go on as if it had not happened
            called["error"] = {"code": error.failure.code, "message": str(error)}
    context.logger.info(f"tool {number}: {name}", **called)
    return called


def _result(call: ToolCall, called: Mapping[str, Any]) -> Message:
    """What the model is told of a call."""
    text = _json({key: called[key] for key in ("result", "error") if key in called})
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… (cut: {len(text)} characters)"
    return Message("tool", shown, tool_call_id=call.id, failed="error" in called)


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _sendable(call: ToolCall) -> ToolCall:
    """The call as it goes back to the model: servers refuse a conversation with arguments that are no object."""
    if call.arguments and _object(call.arguments) is not None:
        return call
    return msgspec.structs.replace(call, arguments="{}")


def _spoken(tools: Sequence[_Tool]) -> dict[str, _Tool]:
    """The tools by names that all providers take."""
    found = {tool.name: tool for tool in tools if _SPOKEN.fullmatch(tool.name)}
    for number, tool in enumerate(tools):
        if tool.name not in found or found[tool.name] is not tool:
            name = re.sub(r"[^A-Za-z0-9_-]", "_", tool.name)[:50]
            while name in found:
                name = f"{name[:50]}_{number}"
            found[name or f"tool_{number}"] = tool
    return found


async def _tools(
    run: RegionRun, stage: StageState, context: StageContext, wanted: Sequence[str | Mapping[str, Any]]
) -> list[_Tool]:
    found: list[_Tool] = []
    for each in wanted:
        if isinstance(each, str):
            found.append(_operator(run, stage, context, each))
        else:
            found += await _of_server(stage, context, each)
    names = [tool.name for tool in found]
    if not found or len(set(names)) != len(names):
        reason = "no tool is given" if not found else "two tools have the same name"
        raise StageError(f"tools: {reason}", code=Code.INVALID_INPUT)
    return found


@cache
def _built_in() -> dict[str, ComponentSpec]:
    from flowmason.registry import find_components

    specs = find_components(None, packages_dirs=()).specs()
    return {spec.name: spec for spec in specs if spec.kind == "operator" and spec.target.startswith(_LIBRARY)}


def _operator(run: RegionRun, stage: StageState, context: StageContext, wanted: str) -> _Tool:
    """A built-in operator. Those of packages are pinned by the Plan, which knows of none that a model will choose."""
    from flowmason.plan import ComponentRef

    name = wanted.removeprefix("operator:")
    specs = _built_in()
    spec = specs.get(name)
    if spec is None:
        near = did_you_mean(name, list(specs))
        hint = f"; did you mean {near!r}?" if near else f"; there is {', '.join(sorted(specs))}"
        raise StageError(f"tools: there is no built-in operator {name!r}{hint}", code=Code.INVALID_INPUT)
    reference = ComponentRef(spec.name, spec.version, spec.target, spec.digest)
    number = 0

    async def call(arguments: dict[str, Any]) -> Any:
        nonlocal number
        number += 1
        _allow(stage, spec.settle(arguments).effect, f"operator {name} with these arguments")
        loaded = run.worker.component(reference)
        given = loaded.validate(arguments)
        return loaded.dump(await loaded.make().execute(given, _ToolContext(context, f"tool/{name}/{number}")))

    return _Tool(name, spec.description, spec.input_schema, call)


async def _of_server(stage: StageState, context: StageContext, given: Mapping[str, Any]) -> list[_Tool]:
    unknown = set(given) - {"mcp", "tools", "effect"}
    if unknown or not isinstance(given.get("mcp"), str):
        raise StageError(
            'tools: a server is written as {"mcp": NAME, "tools": [NAME, …], "effect": "idempotent"}',
            code=Code.INVALID_INPUT,
        )
    name, repeatable = given["mcp"], given.get("effect") == "idempotent"
    _allow(stage, Effect.IDEMPOTENT if repeatable else Effect.UNSAFE, f"the MCP server {name}")
    server = context.mcp.server(name)
    offered = {tool["name"]: tool for tool in (await server.list_tools()).tools}
    chosen = given.get("tools") or list(offered)
    for tool in chosen:
        if tool not in offered:
            near = did_you_mean(str(tool), list(offered))
            hint = f"; did you mean {near!r}?" if near else ""
            raise StageError(f"tools: the MCP server {name!r} has no tool {tool!r}{hint}", code=Code.INVALID_INPUT)

    def made(tool: dict[str, Any]) -> _Tool:
        schema = tool.get("inputSchema") or {"type": "object"}

        async def call(arguments: dict[str, Any]) -> Any:
            _fits(arguments, schema)
            answer = await server.call_tool(tool["name"], arguments, repeatable=repeatable)
            blocks = answer.get("content", [])
            text = "\n".join(block["text"] for block in blocks if block.get("type") == "text")
            if answer.get("isError"):
                raise StageError(text or "the tool failed")
            return answer.get("structuredContent", text)

        return _Tool(tool["name"], tool.get("description", ""), schema, call)

    return [made(offered[tool]) for tool in chosen]


def _allow(stage: StageState, effect: Effect, what: str) -> None:
    if effect is Effect.UNSAFE and stage.stage.effect is not Effect.UNSAFE:
        raise StageError(
            f"{what} may do what must not happen twice, and this stage may be run again",
            code=Code.SECURITY,
            help='Say "effect": "idempotent" of an MCP server whose tools may be called twice, or use a node that is '
            "declared unsafe.",
        )


def _fits(arguments: dict[str, Any], schema: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY

    try:
        error = best_match(Draft202012Validator(schema, registry=EMPTY_REGISTRY).iter_errors(arguments))
    except (SchemaError, Unresolvable) as wrong:
        raise StageError(f"the tool's own schema is wrong: {wrong}", code=Code.INVALID_INPUT) from None
    if error is not None:
        raise StageError(f"{error.json_path}: {error.message[:300]}", code=Code.INVALID_INPUT)


class _ToolContext:
    """The stage's context, with an idempotency key of each call's own."""

    def __init__(self, context: StageContext, name: str) -> None:
        self._context = context
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    @property
    def idempotency_key(self) -> str:
        return self._context.idempotency_key_for(self._name)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
