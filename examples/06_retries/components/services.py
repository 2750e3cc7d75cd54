"""Two services that behave badly on purpose."""

import asyncio

from flowmason import Context, OperatorInput, OperatorOutput, RetryableError, operator


@operator(name="shaky_service", category="examples", description="Fails until a certain attempt.", effect="idempotent")
class ShakyService:
    class Input(OperatorInput):
        good_from: int

    class Output(OperatorOutput):
        attempt: int

    async def execute(self, input: Input, context: Context) -> Output:
        if context.attempt < input.good_from:
            # Only errors that say so are tried again; see also RetryableError(…, retry_after_ms=…).
            raise RetryableError("the line is busy")
        return self.Output(attempt=context.attempt)


@operator(name="slow_service", category="examples", description="Takes its time.", effect="idempotent")
class SlowService:
    class Input(OperatorInput):
        seconds: float

    class Output(OperatorOutput):
        answer: str

    async def execute(self, input: Input, context: Context) -> Output:
        await asyncio.sleep(input.seconds)
        return self.Output(answer="today's")
