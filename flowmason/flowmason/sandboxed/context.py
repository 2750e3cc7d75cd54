"""`context` as a sandboxed component sees it: what it may know is data, everything else is asked of the worker."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import httpx2
import msgspec

from flowmason.component import ComponentContextError, parse_json
from flowmason.errors import Code, Failure, FlowMasonError, StageError
from flowmason.ids import RunId, StagePath, idempotency_key
from flowmason.model import ModelResponse
from flowmason.sandbox import wire


class Line:
    """The pipes to the worker: says things, and waits for answers."""

    def __init__(self, out: Any, at_once: socket.socket) -> None:
        """`at_once`: for what a component asks without awaiting it; it blocks this process."""
        self._out = out
        self._at_once = at_once
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Any], asyncio.Queue[str] | None]] = {}

    def say(self, message: wire.FromChild) -> None:
        """Send a message; blocks while the worker does not read."""
        data = memoryview(wire.frame(message))
        while data:
            data = data[self._out.write(data) :]

    def heard(self, message: wire.Answer | wire.Piece) -> None:
        """An answer, or a part of one, has come."""
        future, pieces = self._waiting.get(message.ask, (None, None))
        if isinstance(message, wire.Piece):
            if pieces is not None:
                pieces.put_nowait(message.text)
        elif future is not None and not future.done():
            if message.failure is not None:
                future.set_exception(_raised(message.failure))
            else:
                future.set_result(message.value)

    async def ask(self, call: int, what: str, pieces: asyncio.Queue[str] | None = None, /, **arguments: Any) -> Any:
        """Ask the worker and wait. Raises what it refuses with."""
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (future, pieces)
        try:
            self.say(wire.Ask(number, call, what, arguments))
            return await future
        finally:
            del self._waiting[number]

    def ask_now(self, call: int, what: str, /, **arguments: Any) -> Any:
        """Ask the worker and block until it answers."""
        self._at_once.sendall(wire.frame(wire.Ask(0, call, what, arguments)))
        answer = wire.decode_to_child(wire.receive(self._at_once))
        assert isinstance(answer, wire.Answer)
        if answer.failure is not None:
            raise _raised(answer.failure)
        return answer.value


class SandboxContext:
    """The `flowmason.component.Context` of one call."""

    def __init__(self, call: wire.Call, line: Line) -> None:
        self._call = call.call
        self._known = call.context
        self._line = line
        self._over = asyncio.Event()
        self.secrets = _Secrets(call.secrets, str(call.context["component"]))
        self.logger = _Logger(self)
        self.cancel_token = _CancelToken(self._over)
        self.cache = _Cache(self)

    def __getattr__(self, name: str) -> Any:
        # run_id, pipeline_id, pipeline_version, stage_id, attempt, round, trace_id, pipeline_input, upstream, …
        try:
            return self._known[name]
        except KeyError:
            raise AttributeError(f"context has no {name!r}") from None

    @property
    def path(self) -> StagePath:
        return tuple(self._known["path"])

    @property
    def idempotency_key(self) -> str:
        return self.idempotency_key_for("")

    def idempotency_key_for(self, name: str) -> str:
        if self._known["pure"]:
            raise ComponentContextError("context.idempotency_key is for components with an effect", code=Code.USAGE)
        return idempotency_key(RunId(self._known["run_id"]), self.path, self._known["round"], name)

    @cached_property
    def llm(self) -> _LLM:
        return _LLM(self, None)

    def get_provider(self, name: str) -> _LLM:
        return _LLM(self, name)

    @cached_property
    def http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=_Transport(self), trust_env=False)

    def read_blob(self, reference: Mapping[str, Any]) -> bytes:
        return bytes(self._line.ask_now(self._call, "read_blob", reference=dict(reference)))

    def make_blob(self, data: bytes, type: str = "application/octet-stream") -> dict[str, Any]:
        made: dict[str, Any] = self._line.ask_now(self._call, "make_blob", data=bytes(data), type=type)
        return made

    def progress(
        self, fraction: float | None = None, *, done: int | None = None, total: int | None = None, message: str = ""
    ) -> None:
        self.note("progress", fraction=fraction, done=done, total=total, message=message)

    emit_progress = progress

    async def ask(self, what: str, pieces: asyncio.Queue[str] | None = None, /, **arguments: Any) -> Any:
        """Ask the worker on behalf of this call."""
        return await self._line.ask(self._call, what, pieces, **arguments)

    def note(self, what: str, **arguments: Any) -> None:
        """Tell the worker something that needs no answer."""
        self._line.say(wire.Note(self._call, what, arguments))

    def close(self) -> None:
        """The call is over."""
        self._over.set()


class _LLM:
    def __init__(self, context: SandboxContext, provider: str | None) -> None:
        self._context = context
        self._provider = provider

    @property
    def provider_name(self) -> str:
        return self._provider or str(self._context.provider_name)

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
        pieces: asyncio.Queue[str] | None = None,
    ) -> ModelResponse:
        answer = await self._context.ask(
            "generate",
            pieces,
            prompt=prompt,
            system_prompt=system_prompt,
            model=model,
            temperature=temperature,
            max_tokens=max_tokens,
            schema=schema,
            provider=provider or self._provider,
            stop_sequences=list(stop_sequences) if stop_sequences else None,
            top_p=top_p,
        )
        return msgspec.convert(answer, ModelResponse)

    async def generate_object(self, prompt: str, output: Any, **options: Any) -> Any:
        from flowmason.component.objects import ask_model

        return await ask_model(self.generate, prompt, output, **options)

    async def generate_async(self, *arguments: Any, **options: Any) -> ModelResponse:
        return await self.generate(*arguments, **options)

    async def generate_stream(self, *arguments: Any, **options: Any) -> AsyncIterator[str]:
        pieces: asyncio.Queue[str] = asyncio.Queue()
        call = asyncio.create_task(self.generate(*arguments, pieces=pieces, **options))
        call.add_done_callback(lambda _: pieces.put_nowait(""))
        try:
            while (piece := await pieces.get()) or not call.done():
                if piece:
                    yield piece
            await call
        finally:
            call.cancel()

    def parse_json(self, text: str) -> Any:
        return parse_json(text)


class _Transport(httpx2.AsyncBaseTransport):
    """HTTP goes out where the worker's egress guard stands."""

    def __init__(self, context: SandboxContext) -> None:
        self._context = context

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            answer = await self._context.ask(
                "http",
                method=request.method,
                url=str(request.url),
                headers=[(name, value) for name, value in request.headers.multi_items() if name != "host"],
                content=await request.aread(),
            )
        except FlowMasonError as error:
            if error.failure.code == Code.CONNECTIVITY:
                raise httpx2.ConnectError(error.failure.message, request=request) from error
            raise
        headers = [(name, value) for name, value in answer["headers"]]
        return httpx2.Response(answer["status"], headers=headers, content=answer["content"], request=request)


