"""Components that do as they are told, and the ledger in which they write what they did.

They run in the process of the tests, so the ledger is a list; entries are told apart by their run.
"""

from __future__ import annotations

import asyncio
import builtins
import threading
import time
from typing import Any

import msgspec

from flowmason import (
    ControlFlowInput,
    ControlFlowOutput,
    NodeInput,
    NodeOutput,
    OperatorInput,
    OperatorOutput,
    control_flow,
    node,
    operator,
)
from flowmason.errors import RetryableError, StageError
from flowmason.ids import format_path


class Entry(msgspec.Struct, frozen=True):
    """One execution of one component."""

    run_id: str
    path: str
    attempt: int
    round: int
    begun: float
    ended: float | None
    """None: it was cancelled, or is still at it."""
    key: str | None
    value: Any
    cancelled: bool = False


LEDGER: list[Entry] = []
BEGUN: set[tuple[str, str]] = set()
"""(run, path) of what has begun to work."""
_lock = threading.Lock()


def entries(run_id: str) -> list[Entry]:
    """What the components of a run did, in the order in which they began."""
    with _lock:
        return sorted((entry for entry in LEDGER if entry.run_id == run_id), key=lambda entry: entry.begun)


class Given(OperatorInput):
    value: Any = None
    seconds: float = 0.0
    error: str = ""
    """Class of the error to raise."""
    code: str = ""
    """Code of a `StageError` to raise."""
    message: str = "as told"
    times: int = 99
    """Only the first so many attempts fail."""
    wait_ms: int | None = None
    """What a `RetryableError` asks the caller to wait."""
    others: int = 0
    """It answers once so many others of its run have."""
    stubborn: bool = False
    """Whether it goes on for a moment when it is cancelled."""


class Made(OperatorOutput):
    value: Any = None


async def work(given: Given, context: Any, key: str | None = None) -> Made:
    """Sleep, fail or answer."""
    begun, ended, cancelled = time.monotonic(), None, False
    BEGUN.add((context.run_id, format_path(context.path)))
    try:
        if given.seconds:
            await asyncio.sleep(given.seconds)
        while sum(entry.ended is not None for entry in entries(context.run_id)) < given.others:
            await asyncio.sleep(0.005)
        ended = time.monotonic()
        if context.attempt <= given.times:
            _raise(given)
        return Made(value=given.value)
    except asyncio.CancelledError:
        cancelled = True
        if given.stubborn:
            await asyncio.sleep(0.1)
        raise
    finally:
        entry = Entry(
            run_id=context.run_id,
            path=format_path(context.path),
            attempt=context.attempt,
            round=context.round,
            begun=begun,
            ended=ended,
            key=key,
            value=given.value,
            cancelled=cancelled,
        )
        with _lock:
            LEDGER.append(entry)


def _raise(given: Given) -> None:
    if given.code:
        raise StageError(given.message, code=given.code)
    if given.error == "RetryableError":
        raise RetryableError(given.message, retry_after_ms=given.wait_ms)
    if given.error:
        raise getattr(builtins, given.error)(given.message)


@operator(name="say", category="test", description="Pure.")
class Say:
    Input, Output = Given, Made

    async def execute(self, input: Given, context: Any) -> Made:
        return await work(input, context)


@operator(name="touch", category="test", description="An effect that may be repeated.", effect="idempotent")
class Touch:
    Input, Output = Given, Made

    async def execute(self, input: Given, context: Any) -> Made:
        return await work(input, context, context.idempotency_key)


@operator(name="post", category="test", description="An effect that must not happen twice.", effect="unsafe")
class Post:
    Input, Output = Given, Made

    async def execute(self, input: Given, context: Any) -> Made:
        return await work(input, context, context.idempotency_key)


@operator(name="blob", category="test", description="Makes so many bytes, always the same.")
class Blob:
    class Input(OperatorInput):
        size: int
        after: Any = None

    class Output(OperatorOutput):
        data: bytes
        size: int

    async def execute(self, input: Input, context: Any) -> Output:
        return self.Output(data=b"\x5a" * input.size, size=input.size)


@operator(name="measure", category="test", description="Says how many bytes it was given.")
class Measure:
    class Input(OperatorInput):
        data: bytes

    class Output(OperatorOutput):
        size: int

    async def execute(self, input: Input, context: Any) -> Output:
        return self.Output(size=len(input.data))


@operator(name="spoil", category="test", description="Changes the list it was given.")
class Spoil:
    class Input(OperatorInput):
        items: list[Any]

    class Output(OperatorOutput):
        items: list[Any]

    async def execute(self, input: Input, context: Any) -> Output:
        input.items.append("spoilt")
        return self.Output(items=input.items)


