"""From a Python exception to a `Failure`: its code, whether it may be retried, and its trace."""

from __future__ import annotations

import asyncio
import math
import traceback
from typing import Any

import msgspec

from flowmason.errors import Code, Failure, FlowMasonError, Retry
from flowmason.policy import INLINE_LIMIT, STAGE_TIMEOUT_MS_MAX
from flowmason.region.plain import plain, said

_LONGEST = 4000
_LONGEST_WORD = 200
_DEEPEST_CAUSE = 8
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Failure).decode
_pack = msgspec.msgpack.Encoder().encode


def failure_of(error: BaseException, *, path: str) -> Failure:
    """What `error` says, blamed on the stage at `path`, whatever a component has put into it.

    Texts are whole: they are `shortened` once secrets are masked in them.
    """
    if isinstance(error, FlowMasonError):
        failure = sound(error.failure).at(path)
        if not failure.type:
            failure = msgspec.structs.replace(failure, type=said(type(error).__name__))
        return failure
    if isinstance(error, KeyboardInterrupt | SystemExit | asyncio.CancelledError):
        # A component that calls sys.exit() ends its stage, not the worker; one that was not cancelled did not end so.
        error = RuntimeError(f"the component raised {type(error).__name__}")
    code, retry = Code.EXECUTION, Retry.NEVER
    if isinstance(error, TimeoutError):
        code, retry = Code.TIMEOUT, Retry.NOW
    elif isinstance(error, ConnectionError):
        code, retry = Code.CONNECTIVITY, Retry.NOW
    elif isinstance(error, MemoryError):
        code = Code.RESOURCE_EXHAUSTED
    return Failure(
        code=code,
        message=said(error) or said(type(error).__name__),
        type=said(type(error).__name__),
        stage=path,
        retry=retry,
        trace=_trace(error),
    )


def sound(failure: Failure) -> Failure:
    """The failure with nothing in it that a journal could not hold or its readers not read."""
    try:
        found = _decode(_encode(failure))
        _pack(found)  # JSON takes integers of any size
    except Exception:
        found = _mended(failure, _DEEPEST_CAUSE)
    if found.retry_after_ms is not None and found.retry_after_ms > STAGE_TIMEOUT_MS_MAX:
        found = msgspec.structs.replace(found, retry_after_ms=STAGE_TIMEOUT_MS_MAX)
    return found


def shortened(failure: Failure) -> Failure:
    """The failure with long texts cut to 4,000 characters, and without details of more than 64 KiB."""
    return _shortened(failure, _DEEPEST_CAUSE)


def _shortened(failure: Failure, deeper: int) -> Failure:
    changed: dict[str, Any] = {}
    for name, most in (("code", _LONGEST_WORD), ("type", _LONGEST_WORD), ("message", _LONGEST), ("help", _LONGEST)):
        text = getattr(failure, name)
        if text and len(text) > most:
            changed[name] = text[:most] + "…"
    if failure.trace and len(failure.trace) > _LONGEST:
        changed["trace"] = failure.trace[-_LONGEST:]
    if failure.details and (size := len(_encode(failure.details))) > INLINE_LIMIT:
        changed["details"] = {"left_out": f"{size} bytes"}
    if failure.cause is not None:
        changed["cause"] = _shortened(failure.cause, deeper - 1) if deeper else None
    return msgspec.structs.replace(failure, **changed) if changed else failure


def _mended(failure: Failure, deeper: int) -> Failure:
    details: Any = failure.details
    if details is not None:
        details = plain(details)
        details = details if isinstance(details, dict) else {"details": details}
        details = {said(key): value for key, value in details.items()}
    return Failure(
        code=said(failure.code) or Code.EXECUTION,
        message=said(failure.message),
        phase=said(failure.phase),
        type=said(failure.type),
        stage=None if failure.stage is None else said(failure.stage),
        retry=failure.retry if failure.retry in tuple(Retry) else Retry.NEVER,
        retry_after_ms=_milliseconds(failure.retry_after_ms),
        cause=_mended(failure.cause, deeper - 1) if isinstance(failure.cause, Failure) and deeper else None,
        details=details,
        help=None if failure.help is None else said(failure.help),
        trace=None if failure.trace is None else said(failure.trace),
    )


def _milliseconds(given: Any) -> int | None:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return None
    return min(max(0, int(given)), STAGE_TIMEOUT_MS_MAX)


def _trace(error: BaseException) -> str | None:
    try:
        return said("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    except Exception:
        return None  # its own __str__ or notes raise
