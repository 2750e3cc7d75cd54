"""Chains of providers: who is asked next where one cannot be reached or asks to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from flowmason.errors import Code, Failure, FlowMasonError, ProviderError, Retry, UsageError, did_you_mean
from flowmason.model import ModelRequest, ModelResponse

FALLS_OVER = frozenset({Code.CONNECTIVITY, Code.RATE_LIMITED})
"""Failures after which the next provider of a chain is asked. What is wrong with the request, the key or the budget
would be wrong, or hidden, elsewhere."""
_KEYS = ("provider", "model")


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One member of a chain."""

    provider: str
    model: str | None = None
    """None: of the first member, the model that the call names; of the others, their provider's own."""


def read_chain(name: str, given: Any, providers: Collection[str], chains: Collection[str]) -> list[Candidate]:
    """A chain as people write it: `["anthropic", {"provider": "groq", "model": "…"}]`.

    `providers` are those that may be in it, `chains` the names of chains, which may not. Raises `UsageError`, whose
    `details` say the `place` and the `nearest` right name.
    """
    if not isinstance(given, list | tuple) or not given:
        raise UsageError('a chain is a list of providers, such as ["anthropic", "groq"]')
    found: list[Candidate] = []
    for index, item in enumerate(given):
        place = f"[{index}]"
        candidate = _candidate(item, place)
        if candidate.provider in chains or candidate.provider == name:
            raise _refused(place, f"{candidate.provider!r} is a chain; a chain names providers")
        if candidate.provider not in providers:
            near = did_you_mean(candidate.provider, sorted(providers))
            raise _refused(place, f"there is no provider {candidate.provider!r}", near)
        if candidate in found:
            raise _refused(place, f"{candidate.provider!r} is in the chain twice")
        found.append(candidate)
    return found


def _candidate(item: Any, place: str) -> Candidate:
    if isinstance(item, str):
        return Candidate(item)
    if not isinstance(item, Mapping):
        raise _refused(place, 'a provider\'s name or {"provider": …, "model": …} is expected')
    for key in item:
        if key not in _KEYS:
            raise _refused(f"{place}.{key}", f"unknown key {key!r}", did_you_mean(str(key), _KEYS))
    try:
        return msgspec.convert(item, Candidate)
    except msgspec.ValidationError as error:
        raise _refused(place, str(error)) from None


def _refused(place: str, reason: str, nearest: str | None = None) -> UsageError:
    return UsageError(reason, details={"place": place, "nearest": nearest})


def chain_of(name: str, providers: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """Whom a call to `name` goes to, in order, by the object `providers` of `flowmason.json`; a provider is a chain of
    itself."""
    given = providers.get(name) if name not in ("default", "extra") else None
    chain = given.get("chain") if isinstance(given, Mapping) else getattr(given, "chain", None)
    return msgspec.convert(msgspec.to_builtins(chain), tuple[Candidate, ...]) if chain else (Candidate(name),)


async def ask_in_turn(
    name: str,
    candidates: Sequence[Candidate],
    request: ModelRequest,
    ask: Callable[[str, ModelRequest], Awaitable[ModelResponse]],
    begun: Callable[[], bool],
) -> ModelResponse:
    """Ask the members of the chain `name` one after the other until one answers.

    A model that the request names is asked of the first one. Nobody else is asked once pieces of an answer have come
    (`begun`), nor after a failure that is not in `FALLS_OVER`. Raises what a single member raised; a `ProviderError`
    that names them all where several failed, which may be retried if any of them may.
    """
    failures: list[Failure] = []
    for index, candidate in enumerate(candidates):
        model = (request.model or candidate.model) if index == 0 else candidate.model
        try:
            return await ask(candidate.provider, msgspec.structs.replace(request, model=model))
        except FlowMasonError as error:
            failures.append(error.failure)
            if begun() or error.failure.code not in FALLS_OVER:
                if error.failure.code in (Code.BUDGET_EXCEEDED, Code.PRICE_UNKNOWN) or len(failures) == 1:
                    raise
                break
            if len(candidates) == 1:
                raise
    raise _nobody(name, [each.provider for each in candidates], failures)


def _nobody(name: str, members: Sequence[str], failures: Sequence[Failure]) -> ProviderError:
    tried = [
        {"provider": member, "code": failure.code, "message": failure.message}
        for member, failure in zip(members, failures, strict=False)
    ]
    text = "; ".join(f"{each['provider']}: {each['message']}" for each in tried)
    waits = [failure.retry_after_ms for failure in failures if failure.retry_after_ms is not None]
    now = any(failure.retry == Retry.NOW for failure in failures)
    return ProviderError(
        f"no provider of the chain {name!r} answered: {text}",
        code=failures[-1].code,
        details={"chain": name, "tried": tried},
        retry=Retry.NOW if now else None,
        retry_after_ms=min(waits) if waits and not now else None,
        help=failures[-1].help,
    )
