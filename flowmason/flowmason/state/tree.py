"""The nodes of a run's state: scopes, the stages in them, and the bodies that some stages own.

A `ScopeState` is one running of a `plan.Scope`: the root, one item of a foreach, the attempt, rescue
or cleanup of a trycatch, or a sub-pipeline. It ends (`closed`) when all its stages have ended, or,
once it is *doomed* (a stage failed, a return took effect, the run was cancelled), when nothing of it
is under way any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flowmason.errors import Failure
from flowmason.event import PromptEdit
from flowmason.ids import StageId, StagePath
from flowmason.plan import Plan, Scope, Stage
from flowmason.usage import Usage
from flowmason.value import Value


class Status(StrEnum):
    """States of a stage, and (but for `skipped`) of a run."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    QUEUED = "queued"


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.SKIPPED, Status.CANCELLED})
FINE = frozenset({Status.COMPLETED, Status.SKIPPED})


class Role(StrEnum):
    """What a scope is to its owner."""

    ROOT = "root"
    ITEM = "item"
    ATTEMPT = "attempt"
    RESCUE = "rescue"
    CLEANUP = "cleanup"
    PIPELINE = "pipeline"
    PIECE = "piece"
    """A part of a scope, as a worker holds it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scope ends or is about to end."""

    kind: str
    """finished, failed, returned or cancelled."""
    failure: Failure | None = None
    value: Value | None = None
    status: str = "completed"
    """Of a return: completed, cancelled or failed."""

    @property
    def gentle(self) -> bool:
        """Whether effects under way may finish and be recorded: a failure is behind it, not a cancel."""
        return self.failure is not None and self.kind != "returned"


FINISHED = Outcome("finished")
CANCELLED = Outcome("cancelled")


@dataclass(slots=True, eq=False)
class StageState:
    """One stage of one scope."""

    stage: Stage
    scope: ScopeState
    path: StagePath
    missing: int
    """Needs that have not ended."""
    status: Status = Status.PENDING
    attempt: int = 1
    """The attempt that runs, or will run next."""
    base: int = 0
    """Attempts made before the stage was last reopened; retries are counted from here."""
    round: int = 1
    edit: PromptEdit | None = None
    """What it asks its model in this round, where somebody edited that."""
    lost: int = 0
    cheaper: bool = False
    """Whether its last attempt asked the cheaper model of its budget."""
    not_before: int = 0
    output: Value | None = None
    failure: Failure | None = None
    choice: tuple[str, ...] | None = None
    started_at: int = 0
    duration_ms: float = 0.0
    usage: Usage | None = None
    body: ForeachState | TryState | SubState | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def ready(self) -> bool:
        """Whether all it needs has ended and it has neither started nor been ruled out."""
        return self.status is Status.PENDING and self.missing == 0 and self.scope.doomed is None


@dataclass(frozen=True, slots=True)
class Given:
    """What a piece of a scope knows of the stages that are not in it."""

    seeds: Mapping[StageId, Value | None]
    choices: Mapping[StageId, tuple[str, ...]]
    skipped: frozenset[StageId]


@dataclass(slots=True, eq=False)
class ScopeState:
    """One running of a scope."""

    scope: Scope
    plan: Plan
    prefix: StagePath
    role: Role
    owner: StageState | None = None
    position: int = 0
    """Of an item: its index."""
    input: Value | None = None
    """`input` of the pipeline it belongs to."""
    variables: Value | None = None
    """Of a pipeline that another one called: the variables that it inherits."""
    error: Failure | None = None
    """Of a rescue: what is being rescued from."""
    given: Given | None = None
    """Of a piece: what it knows of the rest."""
    stages: dict[StageId, StageState] = field(default_factory=dict)
    open: int = 0
    """Stages that have not ended."""
    busy: int = 0
    """Started effects and bodies under way."""
    doomed: Outcome | None = None
    closed: bool = False

    @property
    def outcome(self) -> Outcome:
        """How it ended; meaningful once closed."""
        return self.doomed or FINISHED

    @property
    def inherited(self) -> Value | None:
        """The variables that the pipeline it belongs to inherits from its caller."""
        here = self
        while here.parent is not None:
            here = here.parent
        return here.variables

    @property
    def fine(self) -> bool:
        """Whether all its stages have ended, and none badly."""
        return all(stage.status in FINE for stage in self.stages.values())

    @property
    def parent(self) -> ScopeState | None:
        """The enclosing scope of the same pipeline."""
        if self.owner is None or self.role is Role.PIPELINE:
            return None
        return self.owner.scope