class _Secrets:
    def __init__(self, given: Mapping[str, str], component: str) -> None:
        self._given = given
        self._component = component

    def get(self, name: str) -> str:
        if name not in self._given:
            raise ComponentContextError(
                f"{self._component} was not handed the secret {name!r}: it is not declared, or not set",
                code=Code.SECRET_MISSING,
                help=f'Declare secrets=["{name}"] on the component and set it: `fm secrets set {name}`.',
            )
        return self._given[name]


class _Logger:
    def __init__(self, context: SandboxContext) -> None:
        self._context = context

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        self._context.note("log", level=level, message=str(message), fields=fields)

    def debug(self, message: str, **fields: Any) -> None:
        self._write("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._write("warning", message, fields)

    warn = warning

    def error(self, message: str, **fields: Any) -> None:
        self._write("error", message, fields)


class _Cache:
    def __init__(self, context: SandboxContext) -> None:
        self._context = context

    async def get(self, key: str) -> Any | None:
        return await self._context.ask("cache_get", key=key)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        await self._context.ask("cache_set", key=key, value=value, ttl=ttl)


class _CancelToken:
    def __init__(self, over: asyncio.Event) -> None:
        self._over = over

    @property
    def cancelled(self) -> bool:
        return self._over.is_set()

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise asyncio.CancelledError

    async def wait(self) -> None:
        await self._over.wait()


def _raised(failure: Failure) -> FlowMasonError:
    error = StageError(failure.message)
    error.failure = failure
    return error
