"""The source of the components with which fault tests run: each writes into an effect ledger what it does."""

from __future__ import annotations

SOURCE = '''
import asyncio
import json
import os
import signal
import time
from typing import Any

from flowmason import OperatorInput, OperatorOutput, operator
from flowmason.ids import format_path

LEDGER = {ledger!r}


class Given(OperatorInput):
    after: Any = None
    seconds: float = 0.0
    gate: str = ""
    size: int = 0


class Made(OperatorOutput):
    value: Any = None


def note(what, context, key=None):
    """One line, written at once: concurrent writers never mix."""
    entry = {{
        "what": what, "path": format_path(context.path), "round": context.round, "attempt": context.attempt,
        "key": key, "pid": os.getpid(), "at": time.time_ns() // 1_000_000,
    }}
    handle = os.open(LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, json.dumps(entry).encode() + b"\\n")
    finally:
        os.close(handle)


async def work(input, context, key=None):
    """Take `seconds`, wait until the file `gate` is there, and make `size` bytes that nobody can compress."""
    note("begin", context, key)
    if input.seconds:
        await asyncio.sleep(input.seconds)
    while input.gate and not os.path.exists(input.gate):
        await asyncio.sleep(0.02)
    note("end", context, key)
    return Made(value=os.urandom(input.size) if input.size else context.stage_id)


@operator(name="step", category="test", description="A pure step.", timeout_seconds=120)
class Step:
    Input, Output = Given, Made

    async def execute(self, input, context):
        return await work(input, context)


@operator(name="killer", category="test", description="Kills its worker.", timeout_seconds=120)
class Killer:
    Input, Output = Given, Made

    async def execute(self, input, context):
        note("begin", context)
        os.kill(os.getpid(), signal.SIGKILL)


@operator(name="deliver", category="test", description="An effect that may be repeated.", effect="idempotent",
          timeout_seconds=120)
class Deliver:
    Input, Output = Given, Made

    async def execute(self, input, context):
        return await work(input, context, context.idempotency_key)


@operator(name="pay", category="test", description="An effect that may not be repeated.", effect="unsafe",
          timeout_seconds=120)
class Pay:
    Input, Output = Given, Made

    async def execute(self, input, context):
        return await work(input, context, context.idempotency_key)


@operator(name="carry", category="test", description="An effect that runs in a task.", effect="idempotent",
          placement="task", timeout_seconds=120)
class Carry:
    Input, Output = Given, Made

    async def execute(self, input, context):
        return await work(input, context, context.idempotency_key)


@operator(name="deaf", category="test", description="Takes no notice of being cancelled.", effect="idempotent",
          timeout_seconds=120)
class Deaf:
    Input, Output = Given, Made

    async def execute(self, input, context):
        key = context.idempotency_key
        note("begin", context, key)
        end = None
        while (end is None or time.monotonic() < end) and not (input.gate and os.path.exists(input.gate)):
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                note("cancel", context, key)
                end = end or time.monotonic() + input.seconds
        note("end", context, key)
        return Made(value="late")


@operator(name="deaf_step", category="test", description="Pure, and takes no notice of being cancelled.",
          timeout_seconds=120)
class DeafStep:
    Input, Output = Given, Made

    async def execute(self, input, context):
        note("begin", context)
        end = None
        while end is None or time.monotonic() < end:
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                note("cancel", context)
                end = end or time.monotonic() + input.seconds
        note("end", context)
        return Made(value="late")
'''


def source(ledger: str) -> str:
    """The module `components/faults.py` of a project whose ledger is the file `ledger`."""
    return SOURCE.format(ledger=ledger)
