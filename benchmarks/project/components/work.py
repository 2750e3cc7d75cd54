"""Components that cost next to nothing, so that what is measured is the engine."""

import asyncio
import os
import time

from flowmason import Context, NodeInput, NodeOutput, OperatorInput, OperatorOutput, node, operator

MODULUS = 1_000_003


class One(OperatorInput):
    value: int


class Many(OperatorInput):
    values: list[int]


class Made(OperatorOutput):
    value: int


class Blob(OperatorInput):
    data: bytes
    size: int


class Filled(OperatorOutput):
    data: bytes


class Nap(OperatorInput):
    value: int
    seconds: float


@operator(name="bench-inc", category="benchmarks", description="Add one.")
class Inc:
    Input, Output = One, Made

    async def execute(self, input: One, context: Context) -> Made:
        return Made(value=(input.value + 1) % MODULUS)


@operator(name="bench-add", category="benchmarks", description="Add all, and one.")
class Add:
    Input, Output = Many, Made

    async def execute(self, input: Many, context: Context) -> Made:
        return Made(value=(sum(input.values) + 1) % MODULUS)


@operator(name="bench-blob", category="benchmarks", description="Read a large value, make a fresh one.")
class MakeBlob:
    Input, Output = Blob, Filled

    async def execute(self, input: Blob, context: Context) -> Filled:
        # The random part makes it a value that no store has seen.
        step = (input.data[0] + 1) % 251
        return Filled(data=bytes((step,)) + os.urandom(15) + b"\x07" * (input.size - 16))


@operator(name="bench-size", category="benchmarks", description="First byte and length of a large value.")
class Size:
    Input, Output = Blob, Made

    async def execute(self, input: Blob, context: Context) -> Made:
        return Made(value=len(input.data) * 251 + input.data[0])


@operator(name="bench-nap", category="benchmarks", description="Sleep, in a task.")
class TaskNap:
    Input, Output = Nap, Made

    async def execute(self, input: Nap, context: Context) -> Made:
        await asyncio.sleep(input.seconds)
        return Made(value=input.value + 1)


@operator(name="bench-host-nap", category="benchmarks", description="Sleep, on a node host.", placement="host")
class HostNap:
    Input, Output = Nap, Made

    async def execute(self, input: Nap, context: Context) -> Made:
        await asyncio.sleep(input.seconds)
        return Made(value=input.value + 1)


@operator(name="bench-block", category="benchmarks", description="Hold a worker for a while.")
class Block:
    Input, Output = Nap, Made

    async def execute(self, input: Nap, context: Context) -> Made:
        time.sleep(input.seconds)
        return Made(value=input.value + 1)


class Asked(NodeInput):
    calls: int = 1
    provider: str | None = None
    bare: str | None = None
    """Where the server is, for calls of its SDK alone."""


class Answered(NodeOutput):
    over_ms: list[float]
    """Of each call: its time less the server's own."""
    pid: int


@node(name="bench-ask", category="benchmarks", description="Ask a model several times, one call after the other.")
class Ask:
    Input, Output = Asked, Answered

    async def execute(self, input: Asked, context: Context) -> Answered:
        over = []
        client = None
        if input.bare is not None:
            import openai

            client = openai.AsyncOpenAI(api_key="none", base_url=input.bare, max_retries=0)
        for _ in range(input.calls):
            begun = time.perf_counter()
            if client is None:
                text = (await context.llm.generate("hello", provider=input.provider)).text
            else:
                text = await _bare(client)
            over.append((time.perf_counter() - begun) * 1000 - float(text))
        return Answered(over_ms=over, pid=os.getpid())


async def _bare(client: object) -> str:
    messages = [{"role": "user", "content": "hello"}]
    stream = await client.chat.completions.create(model="m", messages=messages, stream=True)  # type: ignore[attr-defined]
    pieces = []
    async with stream:
        async for chunk in stream:
            pieces += [choice.delta.content or "" for choice in chunk.choices]
    return "".join(pieces)
