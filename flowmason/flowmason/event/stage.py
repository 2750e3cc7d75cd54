"""What happens to a stage of a run."""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.errors import Failure
from flowmason.event.base import EventStruct
from flowmason.ids import PlanId, StagePath
from flowmason.usage import Amount, Call, Limit, Usage
from flowmason.value import Value


class StageStarted(EventStruct, frozen=True, tag="stage.started"):
    """An attempt of a stage with an effect is about to be dispatched."""

    path: StagePath
    attempt: int
    epoch: int
    round: int = 1
    allowance: Limit | None = None
    """What its model calls may use, reserved in every budget that it is under; None: it is under none."""
    fallback: bool = False
    """Whether it asks the cheaper model of its stage's budget."""


class StageFinished(EventStruct, frozen=True, tag="stage.finished"):
    """The stage has its output."""

    path: StagePath
    attempt: int
    output: Value
    started_at: int = 0
    """Milliseconds since the epoch, by the worker's clock."""
    duration_ms: float = 0.0
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""
    choice: tuple[str, ...] | None = None
    """Of a guard: what it chose."""
    returned: str | None = None
    """Of a `return` that took effect: completed, cancelled or failed."""
    note: str | None = None


class StageFailed(EventStruct, frozen=True, tag="stage.failed"):
    """The stage failed for good; retries are over or were not allowed."""

    path: StagePath
    attempt: int
    failure: Failure
    started_at: int = 0
    duration_ms: float = 0.0
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageFailing(EventStruct, frozen=True, tag="stage.failing"):
    """The body of a stage ran out of its time; what is under way in it is being ended."""

    path: StagePath
    failure: Failure


class StageRetried(EventStruct, frozen=True, tag="stage.retried"):
    """An attempt failed and another follows at `at`; of a trycatch: another round of its body."""

    path: StagePath
    attempt: int
    """The attempt that failed."""
    failure: Failure
    at: int = 0
    """Milliseconds since the epoch before which the next attempt does not start."""
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageLost(EventStruct, frozen=True, tag="stage.lost"):
    """The worker of an attempt died; the attempt is repeated if its budget allows."""

    path: StagePath
    attempt: int
    failure: Failure
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageDeferred(EventStruct, frozen=True, tag="stage.deferred"):
    """An attempt ended before a model call that its allowance does not cover; it is sent again with a larger one."""

    path: StagePath
    attempt: int
    need: Amount
    """What the attempt would have had to be allowed: what it had used, and that call at its worst."""
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageSkipped(EventStruct, frozen=True, tag="stage.skipped"):
    """The stage does not run: a guard chose otherwise, or all it depends on was skipped."""

    path: StagePath
    reason: str = ""


class StageCancelled(EventStruct, frozen=True, tag="stage.cancelled"):
    """A started attempt was ended before it had a result."""

    path: StagePath
    attempt: int
    failure: Failure | None = None
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageExpanded(EventStruct, frozen=True, tag="stage.expanded"):
    """A stage with a body was evaluated: the body may run."""

    path: StagePath
    attempt: int
    settings: dict[str, Any] = {}
    """The control component's evaluated options (`parallel`, `catch_error_types`, `on_error` …)."""
    items: Value | None = None
    """Of a foreach: the list of items."""
    total: int = 0
    """Of a foreach: how many items."""
    skipped: int = 0
    """Of a foreach: how many a filter dropped."""
    input: Value | None = None
    """Of a sub-pipeline: its input, with defaults applied."""
    pipeline: str = ""
    """Of a sub-pipeline: `name` or `name@version` as evaluated."""
    plan: PlanId | None = None
    """Of a sub-pipeline: the Plan that runs."""
    variables: Value | None = None
    """Of a sub-pipeline: the variables of its caller that it inherits."""
    started_at: int = 0


class PromptEdit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a stage asks its model instead of what its pipeline says; None: as the pipeline says."""

    system_prompt: str | None = None
    user_prompt: str | None = None


class StageReopened(EventStruct, frozen=True, tag="stage.reopened"):
    """A stage that had ended runs again; under a new round anew, a failed one under its old round goes on."""

    path: StagePath
    round: int
    edit: PromptEdit | None = None
    """The prompt of this round, where somebody edited it."""


class ItemsFinished(EventStruct, frozen=True, tag="items.finished"):
    """Items `start` to `start + count - 1` of a foreach with a flat body ended, recorded in columns."""

    path: StagePath
    start: int
    count: int
    columns: dict[str, Value] = {}
    """Stage id → a list with one output per item. Of a failed item: `{"$error": …}` from the stage that failed on,
    and in the last stage's place."""
    failures: dict[int, Failure] = {}
    """Failed items by position, where `break_on_error` is false."""
    started_at: int = 0
    duration_ms: float = 0.0
    usage: Usage | None = None
    """Of all these items together."""
    calls: tuple[Call, ...] = ()
    """Their model calls, for the ledger."""


class ValueEdited(EventStruct, frozen=True, tag="value.edited"):
    """Somebody replaced the output of a finished stage."""

    path: StagePath
    value: Value


class EffectRecorded(EventStruct, frozen=True, tag="effect.recorded"):
    """A component recorded an effect of its own under a name (`context.idempotency_key_for`)."""

    path: StagePath
    attempt: int
    name: str
    result: Value | None = None
