"""What happened: one class per kind, in a discriminated union, and the envelope around it.

Names are past tense, dotted and for ever. A reader carries a kind it does not know along as
`Foreign`; a driver refuses a run whose `format` it does not know (`RunSubmitted.format`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from flowmason.errors import Failure
from flowmason.ids import OrgId, PlanId, RunId, StagePath
from flowmason.usage import Amount, Call, Limit, Usage
from flowmason.value import Value

FORMAT = 2
"""Rises when a driver of an older FlowMason could misread a journal. 2: the run is under a budget."""


class _Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    pass


class RunSubmitted(_Event, frozen=True, tag="run.submitted"):
    """The run exists. Always the first event of a journal."""

    plan: PlanId
    input: Value
    pipeline: str = ""
    version: str = ""
    format: int = 1
    """The lowest `FORMAT` whose drivers read the run rightly; the default is that of the first journals, which say
    none, and never changes."""
    parent: RunId | None = None
    variables: Value | None = None
    """Of an asynchronous sub-pipeline: the variables of its caller that it inherits."""
    options: dict[str, Any] = {}
    """What the submitter asked for: `max_concurrency`, `project_root`, `provider`, `labels` …"""


class RunStarted(_Event, frozen=True, tag="run.started"):
    """The first conductor took the run."""


class RunAdopted(_Event, frozen=True, tag="run.adopted"):
    """Another conductor took the run over under a higher epoch."""

    epoch: int


class RunPausing(_Event, frozen=True, tag="run.pausing"):
    """Nothing new starts; what is under way ends first."""

    reason: str = ""


class RunPaused(_Event, frozen=True, tag="run.paused"):
    """Nothing of the run is under way any more."""


class RunResumed(_Event, frozen=True, tag="run.resumed"):
    """A paused run goes on."""


class RunReopened(_Event, frozen=True, tag="run.reopened"):
    """A failed run goes on: finished results are kept, failed stages are reopened."""

    accept_changes: dict[str, str] = {}
    """Components whose changed digest was accepted: name → new digest."""
    plan: PlanId | None = None
    """The Plan from here on, where components changed."""


class RunCancelling(_Event, frozen=True, tag="run.cancelling"):
    """Somebody asked for the end of the run."""

    reason: str = ""


class RunFailing(_Event, frozen=True, tag="run.failing"):
    """A failure reached the root; effects under way are still being recorded."""

    failure: Failure


class RunCompleted(_Event, frozen=True, tag="run.completed"):
    """Terminal: the run ended well."""

    output: Value


class RunFailed(_Event, frozen=True, tag="run.failed"):
    """Terminal until reopened."""

    failure: Failure


class RunCancelled(_Event, frozen=True, tag="run.cancelled"):
    """Terminal: the run was cancelled, by command or by a `return` with that status."""

    reason: str = ""


class StageStarted(_Event, frozen=True, tag="stage.started"):
    """An attempt of a stage with an effect is about to be dispatched."""

    path: StagePath
    attempt: int
    epoch: int
    round: int = 1
    allowance: Limit | None = None
    """What its model calls may use, reserved in every budget that it is under; None: it is under none."""
    fallback: bool = False
    """Whether it asks the cheaper model of its stage's budget."""


class StageFinished(_Event, frozen=True, tag="stage.finished"):
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


class StageFailed(_Event, frozen=True, tag="stage.failed"):
    """The stage failed for good; retries are over or were not allowed."""

    path: StagePath
    attempt: int
    failure: Failure
    started_at: int = 0
    duration_ms: float = 0.0
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageFailing(_Event, frozen=True, tag="stage.failing"):
    """The body of a stage ran out of its time; what is under way in it is being ended."""

    path: StagePath
    failure: Failure


class StageRetried(_Event, frozen=True, tag="stage.retried"):
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


class StageLost(_Event, frozen=True, tag="stage.lost"):
    """The worker of an attempt died; the attempt is repeated if its budget allows."""

    path: StagePath
    attempt: int
    failure: Failure
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageDeferred(_Event, frozen=True, tag="stage.deferred"):
    """An attempt ended before a model call that its allowance does not cover; it is sent again with a larger one."""

    path: StagePath
    attempt: int
    need: Amount
    """What the attempt would have had to be allowed: what it had used, and that call at its worst."""
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageSkipped(_Event, frozen=True, tag="stage.skipped"):
    """The stage does not run: a guard chose otherwise, or all it depends on was skipped."""

    path: StagePath
    reason: str = ""


class StageCancelled(_Event, frozen=True, tag="stage.cancelled"):
    """A started attempt was ended before it had a result."""

    path: StagePath
    attempt: int
    failure: Failure | None = None
    usage: Usage | None = None
    calls: tuple[Call, ...] = ()
    """The attempt's model calls, for the ledger; `usage` is their sum."""


class StageExpanded(_Event, frozen=True, tag="stage.expanded"):
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


class StageReopened(_Event, frozen=True, tag="stage.reopened"):
    """A stage that had ended runs again; under a new round anew, a failed one under its old round goes on."""

    path: StagePath
    round: int
    edit: PromptEdit | None = None
    """The prompt of this round, where somebody edited it."""


class ItemsFinished(_Event, frozen=True, tag="items.finished"):
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


