"""What one attempt of a stage spends on models: every call is held at its worst case, made, and settled.

An attempt under a budget has an allowance, reserved before it was sent out. A call that does not fit in what is left of
it never leaves. While other calls of the attempt are under way it waits for them to settle; else the attempt is over,
and comes back with a larger allowance if the budgets have one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from flowmason.errors import Code, FlowMasonError, ProviderError, StageError
from flowmason.policy import Effect
from flowmason.region.answers import again, answer_key
from flowmason.region.gate import Gate
from flowmason.report import FROM_CACHE
from flowmason.usage import Amount, Call, CallEnd, Limit, Usage, call_of, limit_words, total, used

if TYPE_CHECKING:
    from flowmason.model import ModelProvider, ModelRequest, ModelResponse
    from flowmason.region.context import StageContext
    from flowmason.region.run import RegionRun
    from flowmason.state import StageState

_LONGEST_REASON = 300


class _Heard:
    """Listens to an answer, and to what the model writes beside it: all of it is used when the call breaks off."""

    def __init__(self, on_delta: Callable[[str], None]) -> None:
        self._on_delta = on_delta
        self._pieces: list[str] = []

    def __call__(self, text: str) -> None:
        self._pieces.append(text)
        self._on_delta(text)

    def unseen(self, text: str) -> None:
        self._pieces.append(text)

    @property
    def written(self) -> str:
        return "".join(self._pieces)


class Spending:
    """The model calls of one attempt. `short` is what it would have had to be allowed, once a call did not fit."""

    def __init__(self, run: RegionRun, stage: StageState, context: StageContext) -> None:
        self.calls: list[Call] = []
        self.short: Amount | None = None
        self._run = run
        self._stage = stage
        self._context = context
        self._asked = 0
        self._limit: Limit | None = run.region.allowance
        self._held = Amount()
        self._spent = Amount()
        self._settled = asyncio.Event()

    @property
    def usage(self) -> Usage | None:
        """The sum of its calls so far."""
        return total(self.calls)

    async def ask(
        self,
        provider: ModelProvider,
        request: ModelRequest,
        on_delta: Callable[[str], None],
        *,
        chained: bool = False,
        cache_s: float | None = None,
    ) -> ModelResponse:
        """`provider.generate`, within its limits, accounted. `chained`: others can be asked instead; `cache_s`: an
        answer that was given to the same request so many seconds ago, or less, will do.

        Raises `FlowMasonError` (`BUDGET_EXCEEDED`, `PRICE_UNKNOWN`) where the call may not be made.
        """
        if cache_s is None:
            return await self._ask(provider, request, on_delta, chained)
        region, services = self._run.region, self._run.worker.services
        answers = services.answers(region.org_id, self._run.masker)
        key = answer_key(region.org_id, provider, services.asked_with(provider.name), request)
        # What a repeated attempt asks may have been answered badly the first time.
        repeated = self._stage.attempt > 1
        kept = None if repeated else await answers.find(key, cache_s)
        if kept is not None:
            self._context.logger.info(FROM_CACHE, provider=provider.name, model=kept.model, given_at=kept.at)
            self._record(Call(provider.name, kept.model, CallEnd.CACHED, started_at=self._run.worker.now()))
            on_delta(kept.content)
            return again(kept, provider)
        response = await self._ask(provider, request, on_delta, chained)
        await answers.keep(key, response, self._run.worker.now())
        return response

    async def _ask(
        self, provider: ModelProvider, request: ModelRequest, on_delta: Callable[[str], None], chained: bool
    ) -> ModelResponse:
        held = Amount()
        if self._run.region.capped:
            request, held = await self._hold(provider, request)
        self._asked += 1
        gate = Gate(self._run, self._stage, self._context, provider, request, self._asked, chained)
        try:
            await gate.enter()
        except asyncio.CancelledError:
            self._free(held)
            raise
        except ProviderError as error:
            model = request.model or provider.default_model
            self._settle(held, Call(provider.name, model, CallEnd.FAILED, failure=self._reason(error)))
            raise
        begun = self._run.worker.now()
        heard = _Heard(on_delta)
        try:
            response = await provider.generate(request, heard)
        except BaseException as error:
            broken = self._timed(self._broken(provider, request, heard.written, error), begun)
            await gate.leave(error, broken.usage.total_tokens)
            self._settle(held, broken)
            raise
        await gate.leave(None, response.usage.total_tokens)
        answered = call_of(response.usage, provider.name, response.model)
        self._settle(held, self._timed(msgspec.structs.replace(answered, resumed=bool(request.begun)), begun))
        return response

    def _timed(self, call: Call, begun: int) -> Call:
        return msgspec.structs.replace(call, started_at=begun, duration_ms=max(0, self._run.worker.now() - begun))

    def _broken(self, provider: ModelProvider, request: ModelRequest, text: str, error: BaseException) -> Call:
        from flowmason.providers.counting import estimated

        model = request.model or provider.default_model
        failure, resumed = self._reason(error) if isinstance(error, Exception) else "", bool(request.begun)
        if not text and failure:
            return Call(provider=provider.name, model=model, end=CallEnd.FAILED, failure=failure, resumed=resumed)
        aborted = call_of(estimated(provider, request, text), provider.name, model, CallEnd.ABORTED)
        return msgspec.structs.replace(aborted, failure=failure, resumed=resumed)

    def _reason(self, error: Exception) -> str:
        from flowmason.region.failures import failure_of

        failure = self._run.mask_failure(failure_of(error, path=""))
        return f"{failure.code}: {failure.message}"[:_LONGEST_REASON]

    async def _hold(self, provider: ModelProvider, request: ModelRequest) -> tuple[ModelRequest, Amount]:
        from flowmason.model import learn_of
        from flowmason.providers.counting import bounded, worst_case

        stage, limit = self._stage.stage, self._limit
        if stage.effect is Effect.PURE:
            raise StageError(
                f"{stage.component} is pure and asks a model; under a budget only components with an effect may",
                code=Code.NOT_SUPPORTED,
                help='Declare effect="idempotent" on the component: pure work may be repeated without a record.',
            )
        assert limit is not None
        await learn_of(provider, request.model)
        request = bounded(provider, request)
        worst, known = worst_case(provider, request)
        if not known and limit.nanodollars is not None:
            raise FlowMasonError(
                f"what {provider.name}/{request.model or provider.default_model} costs is not known, and the call is "
                "under a budget in dollars",
                code=Code.PRICE_UNKNOWN,
                help=f'Say it in flowmason.json: "providers": {{"{provider.name}": {{"extra": {{"price": '
                '{"input": "0.15", "output": "0.60"}}}}, in dollars per million tokens; or set max_tokens instead of '
                "max_cost.",
            )
        while not limit.fits(self._spent + self._held + worst):
            if not self._held:
                raise self._too_much(worst, limit)
            self._settled.clear()
            await self._settled.wait()
        self._held += worst
        return request, worst

    def _too_much(self, worst: Amount, limit: Limit) -> FlowMasonError:
        need = self._spent + worst
        if self._stage.stage.effect is not Effect.UNSAFE:
            self.short = need if self.short is None else self.short.most(need)
        left = limit.less(self._spent)
        return FlowMasonError(
            f"a model call may use {limit_words(limit.of(worst))}, and {limit_words(left)} are left of the stage's "
            "allowance",
            code=Code.BUDGET_EXCEEDED,
            help="Raise the budget, or lower max_tokens in llm_settings: a call is held at the longest answer that it "
            "may give.",
        )

    def _free(self, held: Amount) -> None:
        self._held -= held
        self._settled.set()

    def _settle(self, held: Amount, call: Call) -> None:
        self._spent += used(call.usage)
        self._free(held)
        self._record(call)

    def _record(self, call: Call) -> None:
        self.calls.append(call)
        self._run.outbox.spent(self._stage.path, self._stage.attempt, len(self.calls), call)
