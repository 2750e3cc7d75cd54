"""The way from an attempt to a provider: through its limits, with the attempt's clock stopped meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from flowmason.errors import Code, FlowMasonError, ProviderError
from flowmason.ids import format_path, sha256
from flowmason.limiter import Breaker, CallLimiter, Cause, Entry, Finish, Ticket
from flowmason.report import LET_IN, LINED_UP, Progress

if TYPE_CHECKING:
    from flowmason.model import ModelProvider, ModelRequest
    from flowmason.region.context import StageContext
    from flowmason.region.run import RegionRun
    from flowmason.state import StageState

PATIENCE_S = 60.0
"""Who was asked to come back later waits so long where they are; more, and the attempt ends and is repeated then."""
_FIRST_WORD_S = 0.5
_NEXT_WORD_S = 5.0
"""A region that says nothing for long is taken for stuck."""


class Gate:
    """One call of an attempt on its way to its provider. `chained`: others can be asked instead."""

    def __init__(
        self,
        run: RegionRun,
        stage: StageState,
        context: StageContext,
        provider: ModelProvider,
        request: ModelRequest,
        n: int,
        chained: bool,
    ) -> None:
        self._run, self._stage, self._context, self._provider = run, stage, context, provider
        terms = run.worker.services.terms(provider.name)
        if chained and terms.breaker is None:
            terms = msgspec.structs.replace(terms, breaker=Breaker())
        self._subject = subject_of(provider)
        name = f"{run.region.id}/{format_path(stage.path)}/{stage.attempt}/{n}"
        tokens = 0
        if terms.tokens_per_minute is not None:
            from flowmason.providers.counting import likely

            tokens = likely(provider, request)
        self._ticket = Ticket(name, "", str(run.region.org_id), terms, 0.0 if chained else PATIENCE_S, tokens)

    @property
    def _limiter(self) -> CallLimiter:
        return self._run.worker.services.limiter(self._ticket.terms)

    async def enter(self) -> None:
        """Wait until the call may be made. Raises `ProviderError` (`RATE_LIMITED`, `CONNECTIVITY`) where it may not."""
        task = asyncio.ensure_future(self._limiter.enter(self._subject, self._ticket))
        try:
            if not (await asyncio.wait([task], timeout=_FIRST_WORD_S))[0]:
                with self._context.untimed(_FIRST_WORD_S):
                    await self._wait(task)
            entry = await task
        except asyncio.CancelledError:
            if not task.done():
                task.cancel()
            elif not task.cancelled() and task.exception() is None:
                await self.leave(asyncio.CancelledError(), 0)
            raise
        if entry.refused is not None:
            raise self._refusal(entry.refused, entry.wait_s)

    async def leave(self, error: BaseException | None, tokens: int) -> None:
        """The call is over, and used so many tokens."""
        await self._limiter.leave(self._subject, self._ticket, finish_of(error, tokens))

    async def _wait(self, task: asyncio.Task[Entry]) -> None:
        name = self._provider.name
        self._context.logger.info(LINED_UP, provider=name)
        while not (await asyncio.wait([task], timeout=_NEXT_WORD_S))[0]:
            told = Progress(self._stage.path, self._stage.attempt, 0.0, None, f"waits for its turn at {name}")
            self._run.outbox.side(told)
        self._context.logger.info(LET_IN, provider=name)

    def _refusal(self, cause: Cause, wait_s: float) -> ProviderError:
        name = self._provider.name
        broken = cause is Cause.BROKEN
        reason = "could not be reached several times in a row" if broken else "asked us to come back later"
        return ProviderError(
            f"{name} {reason}, and is left alone for {wait_s:.1f} s more",
            code=Code.CONNECTIVITY if broken else Code.RATE_LIMITED,
            retry_after_ms=int(wait_s * 1000) + 1,
            details={"provider": name, "left_alone": True},
        )


def subject_of(provider: ModelProvider) -> str:
    """Whose limits they are: those of an account at an address, whatever its provider is called in a project."""
    url, key = getattr(provider, "base_url", None), getattr(provider, "key", None)
    return f"{url}#{sha256(key.encode())[7:23] if key else ''}" if url else provider.name


def finish_of(error: BaseException | None, tokens: int) -> Finish:
    """What the end of a call says about its provider."""
    if error is None:
        return Finish(reached=True, tokens=tokens)
    if not isinstance(error, FlowMasonError):
        return Finish(reached=None, tokens=tokens)
    failure = error.failure
    later = failure.code in (Code.RATE_LIMITED, Code.CONNECTIVITY) and failure.retry_after_ms is not None
    come_back = (failure.retry_after_ms or 0) / 1000 if later else None
    return Finish(reached=failure.code != Code.CONNECTIVITY, come_back_s=come_back, tokens=tokens)
