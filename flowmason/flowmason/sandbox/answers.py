"""What a sandboxed component may ask its worker for. Each is what the ordinary context offers, with the same rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import httpx2
import msgspec

from flowmason.component import Context
from flowmason.errors import Code, StageError

if TYPE_CHECKING:
    from collections.abc import Awaitable

MOST_ANSWER = 64 * 1024 * 1024
_NOT_FORWARDED = frozenset({"connection", "content-encoding", "content-length", "transfer-encoding"})


class OrdinaryContext(Context, Protocol):
    """The worker's own context of the stage that runs in the sandbox."""

    @property
    def http(self) -> Any: ...


def known(context: Any, *, component: str, pure: bool) -> dict[str, Any]:
    """What a component may read without asking, as plain data."""
    found = {
        name: getattr(context, name)
        for name in (
            "run_id",
            "pipeline_id",
            "pipeline_version",
            "stage_id",
            "attempt",
            "round",
            "trace_id",
            "pipeline_input",
        )
    }
    return {
        **found,
        "path": list(context.path),
        "upstream": dict(context.upstream),
        "variables": dict(context.variables),
        "environment": dict(context.environment),
        "component": component,
        "pure": pure,
    }


async def answer(context: Any, what: str, arguments: dict[str, Any], on_piece: Callable[[str], None]) -> Any:
    """Do what was asked. Raises what the ordinary context raises; `StageError` for anything else."""
    asked: dict[str, Callable[..., Awaitable[Any]]] = {
        "generate": _generate,
        "http": _http,
        "cache_get": _cache_get,
        "cache_set": _cache_set,
    }
    if what not in asked:
        raise StageError(f"the sandbox asked for {what!r}, which nobody offers", code=Code.SECURITY)
    return await asked[what](context, arguments, on_piece)


def answer_now(context: Any, what: str, arguments: dict[str, Any]) -> Any:
    """The same, for what is asked without awaiting."""
    if what == "read_blob":
        return context.read_blob(arguments["reference"])
    if what == "make_blob":
        return context.make_blob(arguments["data"], arguments["type"])
    raise StageError(f"the sandbox asked for {what!r}, which nobody offers", code=Code.SECURITY)


def note(context: Any, what: str, arguments: dict[str, Any]) -> None:
    """Pass on a log line or progress."""
    if what == "log":
        level = arguments["level"] if arguments["level"] in ("debug", "info", "warning", "error") else "info"
        getattr(context.logger, level)(arguments["message"], **{str(k): v for k, v in arguments["fields"].items()})
    elif what == "progress":
        context.progress(
            arguments["fraction"], done=arguments["done"], total=arguments["total"], message=str(arguments["message"])
        )


async def _generate(context: Any, arguments: dict[str, Any], on_piece: Callable[[str], None]) -> Any:
    prompt = arguments.pop("prompt")
    stream = context.llm.generate(prompt, **arguments, on_piece=on_piece)
    return msgspec.to_builtins(await stream)


async def _http(context: Any, arguments: dict[str, Any], _: Callable[[str], None]) -> Any:
    try:
        response = await context.http.request(
            arguments["method"],
            arguments["url"],
            headers=[(str(name), str(value)) for name, value in arguments["headers"]],
            content=arguments["content"],
        )
    except httpx2.TransportError as error:
        raise StageError(str(error) or type(error).__name__, code=Code.CONNECTIVITY) from error
    if len(response.content) > MOST_ANSWER:
        raise StageError(f"the answer is larger than {MOST_ANSWER} bytes", code=Code.CONNECTIVITY)
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _NOT_FORWARDED]
    return {"status": response.status_code, "headers": headers, "content": response.content}


async def _cache_get(context: Any, arguments: dict[str, Any], _: Callable[[str], None]) -> Any:
    return await context.cache.get(str(arguments["key"]))


async def _cache_set(context: Any, arguments: dict[str, Any], _: Callable[[str], None]) -> None:
    await context.cache.set(str(arguments["key"]), arguments["value"], arguments["ttl"])
