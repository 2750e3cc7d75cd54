"""What `execute(self, input, context)` is given. The engine implements these protocols; components only use them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from flowmason.errors import Code, StageError


class ComponentContextError(StageError):
    """A component asked its context for something that its declaration does not entitle it to."""

    code = Code.USAGE


class Answer(Protocol):
    """What a model said."""

    @property
    def content(self) -> str: ...
    @property
    def text(self) -> str:
        """The same as `content`."""
        ...

    @property
    def model(self) -> str: ...
    @property
    def finish_reason(self) -> str:
        """`stop`, `length`, or the provider's own word."""
        ...

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def total_tokens(self) -> int: ...


class LLM(Protocol):
    """The stage's language model: provider and model come from the call, the stage, the component, the project."""

    @property
    def provider_name(self) -> str: ...

    async def generate(
        self,
        prompt: str,
        system_prompt: str | None = None,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        *,
        schema: Mapping[str, Any] | None = None,
        provider: str | None = None,
        stop_sequences: Sequence[str] | None = None,
        top_p: float | None = None,
    ) -> Answer:
        """Ask once. With `schema` (JSON Schema) the model is asked for such JSON; the answer is still text.

        None leaves a setting to the stage's `llm_settings`, then to the component and the project. Tokens are
        streamed to whoever watches, and counted. Raises `ProviderError`.
        """
        ...

    async def generate_object(self, prompt: str, output: Any, **options: Any) -> Any:
        """The answer as an object: an instance of `output` where that is a pydantic class (`NodeOutput` is one), plain
        data where it is a JSON Schema. `options` are those of `generate`, without `schema`.

        A bad answer goes back to the model with the reason, at most twice. Raises `StageError` (`BAD_ANSWER`).
        """
        ...

    async def use_tools(
        self,
        prompt: str,
        tools: Sequence[str | Mapping[str, Any]],
        *,
        max_steps: int = 8,
        system_prompt: str | None = None,
        **options: Any,
    ) -> Any:
        """Let the model call tools until it has an answer; `options` are those of `generate`, without `schema`.

        `tools`: built-in operators (`operator:json_transform`) and MCP servers (`{"mcp": NAME, "tools": [NAME, …],
        "effect": "idempotent"}`). The answer has `tool_calls` besides. What a tool refuses is told to the model. Raises
        `StageError`: `TOOL_STEPS_EXCEEDED` for more than `max_steps` calls, `BAD_ANSWER`, `SECURITY` for a tool that
        may do what must not happen twice in a stage that may be run again.
        """
        ...

    async def generate_async(
        self,
        prompt: str,
        system_prompt: str | None = None,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        *,
        schema: Mapping[str, Any] | None = None,
        provider: str | None = None,
        stop_sequences: Sequence[str] | None = None,
        top_p: float | None = None,
    ) -> Answer:
        """The same as `generate`."""
        ...

    def generate_stream(
        self,
        prompt: str,
        system_prompt: str | None = None,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        *,
        schema: Mapping[str, Any] | None = None,
        provider: str | None = None,
        stop_sequences: Sequence[str] | None = None,
        top_p: float | None = None,
    ) -> AsyncIterator[str]:
        """The answer in pieces, as they come: `async for piece in context.llm.generate_stream(…)`."""
        ...

    def parse_json(self, text: str) -> Any:
        """See `flowmason.component.parse_json`."""
        ...


class Logger(Protocol):
    """Structured log of the stage; fields are kept as data."""

    def debug(self, message: str, **fields: Any) -> None: ...
    def info(self, message: str, **fields: Any) -> None: ...
    def warning(self, message: str, **fields: Any) -> None: ...
    def warn(self, message: str, **fields: Any) -> None: ...
    def error(self, message: str, **fields: Any) -> None: ...


class Secrets(Protocol):
    """The secrets that the component declared."""

    def get(self, name: str) -> str:
        """The secret's value. Raises `StageError` (`SECRET_MISSING`), `ComponentContextError` if not declared."""
        ...