@operator(
    name="look", category="test", description="Says what its context shows.", effect="idempotent", secrets=["token"]
)
class Look:
    class Input(OperatorInput):
        value: Any = None
        secret: bool = False
        leak: bool = False

    class Output(OperatorOutput):
        seen: dict[str, Any]

    async def execute(self, input: Input, context: Any) -> Output:
        count = await context.cache.get("count") or 0
        await context.cache.set("count", count + 1)
        context.progress(done=1, total=4, message="a quarter")
        seen = {
            "run_id": context.run_id,
            "pipeline": [context.pipeline_id, context.pipeline_version],
            "stage": context.stage_id,
            "path": format_path(context.path),
            "attempt": context.attempt,
            "round": context.round,
            "variables": dict(context.variables),
            "upstream": dict(context.upstream),
            "input": context.pipeline_input,
            "key": context.idempotency_key,
            "named": context.idempotency_key_for("second"),
            "cancelled": context.cancel_token.cancelled,
        }
        if input.secret:
            token = context.secrets.get("token")
            context.logger.info(f"the token is {token}", token=token)
            context.progress(done=2, total=4, message=f"with {token}")
            seen["length"] = len(token)
            if input.leak:
                raise ValueError(f"bad token {token}")
        context.logger.warning("seen", value=input.value)
        return self.Output(seen=seen)


@operator(name="nosy", category="test", description="Pure, and asks for what only effects may have.")
class Nosy:
    class Input(OperatorInput):
        field: str

    class Output(OperatorOutput):
        value: Any = None

    async def execute(self, input: Input, context: Any) -> Output:
        return self.Output(value=str(getattr(context, input.field)))


@operator(name="wrong", category="test", description="Returns what its Output forbids.")
class Wrong:
    class Input(OperatorInput):
        value: Any = None

    class Output(OperatorOutput):
        number: int

    async def execute(self, input: Input, context: Any) -> dict[str, Any]:
        return {"number": input.value}


@node(name="ask", category="test", description="Asks the model once, or twice.", requires_llm=True)
class Ask:
    class Input(NodeInput):
        prompt: str
        then: str = ""

    class Output(NodeOutput):
        text: str

    async def execute(self, input: Input, context: Any) -> Output:
        response = await context.llm.generate(input.prompt)
        if input.then:
            await context.llm.generate(input.then)
        return self.Output(text=response.text)


@node(name="confide", category="test", description="Tells the model a secret.", requires_llm=True, secrets=["token"])
class Confide:
    class Input(NodeInput):
        prompt: str

    class Output(NodeOutput):
        text: str

    async def execute(self, input: Input, context: Any) -> Output:
        context.secrets.get("token")
        response = await context.llm.generate(input.prompt)
        return self.Output(text=response.text)


@operator(name="caller", category="test", description="Calls out.", effect="idempotent", hosts=["api.example.com"])
class Caller:
    class Input(OperatorInput):
        url: str

    class Output(OperatorOutput):
        status: int

    async def execute(self, input: Input, context: Any) -> Output:
        return self.Output(status=(await context.http.get(input.url)).status_code)


@operator(name="ask_purely", category="test", description="A pure component that asks the model all the same.")
class AskPurely:
    class Input(OperatorInput):
        prompt: str

    class Output(OperatorOutput):
        text: str

    async def execute(self, input: Input, context: Any) -> Output:
        response = await context.llm.generate(input.prompt)
        return self.Output(text=response.text)


@control_flow(name="by_size", control_flow_type="conditional", description="True for lists of two and more.")
class BySize:
    class Input(ControlFlowInput):
        items: list[Any]
        true_branch_stages: list[str] = []
        false_branch_stages: list[str] = []

    class Output(ControlFlowOutput):
        branch_taken: str

    async def execute(self, input: Input, context: Any) -> Output:
        return self.Output(branch_taken="true" if len(input.items) > 1 else "false")


@control_flow(name="pairs", control_flow_type="foreach", description="Runs over neighbours.")
class Pairs:
    class Input(ControlFlowInput):
        items: list[Any]
        loop_stages: list[str] = []
        parallel: bool = False

    class Output(ControlFlowOutput):
        items_to_process: list[Any]

    async def execute(self, input: Input, context: Any) -> Output:
        return self.Output(items_to_process=[list(pair) for pair in zip(input.items, input.items[1:], strict=False)])


@control_flow(name="undecided", control_flow_type="conditional", description="Says neither yes nor no.")
class Undecided:
    class Input(ControlFlowInput):
        true_branch_stages: list[str] = []
        false_branch_stages: list[str] = []

    class Output(ControlFlowOutput):
        branch_taken: str = "maybe"

    async def execute(self, input: Input, context: Any) -> Output:
        return self.Output()