@dataclass(slots=True)
class Chunk:
    """Items that were recorded in columns."""

    start: int
    count: int
    columns: dict[str, Value]


@dataclass(slots=True)
class Single:
    """An item that was recorded stage by stage."""

    outputs: dict[StageId, Value | None]
    result: Value


@dataclass(slots=True)
class ForeachState:
    """The frontier of a foreach: which items ended, which are open, and where their results lie."""

    total: int
    items: Value
    settings: dict[str, Any]
    skipped: int = 0
    done: bytearray = field(default_factory=bytearray)
    """One byte per item: 1 once it ended."""
    ended: int = 0
    """How many ended."""
    chunks: list[Chunk] = field(default_factory=list)
    singles: dict[int, Single] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    open: dict[int, ScopeState] = field(default_factory=dict)
    doomed: Outcome | None = None

    @property
    def parallel(self) -> bool:
        return bool(self.settings.get("parallel"))

    @property
    def width(self) -> int:
        """How many items may be under way at once."""
        return max(1, int(self.settings.get("max_parallel") or 5)) if self.parallel else 1

    @property
    def break_on_error(self) -> bool:
        return bool(self.settings.get("break_on_error", True))

    @property
    def scopes(self) -> list[ScopeState]:
        return list(self.open.values())

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to run."""
        if self.doomed is not None:
            return all(scope.closed for scope in self.open.values())
        return self.ended == self.total

    def gaps(self, start: int = 0) -> list[tuple[int, int]]:
        """Half-open ranges of items from `start` on that have neither ended nor been opened."""
        found: list[tuple[int, int]] = []
        position = start
        taken = sorted(self.open)
        while position < self.total:
            first = self.done.find(0, position)
            if first < 0:
                break
            stop = self.done.find(1, first)
            stop = self.total if stop < 0 else stop
            at = first
            for index in taken:
                if at <= index < stop:
                    if at < index:
                        found.append((at, index))
                    at = index + 1
            if at < stop:
                found.append((at, stop))
            position = stop
        return found


@dataclass(slots=True)
class TryState:
    """Where a trycatch stands."""

    settings: dict[str, Any]
    phase: Role = Role.ATTEMPT
    round: int = 1
    scopes: dict[Role, ScopeState] = field(default_factory=dict)
    numbers: dict[Role, int] = field(default_factory=dict)
    """Under which number each part ran last: the round, or more where a rescue or cleanup of the round ran before."""
    error: Failure | None = None
    caught: bool = False
    retry: bool = False
    """Another round of the attempt is due; the event that says so has not been recorded yet."""
    pending: Outcome = FINISHED
    """How it will end once the cleanup is over."""
    doomed: Outcome | None = None
    over: bool = False

    @property
    def unfinished(self) -> Role:
        """The part with which it goes on when it is taken up again after it failed or was cancelled."""
        rescue = self.scopes.get(Role.RESCUE)
        if rescue is not None and rescue.outcome.kind in ("failed", "cancelled"):
            return Role.RESCUE
        attempt = self.scopes[Role.ATTEMPT]
        if attempt.outcome.kind in ("finished", "returned") or attempt.fine:
            return Role.CLEANUP
        propagates = self.settings.get("error_scope", "continue") == "propagate"
        return Role.ATTEMPT if rescue is None or propagates else Role.CLEANUP


@dataclass(slots=True)
class SubState:
    """A sub-pipeline under way."""

    settings: dict[str, Any]
    scope: ScopeState
    pipeline: str = ""
    doomed: Outcome | None = None

    @property
    def over(self) -> bool:
        return self.scope.closed


BodyState = ForeachState | TryState | SubState


def scopes_of(body: BodyState) -> list[ScopeState]:
    """The scopes of a body that are held in the state."""
    if isinstance(body, ForeachState):
        return body.scopes
    if isinstance(body, TryState):
        return list(body.scopes.values())
    return [body.scope]