class Cache(Protocol):
    """A cache of plain values that may forget at any time."""

    async def get(self, key: str) -> Any | None: ...

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep `value` for `ttl` seconds (None: as long as there is room)."""
        ...


class CancelToken(Protocol):
    """Tells long loops that nobody waits for them any more."""

    @property
    def cancelled(self) -> bool: ...
    def raise_if_cancelled(self) -> None:
        """Raises `asyncio.CancelledError` once the stage is cancelled."""
        ...

    async def wait(self) -> None:
        """Return when the stage is cancelled."""
        ...


class McpServer(Protocol):
    """One MCP server. Its calls raise `StageError` (also `RetryableError`, `StageTimeoutError`) and `EgressError`."""

    async def list_tools(self, *, timeout: float | None = None) -> Any:
        """`tools` (each as the protocol gives it), `server_name`, `server_version`; `timeout` in seconds."""
        ...

    async def call_tool(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float | None = None,
        repeatable: bool = False,
        at_most: int = 10 * 1024 * 1024,
    ) -> dict[str, Any]:
        """The protocol's answer: `content`, `structuredContent`, `isError`. At most `at_most` bytes.

        Without `repeatable` a call that gets no answer fails with `OUTCOME_UNKNOWN`.
        """
        ...


class Mcp(Protocol):
    """MCP servers: those that `flowmason.json` declares, and addresses that the egress guard lets through."""

    def server(
        self,
        name: str | None = None,
        *,
        command: str | None = None,
        args: tuple[str, ...] = (),
        url: str | None = None,
    ) -> McpServer:
        """By its name, or by the exact command line or URL. Raises `UsageError` for a command nobody declared."""
        ...


@runtime_checkable
class Context(Protocol):
    """One attempt of one stage."""

    @property
    def run_id(self) -> str: ...
    @property
    def pipeline_id(self) -> str: ...
    @property
    def pipeline_version(self) -> str: ...
    @property
    def stage_id(self) -> str: ...
    @property
    def path(self) -> tuple[str | int, ...]:
        """Where the stage stands in the run: `("each", 3, "summarise")`."""
        ...

    @property
    def attempt(self) -> int:
        """From 1."""
        ...

    @property
    def round(self) -> int:
        """From 1; rises when a finished stage is run again."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this stage. Raises `ComponentContextError` in a pure component."""
        ...

    def idempotency_key_for(self, name: str) -> str:
        """A key of its own for each of several calls that one stage makes."""
        ...

    @property
    def pipeline_input(self) -> Any: ...
    @property
    def upstream(self) -> Mapping[str, Any]:
        """Outputs of the stages that this one depends on, by id."""
        ...

    @property
    def variables(self) -> Mapping[str, Any]:
        """Variables set by the stage's ancestors."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """The names that `flowmason.json` lists under `env`, and no others."""
        ...

    @property
    def llm(self) -> LLM: ...
    @property
    def logger(self) -> Logger: ...
    @property
    def secrets(self) -> Secrets:
        """Only for components with an effect; else `ComponentContextError`."""
        ...

    @property
    def cache(self) -> Cache:
        """Only for components with an effect; else `ComponentContextError`."""
        ...

    @property
    def http(self) -> Any:
        """A guarded asynchronous HTTP client (the interface of `httpx2.AsyncClient`); only for components with an
        effect, else `ComponentContextError`."""
        ...

    @property
    def mcp(self) -> Mcp:
        """The project's MCP servers; only for components with an effect, else `ComponentContextError`."""
        ...

    @property
    def trace_id(self) -> str: ...
    def read_blob(self, reference: Mapping[str, Any]) -> bytes:
        """The bytes of a blob: `{"$blob": digest, …}`, as `--set doc=@file.pdf` or `make_blob` made it.

        Raises `StageError` (`INVALID_INPUT`) for anything else, `FlowMasonError` (`VALUE_MISSING`) where it is gone.
        """
        ...

    def make_blob(self, data: bytes, type: str = "application/octet-stream") -> dict[str, Any]:
        """Store bytes and return the reference to put into an output: `{"$blob": digest, "type": …, "size": n}`."""
        ...

    @property
    def cancel_token(self) -> CancelToken: ...

    def progress(
        self, fraction: float | None = None, *, done: int | None = None, total: int | None = None, message: str = ""
    ) -> None:
        """Say how far the stage is: a fraction from 0 to 1, or `done` of `total`."""
        ...

    def emit_progress(
        self, fraction: float | None = None, *, done: int | None = None, total: int | None = None, message: str = ""
    ) -> None:
        """The same as `progress`."""
        ...

    def get_provider(self, name: str) -> LLM:
        """The language model of another provider. Raises `FlowMasonError` (`NO_PROVIDER`)."""
        ...


_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_LONGEST_ANSWER = 4_000_000


def parse_json(text: str) -> Any:
    """Read the JSON that a model wrote: plain, in a fenced block, or the first object or list amid prose.

    Raises `StageError` (`BAD_ANSWER`) where there is none.
    """
    if len(text) > _LONGEST_ANSWER:
        raise StageError(f"the answer has {len(text)} characters, too long to look for JSON", code=Code.BAD_ANSWER)
    candidates = [text.strip(), *(match.strip() for match in _FENCE.findall(text))]
    for candidate in candidates:
        try:
            return msgspec.json.decode(candidate.encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            continue
    for start, end in _balanced(text):
        try:
            return msgspec.json.decode(text[start:end].encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            continue
    shown = text.strip()[:200]
    raise StageError(f"the answer holds no JSON: {shown!r}", code=Code.BAD_ANSWER)


def _balanced(text: str) -> list[tuple[int, int]]:
    """Spans of outermost `{…}` and `[…]`, brackets inside strings not counted; in the order of their start."""
    spans: list[tuple[int, int]] = []
    stack: list[tuple[str, int]] = []
    in_string = False
    skip = False
    for position, character in enumerate(text):
        if skip:
            skip = False
        elif in_string:
            if character == "\\":
                skip = True
            elif character == '"':
                in_string = False
        elif character == '"' and stack:
            in_string = True
        elif character in "{[":
            stack.append(("}" if character == "{" else "]", position))
        elif character in "}]" and stack:
            if stack[-1][0] != character:
                stack.clear()  # not JSON up to here; what follows may be
                continue
            _, start = stack.pop()
            if not stack:
                spans.append((start, position + 1))
    return spans
