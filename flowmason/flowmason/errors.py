"""Everything that can go wrong, in one tree and one shape.

    FlowMasonError                 any error of ours; carries a `Failure`
    ├── RefusedError               a file or an input is wrong; carries every `Fault` found
    ├── UsageError                 the caller asked for something that does not make sense
    ├── EngineUnavailableError     Ray, a database or a needed extra is not there
    ├── StageError                 raised by or for a component while a stage runs
    │   ├── RetryableError         the same call may succeed later (`retry_after_ms`)
    │   ├── StageTimeoutError      the stage ran out of its time
    │   ├── InvalidOutputError     the component returned what its Output forbids
    │   └── ExpressionError        a template or condition could not be evaluated
    ├── ProviderError              an LLM provider answered badly
    ├── EgressError                the egress guard refused an outgoing call
    └── JournalError               the store refused
        ├── FencedError            another writer owns the run now
        └── FormatError            written by a newer FlowMason

Command lines, API problems, journal failures and Python errors are all printed from `Failure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec


class Phase(StrEnum):
    """When it went wrong."""

    COMPILE = "compile"
    SETUP = "setup"
    RUN = "run"
    DELIVER = "deliver"


class Retry(StrEnum):
    """Whether the same thing may be tried again."""

    NEVER = "never"
    NOW = "now"
    AFTER = "after"


class Code(StrEnum):
    """Stable names of failures; scripts and catch blocks may rely on them."""

    INVALID_DOCUMENT = "INVALID_DOCUMENT"
    INVALID_INPUT = "INVALID_INPUT"
    INVALID_OUTPUT = "INVALID_OUTPUT"
    VALIDATION = "VALIDATION"
    EXPRESSION = "EXPRESSION"
    EXECUTION = "EXECUTION"
    TIMEOUT = "TIMEOUT"
    CONNECTIVITY = "CONNECTIVITY"
    RATE_LIMITED = "RATE_LIMITED"
    PROVIDER = "PROVIDER"
    CONTEXT_EXCEEDED = "CONTEXT_EXCEEDED"
    NO_PROVIDER = "NO_PROVIDER"
    BAD_ANSWER = "BAD_ANSWER"
    TOOL_STEPS_EXCEEDED = "TOOL_STEPS_EXCEEDED"
    SECURITY = "SECURITY"
    EGRESS_DENIED = "EGRESS_DENIED"
    SECRET_MISSING = "SECRET_MISSING"
    CANCELLED = "CANCELLED"
    LOST = "LOST"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    COMPONENT_MISSING = "COMPONENT_MISSING"
    COMPONENT_CHANGED = "COMPONENT_CHANGED"
    INFEASIBLE_RESOURCES = "INFEASIBLE_RESOURCES"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    VALUE_MISSING = "VALUE_MISSING"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    PRICE_UNKNOWN = "PRICE_UNKNOWN"
    PIPELINE_NOT_FOUND = "PIPELINE_NOT_FOUND"
    PIPELINE_DEPTH = "PIPELINE_DEPTH"
    RETURNED_FAILED = "RETURNED_FAILED"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    USAGE = "USAGE"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    PRECONDITION_REQUIRED = "PRECONDITION_REQUIRED"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    QUEUE_FULL = "QUEUE_FULL"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    FENCED = "FENCED"
    FORMAT_TOO_NEW = "FORMAT_TOO_NEW"
    STORAGE = "STORAGE"
    INTERNAL = "INTERNAL"


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, as data: journalled, sent over the wire, and printed."""

    code: str
    """A `Code`, or a name that a user's component chose."""
    message: str
    """One sentence for a person."""
    phase: str = Phase.RUN
    type: str = ""
    """Class name of the Python error behind it, as `catch_error_types` matches it."""
    stage: str | None = None
    """The stage's path as text, where one is to blame."""
    retry: str = Retry.NEVER
    retry_after_ms: int | None = None
    """With `retry == "after"`: how long the other side asked us to wait."""
    cause: Failure | None = None
    details: dict[str, Any] | None = None
    help: str | None = None
    """What the reader can do about it."""
    trace: str | None = None
    """The Python traceback of a user's component, shortened to 4,000 characters."""

    def at(self, stage: str) -> Failure:
        """The same failure, blamed on `stage` unless it already names one."""
        return self if self.stage else msgspec.structs.replace(self, stage=stage)


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong in a file, with its place."""

    reason: str
    pointer: str = ""
    """JSON path of the offending value: `$.stages[2].config.url`."""
    line: int | None = None
    """1-based."""
    column: int | None = None
    """1-based."""
    nearest: str | None = None
    """The nearest right name, where one is close enough to suggest."""
    file: str | None = None
    code: str = Code.INVALID_DOCUMENT

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        hint = f" (did you mean {self.nearest!r}?)" if self.nearest else ""
        return f"{place + ': ' if place else ''}{self.pointer}: {self.reason}{hint}"


class FlowMasonError(Exception):
    """Root of the tree. `failure` is the whole of it as data."""

    code: str = Code.INTERNAL
    phase: str = Phase.RUN
    retry: str = Retry.NEVER

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        help: str | None = None,
        details: dict[str, Any] | None = None,
        retry: str | None = None,
        retry_after_ms: int | None = None,
        stage: str | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = Failure(
            code=code or self.code,
            message=message,
            phase=self.phase,
            type=type(self).__name__,
            stage=stage,
            retry=retry or (Retry.AFTER if retry_after_ms is not None else self.retry),
            retry_after_ms=retry_after_ms,
            details=details,
            help=help,
        )


class RefusedError(FlowMasonError):
    """A document or an input is refused; `faults` holds everything found, in file order."""

    code = Code.INVALID_DOCUMENT
    phase = Phase.COMPILE

    def __init__(self, faults: Sequence[Fault], *, code: str | None = None) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        head = str(self.faults[0]) if self.faults else "refused"
        more = f" (and {count - 1} more)" if count > 1 else ""
        super().__init__(
            head + more,
            code=code or (self.faults[0].code if self.faults else None),
            details={"faults": [_drop_empty(fault) for fault in self.faults]},
        )


class UsageError(FlowMasonError):
    """The request itself makes no sense: an unknown name, a wrong combination."""

    code = Code.USAGE
    phase = Phase.SETUP


class EngineUnavailableError(FlowMasonError):
    """Something the run needs to run on is not there."""

    code = Code.ENGINE_UNAVAILABLE
    phase = Phase.SETUP


class StageError(FlowMasonError):
    """A stage failed. Components may raise it with a `code` of their own."""

    code = Code.EXECUTION


class RetryableError(StageError):
    """Raise it from a component to say: the same call may succeed later."""

    code = Code.CONNECTIVITY
    retry = Retry.NOW


class StageTimeoutError(StageError, TimeoutError):
    """The stage ran longer than its timeout."""

    code = Code.TIMEOUT
    retry = Retry.NOW


class InvalidOutputError(StageError):
    """The component returned something its Output class does not allow."""

    code = Code.INVALID_OUTPUT


class ExpressionError(StageError):
    """A template or a condition cannot be parsed or evaluated."""

    code = Code.EXPRESSION


class ProviderError(FlowMasonError):
    """An LLM provider could not be reached or answered badly."""

    code = Code.PROVIDER


class EgressError(FlowMasonError):
    """The egress guard refused an outgoing call."""

    code = Code.EGRESS_DENIED


class JournalError(FlowMasonError):
    """The store refused to record something."""

    code = Code.STORAGE


class FencedError(JournalError):
    """Another conductor owns the run now; this writer must stop walking it."""

    code = Code.FENCED


class FormatError(JournalError):
    """The run or the Plan was written by a newer FlowMason; it can be read but not driven."""

    code = Code.FORMAT_TOO_NEW


def _drop_empty(fault: Fault) -> dict[str, Any]:
    return {key: value for key, value in msgspec.structs.asdict(fault).items() if value not in (None, "")}


def did_you_mean(name: str, known: Sequence[str]) -> str | None:
    """The known name closest to `name`, or None where nothing is close."""
    import difflib

    lowered = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), list(lowered), n=1, cutoff=0.6)
    return lowered[close[0]] if close else None
