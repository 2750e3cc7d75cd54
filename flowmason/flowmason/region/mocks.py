"""Answers in the place of components: what tests put where a real call would be slow, dear or impossible.

A worker that was handed `Mocks` asks them before it runs a stage's component. Everything else stays real: the Plan,
the inputs' templates, timeouts, retries, branches and the journal.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason import control, value
from flowmason.errors import Code, Failure, Retry, StageError
from flowmason.ids import StagePath, format_path
from flowmason.plan import Kind

if TYPE_CHECKING:
    from flowmason.control import Decision
    from flowmason.state import StageState

_CODES = {"TimeoutError": Code.TIMEOUT, "StageTimeoutError": Code.TIMEOUT, "ConnectionError": Code.CONNECTIVITY}
_CODES["RetryableError"] = Code.CONNECTIVITY
_TRANSIENT = (Code.TIMEOUT, Code.CONNECTIVITY, Code.RATE_LIMITED)

MOCKABLE_CONTROL = (Kind.CONDITIONAL, Kind.ROUTER, Kind.SUBPIPELINE, Kind.RETURN)
"""Control flow that may be given an output; a foreach and a trycatch are what their bodies make of them."""


UNANSWERED: Any = object()
"""What a mock says that only delays, or that has run out of errors."""


class MockError(msgspec.Struct, frozen=True, omit_defaults=True):
    """The error that a mocked call fails with."""

    message: str = "a mocked error"
    type: str = "StageError"
    """Class name, as `catch_error_types` matches it."""
    code: str = ""
    """Empty: TIMEOUT, CONNECTIVITY or EXECUTION, as the type says."""
    times: int | None = None
    """How many calls fail, from the first on; None: every call."""

    def failure(self) -> Failure:
        """As the stage records it. Timeouts, lost connections and rate limits may be retried, all else not."""
        code = self.code or _CODES.get(self.type, Code.EXECUTION)
        retry = Retry.NOW if code in _TRANSIENT or self.type in _CODES else Retry.NEVER
        return Failure(code=code, message=self.message, type=self.type, retry=retry)


class Mock(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands in for one stage, or for every stage with one component."""

    outputs: tuple[Any, ...] = ()
    """Plain data. Empty: calls that no error answers reach the component."""
    in_turn: bool = False
    """Whether `outputs` are used up, one per call; else the first answers every call."""
    error: MockError | None = None
    delay_ms: float = 0
    function: Callable[[Mapping[str, Any]], Any] | None = None
    """Instead of `outputs`: makes the output of the stage's inputs; what it raises, the stage fails with."""


class MockCall(msgspec.Struct, frozen=True):
    """One call that a mock answered."""

    path: StagePath
    attempt: int
    inputs: Any


class Mocks:
    """The mocks of one run. Shared by all of its workers, which may be threads.

    Keys are looked up in this order: the stage's path without loop positions and rounds (`each.draft`), its id, the
    name of its component.
    """

    UNANSWERED = UNANSWERED

    def __init__(self, mocks: Mapping[str, Mock]) -> None:
        self._mocks = {key.replace("-", "_"): (key, mock) for key, mock in mocks.items()}
        self._lock = threading.Lock()
        self.calls: dict[str, list[MockCall]] = {key: [] for key in mocks}
        """By the key of the mock, in the order in which they came."""

    def complete(self, change: Callable[[dict[str, Mock]], dict[str, Mock]]) -> None:
        """Replace the mocks by what `change` makes of them; their calls are kept."""
        changed = change(dict(self._mocks.values()))
        self._mocks = {key.replace("-", "_"): (key, mock) for key, mock in changed.items()}

    def key_of(self, path: StagePath, component: str) -> str | None:
        """The key under which a stage is mocked; None: it is not."""
        names = [part.partition("~")[0] for part in path if isinstance(part, str)]
        for name in (".".join(names), names[-1], component):
            found = self._mocks.get(name.replace("-", "_"))
            if found is not None:
                return found[0]
        return None

    def of(self, stage: StageState) -> str | None:
        """The key under which the stage is mocked; None: its component runs."""
        return self.key_of(stage.path, stage.stage.component)

    async def answer(self, stage: StageState, inputs: Any) -> Any:
        """The mocked output of one call, as plain data; `UNANSWERED` where the mock has none and the component runs.

        Raises what the mock says, after its delay.
        """
        key = self.of(stage)
        if key is None:
            return UNANSWERED
        mock = self._mocks[key.replace("-", "_")][1]
        with self._lock:
            calls = self.calls[key]
            calls.append(MockCall(stage.path, stage.attempt, inputs))
            number = len(calls)
        if mock.delay_ms:
            await asyncio.sleep(mock.delay_ms / 1000)
        error = mock.error
        if error is not None and (error.times is None or number <= error.times):
            raise _raised(error)
        if mock.function is not None:
            return _plain(mock.function(inputs), key)
        if not mock.in_turn:
            return _copy(mock.outputs[0]) if mock.outputs else UNANSWERED
        position = number - 1 - (error.times or 0 if error is not None else 0)
        if position >= len(mock.outputs):
            raise StageError(
                f"the mock {key!r} has {len(mock.outputs)} outputs; {format_path(stage.path)} asks for one more",
                help="Add an output for each call, or use `output` to answer every call alike.",
            )
        return _copy(mock.outputs[position])

    async def decision(self, stage: StageState, inputs: Mapping[str, Any]) -> Decision | None:
        """What a mocked control-flow stage decides; None: it decides by itself. Raises like `answer`."""
        answer = await self.answer(stage, inputs)
        return None if answer is UNANSWERED else _decision(stage.stage.kind, self.of(stage) or "", answer)


def _decision(kind: Kind, key: str, answer: Any) -> Decision:
    if kind not in MOCKABLE_CONTROL or not isinstance(answer, Mapping):
        raise StageError(f"the mock {key!r} cannot answer for a {kind} stage: mock the stages of its body")
    output = dict(answer)
    if kind is Kind.SUBPIPELINE:
        # A decision without a pipeline has its result already.
        return control.Decision(output=control.subpipeline_output("completed", pipeline_id=key) | output)
    if kind is Kind.RETURN:
        output = {"should_return": True, "return_value": None, "status": "completed"} | output
        returned = str(output["status"]) if output["should_return"] else None
        return control.Decision(output=output, returned=returned)
    field = "branch_taken" if kind is Kind.CONDITIONAL else "route_taken"
    if field not in output:
        raise StageError(f"the mock {key!r} of a {kind} stage must give {field}")
    taken = output[field]
    choice = ("true" if taken else "false") if isinstance(taken, bool) else str(taken)
    return control.Decision(output=output | {field: choice}, choice=(choice,))


def _raised(error: MockError) -> StageError:
    raised = StageError(error.message)
    raised.failure = error.failure()
    return raised


def _copy(data: Any) -> Any:
    return value.decode(value.encode(data))


def _plain(data: Any, key: str) -> Any:
    try:
        return _copy(data)
    except TypeError as error:
        raise StageError(f"the mock {key!r} returned what is no plain data: {error}") from None
