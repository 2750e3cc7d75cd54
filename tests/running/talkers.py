"""A component that says what hardly can be written down, and what is wrong with that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from flowmason import ControlFlowInput, ControlFlowOutput, OperatorInput, OperatorOutput, control_flow, operator
from flowmason.errors import RetryableError, StageError

HALF = "\udcff"
"""What Python makes of a byte in a file name that is no UTF-8."""
_ring: list[Any] = []
_ring += [_ring, _ring]


class Mute(Exception):
    """Cannot be written."""

    def __str__(self) -> str:
        raise ValueError("no words")


def _noted() -> Exception:
    error = ValueError("noted")
    error.add_note(HALF)
    return error


ERRORS: dict[str, tuple[Callable[[], BaseException], str, str]] = {
    "half a character": (lambda: FileNotFoundError(f"no {HALF}.txt"), "EXECUTION", "no \\udcff.txt"),
    "in a note": (_noted, "EXECUTION", "noted"),
    "no words": (Mute, "EXECUTION", "<Mute, which cannot be written: ValueError>"),
    "cancelled by nobody": (asyncio.CancelledError, "EXECUTION", "the component raised CancelledError"),
    "a number for a message": (lambda: StageError(5), "EXECUTION", "5"),  # type: ignore[arg-type]
    "a number for a code": (lambda: StageError("gone", code=404), "404", "gone"),  # type: ignore[arg-type]
    "a text for details": (lambda: StageError("so", details="x"), "EXECUTION", "so"),  # type: ignore[arg-type]
    "wide numbers": (lambda: StageError("wide", details={"n": 2**80}), "EXECUTION", "wide"),
    "objects": (lambda: StageError("odd", details={"o": object(), "s": {1}}), "EXECUTION", "odd"),
    "keys": (lambda: StageError("keys", details={None: 1}), "EXECUTION", "keys"),  # type: ignore[dict-item]
    "without end": (lambda: StageError("ring", details={"r": _ring}), "EXECUTION", "ring"),
    "a long wait": (lambda: RetryableError("later", retry_after_ms=2**70), "CONNECTIVITY", "later"),
    "a wait of half a millisecond": (
        lambda: RetryableError("soon", retry_after_ms=0.5),  # type: ignore[arg-type]
        "CONNECTIVITY",
        "soon",
    ),
    "much": (lambda: StageError("m" * 100_000, details={"d": "d" * 100_000}), "EXECUTION", "m" * 4000 + "…"),
}
"""By name: what it raises, and the code and message that become of it."""


class How(OperatorInput):
    how: str


class Talked(OperatorOutput):
    value: Any = None


async def _raise(how: str) -> Talked:
    raise ERRORS[how][0]()


@operator(name="rant", category="test", description="Raises odd errors.", effect="unsafe")
class Rant:
    Input, Output = How, Talked

    async def execute(self, input: How, context: Any) -> Talked:
        return await _raise(input.how)


@operator(name="rant_purely", category="test", description="Raises odd errors.")
class RantPurely:
    Input, Output = How, Talked

    async def execute(self, input: How, context: Any) -> Talked:
        return await _raise(input.how)


@operator(name="mutter", category="test", description="Logs odd things.")
class Mutter:
    Input, Output = How, Talked

    async def execute(self, input: How, context: Any) -> Talked:
        context.logger.info(f"first {HALF}", n=2**80, what=object(), ring=_ring, keys={None: HALF})
        context.progress(0.5, message=7)
        context.logger.info("second")
        return Talked(value=1)


@operator(
    name="blab", category="test", description="A secret where a text is cut.", effect="idempotent", secrets=["token"]
)
class Blab:
    Input, Output = How, Talked

    async def execute(self, input: How, context: Any) -> Talked:
        token = context.secrets.get("token")
        raise ValueError("." * (4000 - len(token) // 2) + token)


@control_flow(name="wild", control_flow_type="foreach", description="Takes any options.")
class Wild:
    class Input(ControlFlowInput):
        loop_stages: list[str] = []
        max_parallel: Any = 1
        parallel: bool = True
        aside: Any = None

    class Output(ControlFlowOutput):
        items_to_process: list[Any]

    async def execute(self, input: Input, context: Any) -> Output:
        return self.Output(items_to_process=[1, 2])
