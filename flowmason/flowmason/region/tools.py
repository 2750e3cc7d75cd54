"""Tool use: the model says which tool it wants, the tool is run here, its result goes back, until there is an answer.

The model is asked for one JSON object a step: `{"step": {"tool": …, "arguments": …}}` or `{"step": {"answer": …}}`.
That is guided decoding where the server has it, and words with a repair where it has not, so that every provider can
do it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.component import parse_json
from flowmason.errors import Code, FlowMasonError, StageError, did_you_mean
from flowmason.model import ModelResponse
from flowmason.policy import Effect
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
_RULES = (
    "You can use tools. Reply with one JSON object and nothing else: "
    '{"step": {"tool": NAME, "arguments": {…}}} to call a tool, or {"step": {"answer": TEXT}} once you know the answer.'
)

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
    known = {tool.name: tool for tool in await _tools(run, stage, context, tools)}
    listed = [{"name": t.name, "description": t.description, "arguments": t.schema} for t in known.values()]
    system = "\n\n".join(part for part in (system_prompt, _RULES, f"Tools: {_json(listed)}") if part)
    schema = _step_schema(list(known.values()))
    asked, usage, bad = prompt, Usage(), 0
    calls: list[dict[str, Any]] = []
    while True:
        response: ModelResponse = await llm.generate(asked, system_prompt=system, schema=schema, **options)
        usage = usage + response.usage
        step, reason = _step(response, known)
        if step is None:
            bad += 1
            if bad >= _BAD_STEPS:
                raise StageError(
                    f"the model's answer is no step, even after {_BAD_STEPS - 1} repairs: {reason}",
                    code=Code.BAD_ANSWER,
                    details={"answer": response.content[:1500], "model": response.model},
                )
            asked += f"\n\nYour last reply was refused: {reason}"
            continue
        bad = 0
        if "answer" in step:
            return ToolAnswer(step["answer"], response.model, response.finish_reason, usage, tuple(calls))
        if len(calls) >= max_steps:
            raise StageError(
                f"the model called {max_steps} tools and wanted another one",
                code=Code.TOOL_STEPS_EXCEEDED,
                details={"tool_calls": calls},
                help="Raise max_steps, or say in the prompt when it is to stop.",
            )
        called = await _called(known[step["tool"]], step["arguments"], context, len(calls) + 1)
        calls.append(called)
        said = {key: called[key] for key in ("result", "error") if key in called}
        text = _json(said)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… (cut: {len(text)} characters)"
        asked += f"\n\nYou called {step['tool']} with {_json(step['arguments'])}. It gave: {shown}"


async def _called(tool: _Tool, arguments: dict[str, Any], context: StageContext, number: int) -> dict[str, Any]:
    called: dict[str, Any] = {"tool": tool.name, "arguments": arguments}
    try:
        called["result"] = await tool.call(arguments)
    except FlowMasonError as error:
        if error.failure.code == Code.OUTCOME_UNKNOWN:
            raise  # nobody may go on as if it had not happened
        called["error"] = {"code": error.failure.code, "message": str(error)}
    context.logger.info(f"tool {number}: {tool.name}", **called)
    return called


def _step(response: ModelResponse, known: Mapping[str, _Tool]) -> tuple[dict[str, Any] | None, str]:
    try:
        found = parse_json(response.content)
    except StageError as error:
        return None, str(error)
    step = found.get("step", found) if isinstance(found, dict) else None
    if not isinstance(step, dict):
        return None, 'an object with the key "step" is expected'
    if isinstance(step.get("answer"), str):
        return step, ""
    name, arguments = step.get("tool"), step.get("arguments", {})
    if not isinstance(name, str) or name not in known:
        near = did_you_mean(str(name), list(known))
        return None, f"there is no tool {name!r}" + (f"; did you mean {near!r}?" if near else "")
    if not isinstance(arguments, dict):
        return None, "arguments must be an object"
    return {"tool": name, "arguments": arguments}, ""


def _step_schema(tools: Sequence[_Tool]) -> dict[str, Any]:
    def closed(**properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def arguments(tool: _Tool) -> dict[str, Any]:
        # A schema with references cannot be put inside another one; its arguments are checked when they come.
        return {"type": "object"} if "$defs" in tool.schema or "$ref" in tool.schema else tool.schema

    steps = [closed(tool={"type": "string", "enum": [tool.name]}, arguments=arguments(tool)) for tool in tools]
    return closed(step={"anyOf": [*steps, closed(answer={"type": "string"})]})


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
