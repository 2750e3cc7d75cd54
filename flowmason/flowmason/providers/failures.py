"""How providers fail, in our own words: which `ProviderError` stands for which answer."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from flowmason.errors import Code, EgressError, ProviderError, Retry

_LONGEST_WAIT_MS = 3_600_000
_TOO_LONG = ("exceed_context_size_error", "context_length_exceeded")
_TOO_LONG_WORDS = re.compile(
    "maximum context length|max_model_len|maximum model length|exceeds the available context size|prompt is too long",
    re.IGNORECASE,
)
CONTEXT_HELP = (
    "Ask with a shorter prompt or a lower max_tokens in llm_settings; a served model takes more at once where its "
    "engine_args say so (llamacpp: context, vllm: max_model_len)."
)
_OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_error")


def of_status(name: str, status: int, message: str, headers: Mapping[str, str], kind: str = "") -> ProviderError:
    """The error for an HTTP status; `kind` is the provider's own word for it, where it gives one."""
    details = {"provider": name, "status": status, **({"kind": kind} if kind else {})}
    text = f"{name} answered {status}: {message}"
    if status in (401, 403):
        return ProviderError(
            text, code=Code.SECURITY, details=details, help=f"Check the key of the provider {name!r} and its rights."
        )
    if kind in _OUT_OF_MONEY:
        return ProviderError(text, code=Code.RATE_LIMITED, details=details, help=f"The account at {name} has run dry.")
    if status == 429:
        return _later(text, Code.RATE_LIMITED, details, headers)
    if status in (408, 409) or status >= 500:
        return _later(text, Code.CONNECTIVITY, details, headers)
    if too_long(status, message, kind):
        return ProviderError(text, code=Code.CONTEXT_EXCEEDED, details=details, help=CONTEXT_HELP)
    return ProviderError(text, code=Code.PROVIDER, details=details)


def too_long(status: int, message: str, kind: str = "") -> bool:
    """Whether a refusal says that prompt and answer do not fit in what the model takes at once."""
    return status in (400, 413, 422) and (kind in _TOO_LONG or _TOO_LONG_WORDS.search(message) is not None)


_KINDS = {
    "authentication_error": 401,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "tokens": 429,
    "overloaded_error": 529,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "exceed_context_size_error": 400,
}


def of_stream(name: str, body: Any, message: str) -> ProviderError:
    """The error for one that came in the middle of a stream, which has no status of its own."""
    error = body.get("error", body) if isinstance(body, Mapping) else {}
    kind = str(error.get("type") or error.get("code") or "") if isinstance(error, Mapping) else ""
    given = error.get("code") if isinstance(error, Mapping) else None
    status = _KINDS.get(kind) or _KINDS.get(str(given)) or (given if isinstance(given, int) else 500)
    return of_status(name, status, message, {}, kind)


def unreachable(name: str, message: str) -> ProviderError:
    """The provider was not reached, or the connection broke."""
    return ProviderError(
        f"{name} could not be reached: {message}",
        code=Code.CONNECTIVITY,
        retry=Retry.NOW,
        details={"provider": name},
    )


def too_slow(name: str, seconds: float) -> ProviderError:
    """The call was given up."""
    return ProviderError(
        f"{name} did not finish its answer within {seconds:g} s",
        code=Code.TIMEOUT,
        retry=Retry.NOW,
        details={"provider": name},
    )


def bad_request(name: str, message: str) -> ProviderError:
    """The provider cannot do what is asked; asking again would not help."""
    return ProviderError(f"{name}: {message}", code=Code.PROVIDER, details={"provider": name})


def egress_error(error: BaseException) -> EgressError | None:
    """The guard's refusal among the causes of an SDK's error, if there is one."""
    return next((link for link in _causes(error) if isinstance(link, EgressError)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(20):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _later(text: str, code: str, details: dict[str, Any], headers: Mapping[str, str]) -> ProviderError:
    wait = _retry_after_ms(headers)
    if wait is None:
        return ProviderError(text, code=code, details=details, retry=Retry.NOW)
    return ProviderError(text, code=code, details=details, retry_after_ms=min(wait, _LONGEST_WAIT_MS))


def _retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """`retry-after-ms`, or `retry-after` in seconds or as a date; at least 0."""
    for name, scale in (("retry-after-ms", 1.0), ("retry-after", 1000.0)):
        given = headers.get(name)
        if not given:
            continue
        try:
            return max(0, int(float(given) * scale))
        except (ValueError, OverflowError):
            pass
        try:
            return max(0, int((parsedate_to_datetime(given).timestamp() - time.time()) * 1000))
        except (ValueError, TypeError):
            continue
    return None
