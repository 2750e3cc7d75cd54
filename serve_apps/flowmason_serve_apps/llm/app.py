"""`make_gateway`: the HTTP endpoint of served models, with the Studio's keys and limits before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from flowmason.errors import Code, UsageError
from flowmason.journal_sql import open_journal
from flowmason.providers import failures
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.permissions import Permission
from flowmason_serve_apps.llm.bodies import ChatAsked, CompletionAsked
from flowmason_serve_apps.llm.engines import Card, Chunk
from flowmason_serve_apps.llm.folding import folded
from flowmason_serve_apps.llm.spoken import Spoken
from flowmason_serve_apps.llm.till import Models, Till
from flowmason_serve_apps.studio import problems
from flowmason_serve_apps.studio.guard.callers import allow
from flowmason_serve_apps.studio.guard.door import Door
from flowmason_serve_apps.studio.guard.limiting import limiter_of
from flowmason_serve_apps.studio.services import Services, open_services
from flowmason_serve_apps.studio.settings import StudioSettings, settings_from

_Asker = Annotated[Caller, Depends(allow(Permission.MODELS_USE))]
_CODES = {400: Code.USAGE, 404: Code.NOT_FOUND, 429: Code.RATE_LIMITED, 503: Code.ENGINE_UNAVAILABLE}
_DONE = b"data: [DONE]\n\n"


class ModelError(Exception):
    """What an engine said in the place of an answer."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message") or "the model failed"))
        given = error.get("code")
        self.status = given if isinstance(given, int) and 400 <= given < 600 else 500
        self.too_long = failures.too_long(self.status, str(self), str(error.get("type") or ""))

    @property
    def code(self) -> str:
        """The failure's name, as the Studio's problems have it."""
        return str(Code.CONTEXT_EXCEEDED if self.too_long else _CODES.get(self.status, Code.PROVIDER))


def make_gateway(models: Models, settings: StudioSettings | None = None, services: Services | None = None) -> FastAPI:
    """The application. Its services are opened when it starts, unless they are handed in, and closed when it ends."""
    known = services.settings if services is not None else settings or settings_from()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services or open_services(known)
        # The ledger and the budgets are written by their owner alone: this is no part of what the API's role may do.
        journal = await asyncio.to_thread(open_journal, known.database_url)
        app.state.till = Till(journal, app.state.services.now)
        try:
            yield
        finally:
            await app.state.till.close()
            await journal.close()
            await app.state.services.close()
            await limiter.close()

    app = FastAPI(
        title="FlowMason models", version=version("flowmason"), lifespan=lifespan,
        openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    problems.install(app)

    @app.exception_handler(ModelError)
    async def _failed(request: Request, error: ModelError) -> Response:
        help_ = failures.CONTEXT_HELP if error.too_long else None
        return problems.problem(error.status, str(error), code=error.code, instance=request.url.path, help=help_)

    @app.get("/health", operation_id="health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.get("/v1/models")
    async def list_models(caller: _Asker) -> dict[str, Any]:
        cards = await models.cards()
        return {"object": "list", "data": [each for card in cards.values() for each in _listed(card)]}

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str, caller: _Asker) -> dict[str, Any]:
        for card in (await models.cards()).values():
            for each in _listed(card):
                if each["id"] == name:
                    return each
        raise UsageError(f"no model {name!r} is served here", code=Code.NOT_FOUND)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatAsked, request: Request, caller: _Asker) -> Response:
        return await _answered(models, asked, request, caller)

    @app.post("/v1/completions")
    async def completions(asked: CompletionAsked, request: Request, caller: _Asker) -> Response:
        return await _answered(models, asked, request, caller)

    limiter = limiter_of(known.redis_url, known.replicas)
    app.add_middleware(Door, settings=known, limiter=limiter)
    app.add_middleware(Spoken)
    return app


async def _answered(models: Models, asked: ChatAsked | CompletionAsked, request: Request, caller: Caller) -> Response:
    till: Till = request.app.state.till
    chunks = _checked(till.answered(models, asked.plain(), caller))
    # What is refused is refused with a status, so the first piece is awaited before anything is sent.
    first = asyncio.ensure_future(anext(chunks, None))
    if not await _before_they_leave(request, first):
        return Response(status_code=499)
    begun = first.result()
    if asked.stream:
        return StreamingResponse(_events(begun, chunks, asked.with_usage), media_type="text/event-stream")
    whole = asyncio.ensure_future(_collected(begun, chunks))
    if not await _before_they_leave(request, whole):
        return Response(status_code=499)
    return Response(msgspec.json.encode(folded(whole.result())), media_type="application/json")


async def _checked(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    """The same chunks; an error among them is raised. Raises `ModelError`."""
    async with aclosing(chunks) as kept:
        async for chunk in kept:
            if "error" in chunk:
                raise ModelError(chunk["error"])
            yield chunk


async def _collected(first: Chunk | None, rest: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    return [*([first] if first is not None else []), *[each async for each in rest]]


async def _events(first: Chunk | None, rest: AsyncGenerator[Chunk, None], with_usage: bool) -> AsyncIterator[bytes]:
    """The stream as the protocol has it: an error that comes late is an event of its own."""
    try:
        async with aclosing(rest) as kept:
            if first is not None:
                yield _event(first)
            async for chunk in kept:
                if chunk.get("choices") or with_usage:
                    yield _event(chunk)
    except ModelError as error:
        yield _event({"error": {"message": str(error), "type": error.code.lower(), "code": error.status}})
    yield _DONE


def _event(chunk: Chunk) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


async def _before_they_leave(request: Request, work: asyncio.Future[Any]) -> bool:
    """Wait for some work, unless the caller goes away: then it is cancelled, and with it the generation."""
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
    await asyncio.wait([work])
    return not work.cancelled()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _listed(card: Card) -> list[dict[str, Any]]:
    about = {"object": "model", "created": 0, "owned_by": "flowmason", "engine": card.engine, "context": card.context}
    if card.price is not None:
        amounts = {"input": card.price.input, "output": card.price.output, "cached": card.price.cached}
        about["price"] = {key: f"{each:f}" for key, each in amounts.items() if each is not None}
    return [
        {"id": card.name, **about, "description": card.description},
        *({"id": each, **about, "parent": card.name} for each in card.adapters),
    ]
