"""Every error in one shape: `application/problem+json` (RFC 9457), made from a `Failure`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from flowmason.errors import Code, Failure, FlowMasonError, RefusedError, Retry
from flowmason.studio.identity.credentials import masked

log = logging.getLogger("flowmason.studio")

STATUS: dict[str, int] = {
    Code.NOT_FOUND: 404,
    Code.PIPELINE_NOT_FOUND: 404,
    Code.USAGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.CONFLICT: 409,
    Code.PRECONDITION_REQUIRED: 428,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.INVALID_DOCUMENT: 422,
    Code.INVALID_INPUT: 422,
    Code.INFEASIBLE_RESOURCES: 422,
    Code.NOT_SUPPORTED: 422,
    Code.BUDGET_EXCEEDED: 402,
    Code.RATE_LIMITED: 429,
    Code.QUEUE_FULL: 429,
    Code.VALUE_MISSING: 404,
    Code.STORAGE: 503,
    Code.ENGINE_UNAVAILABLE: 503,
}
"""The HTTP status of a failure's code; 500 for any other."""
_TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    402: "Over budget",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media type",
    421: "Misdirected",
    422: "Not valid",
    428: "Precondition required",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
}
_FAILED = "The request failed here; the operator's log says why."
MEDIA_TYPE = "application/problem+json"


def problem(
    status: int, detail: str, *, code: str, instance: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """An answer that tells of an error, without any credential that it quotes."""
    body = {
        "type": f"urn:flowmason:{code.lower().replace('_', '-')}",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "code": code,
        "instance": instance,
        **{key: value for key, value in more.items() if value is not None},
    }
    return Response(msgspec.json.encode(_masked(body)), status, headers, MEDIA_TYPE)


def of_failure(failure: Failure, instance: str, *, status: int | None = None) -> Response:
    """A `Failure` as an answer. What only the operator may know (traces, causes) stays out."""
    status = status or STATUS.get(failure.code, 500)
    headers = {}
    if failure.retry == Retry.AFTER and failure.retry_after_ms is not None:
        headers["Retry-After"] = str(max(1, -(-failure.retry_after_ms // 1000)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status >= 500:
        log.error("%s answered %d: %s", instance, status, failure.message)
    # What a database says names its address, which only the operator may know.
    told = status < 500 or (status == 503 and failure.code != Code.STORAGE)
    details = dict(failure.details or {})
    return problem(
        status,
        failure.message if told else _FAILED,
        code=failure.code,
        instance=instance,
        headers=headers,
        help=failure.help,
        faults=details.pop("faults", None),
        details=details or None,
    )


def unforeseen(instance: str, error: Exception) -> Response:
    """The answer to what nobody foresaw; the log has the whole of it."""
    log.error("%s failed", instance, exc_info=error)
    return problem(500, _FAILED, code=Code.INTERNAL, instance=instance)


def install(app: FastAPI) -> None:
    """Make the application answer every error in this shape."""

    @app.exception_handler(FlowMasonError)
    async def _ours(request: Request, error: FlowMasonError) -> Response:
        status = 422 if isinstance(error, RefusedError) else None
        return of_failure(error.failure, request.url.path, status=status)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        faults = [
            {
                "pointer": _pointer(each["loc"][1:]),
                "reason": each["msg"],
                "in": each["loc"][0],
            }
            for each in error.errors()
        ]
        detail = f"{faults[0]['in']} {faults[0]['pointer']}: {faults[0]['reason']}" if faults else "not valid"
        return problem(422, detail, code=Code.INVALID_INPUT, instance=request.url.path, faults=faults)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = {401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
        return problem(
            error.status_code,
            str(error.detail),
            code=code.get(error.status_code, "HTTP"),
            instance=request.url.path,
            headers=dict(error.headers or {}),
        )

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> Response:
        return unforeseen(request.url.path, error)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {_masked(key): _masked(each) for key, each in value.items()}
    return [_masked(each) for each in value] if isinstance(value, list | tuple) else value


def _pointer(steps: Sequence[object]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