class ValueEdited(_Event, frozen=True, tag="value.edited"):
    """Somebody replaced the output of a finished stage."""

    path: StagePath
    value: Value


class EffectRecorded(_Event, frozen=True, tag="effect.recorded"):
    """A component recorded an effect of its own under a name (`context.idempotency_key_for`)."""

    path: StagePath
    attempt: int
    name: str
    result: Value | None = None


class Breakpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cut before a stage: the run stops there."""

    stage: str
    """A stage's id; with the stages around it, `child.inner`; or one place of the run, `each[3].inner`."""
    condition: str = ""
    """An expression over what the stage can see; empty: always."""
    hit_condition: str = ""
    """`3` (the third time alone), or an expression over `hits`: `hits >= 3`; empty: every time."""


class DebugChanged(_Event, frozen=True, tag="debug.changed"):
    """Somebody said anew what stops the run. What is not named does not stop it any more."""

    breakpoints: tuple[Breakpoint, ...] = ()
    exceptions: tuple[str, ...] = ()
    """Failures after which it stops: `debug.FILTERS`."""
    stop_on_entry: bool = False
    """Whether it stops before its first stage; only with the submission of the run."""


class DebugStepped(_Event, frozen=True, tag="debug.stepped"):
    """The run goes on by a step: only what the step covers may start, then the run stops again."""

    step: str
    """over, into or out; entry: covers nothing; rerun: covers the stage at `path` and stops after it."""
    path: StagePath = ()
    """The stage that the step takes (`out`: the owner of the body that it leaves); `()`: none."""


class BreakpointHit(_Event, frozen=True, tag="breakpoint.hit"):
    """The run stopped before a stage, or, by an exception or a rerun, after it."""

    path: StagePath
    breakpoint: str = ""
    """`Breakpoint.stage`, or the exception filter."""
    reason: str = "breakpoint"
    """breakpoint, entry, step, exception or rerun."""
    hit: int = 0
    """How often the breakpoint was reached with its condition true, this time included."""
    stops: bool = True
    """False: the hit is only counted, the breakpoint's `hit_condition` lets it pass."""
    failure: Failure | None = None
    """Why the stage failed."""
    note: str = ""
    """Why a condition could not be told; the run stops then."""


class Foreign(_Event, frozen=True, tag="foreign"):
    """An event of a kind that this FlowMason does not know."""

    name: str
    data: dict[str, Any] = {}


Event = (
    RunSubmitted
    | RunStarted
    | RunAdopted
    | RunPausing
    | RunPaused
    | RunResumed
    | RunReopened
    | RunCancelling
    | RunFailing
    | RunCompleted
    | RunFailed
    | RunCancelled
    | StageStarted
    | StageFinished
    | StageFailed
    | StageFailing
    | StageRetried
    | StageLost
    | StageDeferred
    | StageSkipped
    | StageCancelled
    | StageExpanded
    | StageReopened
    | ItemsFinished
    | ValueEdited
    | EffectRecorded
    | DebugChanged
    | DebugStepped
    | BreakpointHit
    | Foreign
)

StageEvent = (
    StageStarted
    | StageFinished
    | StageFailed
    | StageFailing
    | StageRetried
    | StageLost
    | StageDeferred
    | StageSkipped
    | StageCancelled
    | StageExpanded
    | StageReopened
    | ItemsFinished
    | ValueEdited
    | EffectRecorded
    | BreakpointHit
)


class Recorded(msgspec.Struct, frozen=True):
    """An event in its envelope, as readers see it."""

    run_id: RunId
    seq: int
    """From 1, without gaps; the only order there is."""
    at: int
    """Milliseconds since the epoch, by the writer's clock: for people, never compared."""
    by: str
    """The conductor (or submitter) that appended it."""
    event: Event


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one commit adds to one run: consecutive events, encoded together."""

    run_id: RunId
    org_id: OrgId
    first_seq: int
    at: int
    by: str
    events: tuple[Event, ...]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.events) - 1

    def recorded(self) -> list[Recorded]:
        """The events in their envelopes."""
        return [
            Recorded(self.run_id, self.first_seq + offset, self.at, self.by, event)
            for offset, event in enumerate(self.events)
        ]


_events_encoder = msgspec.msgpack.Encoder()
_events_decoder = msgspec.msgpack.Decoder(tuple[Event, ...])
_KINDS = frozenset(cls.__struct_config__.tag for cls in Event.__args__)


def kind(event: Event) -> str:
    """The dotted name of an event."""
    return event.name if isinstance(event, Foreign) else str(type(event).__struct_config__.tag)


def encode_events(events: tuple[Event, ...]) -> bytes:
    """Events as they are stored in a frame (msgpack)."""
    return _events_encoder.encode(events)


def decode_events(data: bytes) -> tuple[Event, ...]:
    """What `encode_events` wrote; kinds unknown here come back as `Foreign`."""
    try:
        return _events_decoder.decode(data)
    except msgspec.ValidationError:
        return tuple(_lenient(item) for item in msgspec.msgpack.decode(data))


def _lenient(item: dict[str, Any]) -> Event:
    if item.get("kind") not in _KINDS:
        return Foreign(name=str(item.get("kind")), data={k: v for k, v in item.items() if k != "kind"})
    known: Event = msgspec.convert(item, Event)
    return known
