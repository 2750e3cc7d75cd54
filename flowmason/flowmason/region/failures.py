"""From a Python exception to a `Failure`: its code, whether it may be retried, and its trace."""

from __future__ import annotations

import traceback

import msgspec

from flowmason.errors import Code, Failure, FlowMasonError, Retry

_TRACE_LIMIT = 4000


def failure_of(error: BaseException, *, path: str) -> Failure:
    """What the journal keeps of `error`, blamed on the stage at `path`."""
    if isinstance(error, FlowMasonError):
        failure = error.failure.at(path)
        if not failure.type:
            failure = msgspec.structs.replace(failure, type=type(error).__name__)
        return failure
    code, retry = Code.EXECUTION, Retry.NEVER
    if isinstance(error, TimeoutError):
        code, retry = Code.TIMEOUT, Retry.NOW
    elif isinstance(error, ConnectionError):
        code, retry = Code.CONNECTIVITY, Retry.NOW
    elif isinstance(error, MemoryError):
        code = Code.RESOURCE_EXHAUSTED
    message = str(error) or type(error).__name__
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return Failure(
        code=code,
        message=message[:_TRACE_LIMIT],
        type=type(error).__name__,
        stage=path,
        retry=retry,
        trace=trace[-_TRACE_LIMIT:],
    )
