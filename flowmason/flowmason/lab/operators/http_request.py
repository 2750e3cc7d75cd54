"""Call an HTTP service through the guarded client that the context gives."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Literal

from flowmason.component import Context, operator
from flowmason.component.models import Field, OperatorInput, OperatorOutput
from flowmason.errors import Code, Retry, RetryableError, StageError, StageTimeoutError
from flowmason.policy import Effect

_MEBIBYTE = 1024 * 1024
_REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
_READS = ("GET", "HEAD", "OPTIONS")
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError")
"""Errors of the client that come before the first byte of the request has left."""


@operator(
    name="http_request",
    category="core",
    description="Call an HTTP service. Any status is an answer; only what never came back is an error.",
    icon="globe",
    color="#3B82F6",
    timeout_seconds=60,
    deterministic=False,
    effect_by={
        "field": "method",
        "map": dict.fromkeys(_REPEATABLE, Effect.IDEMPOTENT.value),
        "default": Effect.UNSAFE.value,
    },
)
class HttpRequest:
    """GET, HEAD, OPTIONS, PUT and DELETE may be repeated; POST and PATCH must not happen twice.

    Calls that change something carry the header `Idempotency-Key`, the same for every attempt of the stage.
    """

    class Input(OperatorInput):
        url: str
        method: Literal["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] = "GET"
        headers: dict[str, str] = {}
        body: Any = Field(default=None, description="Text or bytes as they are; anything else is sent as JSON.")
        params: dict[str, Any] = Field(default={}, description="Query parameters; a list repeats its key.")
        timeout: float = Field(default=30, ge=1, le=300, description="Seconds, for the whole call.")
        follow_redirects: bool = True
        verify_ssl: bool = Field(default=True, description="False is refused.")
        max_response_bytes: int = Field(default=10 * _MEBIBYTE, ge=1, le=64 * _MEBIBYTE)

    class Output(OperatorOutput):
        status_code: int
        headers: dict[str, str] = Field(description="Names in lower case.")
        body: Any = Field(default=None, description="JSON where the answer says so, else text, else bytes.")
        elapsed_ms: float
        success: bool = Field(description="Whether the status is 2xx.")
        url: str = Field(description="After redirects.")

    async def execute(self, input: Input, context: Context) -> Output:
        if not input.verify_ssl:
            raise StageError(
                "verify_ssl: false is not supported",
                code=Code.NOT_SUPPORTED,
                help="Trust the server's authority instead: SSL_CERT_FILE names a file of certificates.",
                details={"field": "verify_ssl"},
            )
        started = time.perf_counter()
        try:
            async with asyncio.timeout(input.timeout):
                response, content = await _call(input, context)
        except StageTimeoutError:
            raise
        except TimeoutError as error:
            raise _timed_out(input) from error
        return self.Output(
            status_code=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=_body(content, response.headers.get("content-type", "")),
            elapsed_ms=round((time.perf_counter() - started) * 1000, 3),
            success=200 <= response.status_code < 300,
            url=str(response.url),
        )


async def _call(input: HttpRequest.Input, context: Context) -> tuple[Any, bytes]:
    import httpx2

    client = context.http
    try:
        request = client.build_request(
            input.method,
            input.url,
            headers=_headers(input, context),
            params=_params(input.params) or None,
            timeout=input.timeout,
            **_payload(input.body),
        )
    except (httpx2.InvalidURL, ValueError, TypeError) as error:
        raise StageError(f"not a request that can be made: {error}", code=Code.INVALID_INPUT) from error
    try:
        response = await client.send(request, stream=True, follow_redirects=input.follow_redirects)
        try:
            return response, await _read(response, input.max_response_bytes)
        finally:
            await response.aclose()
    except httpx2.TimeoutException as error:
        raise _timed_out(input, sent=type(error).__name__ not in _NEVER_SENT) from error
    except (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
        raise StageError(f"{input.method} {_shown(input)}: {error}", code=Code.INVALID_INPUT) from error
    except httpx2.DecodingError as error:
        raise StageError(f"{input.method} {_shown(input)}: the answer cannot be decoded: {error}") from error
    except httpx2.TransportError as error:
        raise _broken(input, error) from error


def _headers(input: HttpRequest.Input, context: Context) -> dict[str, str]:
    headers = dict(input.headers)
    if input.method not in _READS and not any(name.lower() == "idempotency-key" for name in headers):
        headers["Idempotency-Key"] = context.idempotency_key
    return headers


def _params(params: dict[str, Any]) -> dict[str, Any]:
    def text(value: Any) -> Any:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list | tuple):
            return [text(item) for item in value if item is not None]
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value

    return {key: text(value) for key, value in params.items() if value is not None}


def _payload(body: Any) -> dict[str, Any]:
    if body is None:
        return {}
    return {"content": body} if isinstance(body, str | bytes) else {"json": body}


async def _read(response: Any, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > limit:
            raise StageError(
                f"the answer is larger than {limit} bytes",
                code=Code.RESOURCE_EXHAUSTED,
                help="Raise max_response_bytes (at most 64 MiB) or ask for less.",
            )
        pieces.append(piece)
    return b"".join(pieces)


def _body(content: bytes, content_type: str) -> Any:
    if not content:
        return None
    kind, _, options = content_type.lower().partition(";")
    kind = kind.strip()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(content)
        except ValueError:
            pass  # it only says it is JSON
    charset = options.partition("charset=")[2].split(";")[0].strip().strip('"') or "utf-8"
    try:
        return content.decode(charset)
    except (LookupError, UnicodeDecodeError):
        return content.decode(errors="replace") if kind.startswith("text/") else content


def _timed_out(input: HttpRequest.Input, sent: bool = True) -> StageTimeoutError:
    message = f"{input.method} {_shown(input)}: no answer within {input.timeout:g} s"
    if sent and input.method not in _REPEATABLE:
        return StageTimeoutError(message, code=Code.OUTCOME_UNKNOWN, retry=Retry.NEVER, help=_UNKNOWN)
    return StageTimeoutError(message)


def _broken(input: HttpRequest.Input, error: Exception) -> StageError:
    message = f"{input.method} {_shown(input)}: {str(error) or type(error).__name__}"
    if type(error).__name__ not in _NEVER_SENT and input.method not in _REPEATABLE:
        return StageError(message, code=Code.OUTCOME_UNKNOWN, help=_UNKNOWN)
    return RetryableError(message)


_UNKNOWN = "The request may have been carried out. Look before you run the stage again."


def _shown(input: HttpRequest.Input) -> str:
    """The URL without what may be secret: its query and user."""
    head = input.url.split("?", 1)[0].split("#", 1)[0]
    scheme, separator, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
