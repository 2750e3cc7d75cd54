"""What runs in a Studio under fault tests: components of an installed package, which note that they began."""

from __future__ import annotations

from typing import Any

COMPONENTS = '''
import asyncio
import json
import os
import time
from typing import Any

from flowmason import OperatorInput, OperatorOutput, operator
from flowmason.ids import format_path

LEDGER = {ledger!r}


class Given(OperatorInput):
    after: Any = None
    seconds: float = 0.0
    gate: str = ""


class Made(OperatorOutput):
    value: Any = None


def note(context, key=None):
    """One line, written at once: concurrent writers never mix."""
    entry = {{
        "run": context.run_id, "what": "begin", "path": format_path(context.path), "round": context.round,
        "attempt": context.attempt, "key": key, "pid": os.getpid(), "at": time.time_ns() // 1_000_000,
    }}
    handle = os.open(LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, json.dumps(entry).encode() + b"\\n")
    finally:
        os.close(handle)


async def work(input, context):
    await asyncio.sleep(input.seconds)
    while input.gate and not os.path.exists(input.gate):
        await asyncio.sleep(0.05)
    return Made(value=context.stage_id)


@operator(name="noted", category="test", description="A pure step.", timeout_seconds=120)
class Noted:
    Input, Output = Given, Made

    async def execute(self, input, context):
        note(context)
        return await work(input, context)


@operator(name="delivered", category="test", description="An effect.", effect="idempotent", timeout_seconds=120)
class Delivered:
    Input, Output = Given, Made

    async def execute(self, input, context):
        note(context, context.idempotency_key)
        return await work(input, context)
'''


def stages(length: int = 4, seconds: float = 0.3, gate: str = "") -> list[dict[str, Any]]:
    """Stages that hand a value on, a pure one and an effect in turn."""
    found = []
    for n in range(length):
        config: dict[str, Any] = {"after": f"{{{{upstream.s{n - 1}.value}}}}"} if n else {}
        kind = "delivered" if n % 2 else "noted"
        if n % 2:
            config |= {"seconds": seconds, "gate": gate}
        found.append({"id": f"s{n}", "component": kind, "config": config})
    return found
