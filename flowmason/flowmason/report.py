"""What travels between a conductor and the workers: a `Region` out, `Report`s back.

A region is a piece of the Plan whose stages are all pure, or one stage with an effect. A worker runs
it with the same pure `control` and `state` as the conductor and streams back *proposed* events; the
conductor admits each through `state.admits` and drops the rest.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from flowmason.errors import Code, Failure
from flowmason.event import PromptEdit, StageEvent
from flowmason.ids import OrgId, PlanId, RunId, StageId, StagePath
from flowmason.policy import Placement, Resources
from flowmason.usage import Call, Limit
from flowmason.value import Value


class Ended(StrEnum):
    """How a region ended. What it had not reported by then has not run (`NotRun`)."""

    DONE = "done"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its worker died: whatever it was running has an unknown outcome."""
    REFUSED = "refused"
    """The worker turned it away untouched (a retired host, a lower epoch): nothing has run."""


class Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stages of one scope, with what they need to know of the world outside the piece."""

    scope: StagePath
    """Prefix of the paths of `stages`."""
    plan: PlanId
    """The Plan (or sub-Plan) whose stages these are."""
    stages: tuple[StageId, ...]
    """What may run here, in topological order; bodies included where they are pure."""
    items: tuple[tuple[int, int], ...] = ()
    """For one foreach that is already expanded: half-open ranges of items to run."""
    expanded: dict[str, Any] = {}
    """That foreach's settings."""
    item_values: Value | None = None
    """That foreach's whole list of items."""
    input: Value | None = None
    """`input` of the pipeline the scope belongs to."""
    pipeline: tuple[str, str] = ("", "")
    """Name and version, for `context`."""
    variables: Value | None = None
    """The variables that the pipeline inherits from its caller."""
    seeds: dict[StageId, Value | None] = {}
    """Outputs of stages outside the piece that it reads; None: skipped or not run."""
    choices: dict[StageId, tuple[str, ...]] = {}
    """What guards outside the piece chose."""
    skipped: tuple[StageId, ...] = ()
    """Stages outside the piece that `stages` depend on and that were skipped."""
    error: Failure | None = None
    """In a rescue or cleanup: what went wrong."""
    locals: dict[str, tuple[Value, int]] = {}
    """Loop variables: name → (the foreach's list, position), or a plain value with position -1."""
    attempts: dict[StageId, tuple[int, int, int]] = {}
    """Of stages that are not at their first attempt and round: (attempt, round, how many of the attempts before it do
    not count as retries: those that were lost, and those of before the stage was reopened)."""
    edits: dict[StageId, PromptEdit] = {}
    """Prompts that somebody edited."""


class Handed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call is given of its org's secrets. It travels with the call and is recorded nowhere."""

    secrets: dict[str, str] = {}
    """Canonical name → value, of those that the component declares and that are set."""
    keys: dict[str, str] = {}
    """Variable → key: what model providers look for in the environment."""
    failure: Failure | None = None
    """Why they could not be looked up; who asks for one meets it."""

    def __repr__(self) -> str:
        return f"Handed({', '.join([*self.secrets, *self.keys])})"


class Region(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call to a worker."""

    id: str
    run_id: RunId
    org_id: OrgId
    epoch: int
    plan: PlanId
    """The run's own Plan: the worker fetches and caches it by this digest."""
    pieces: tuple[Piece, ...]
    name: str
    """`pipeline/stage` or `pipeline/first…last (n)`: what the Ray dashboard shows."""
    placement: Placement = Placement.TASK
    effect: bool = False
    """Whether it is one stage with an effect, whose start is committed."""
    attach: bool = False
    """Do not start the call, only find one that an earlier conductor started; else `refused`."""
    resources: Resources = Resources()
    slots: int = 16
    """How many of its stages may overlap while they wait."""
    bounded: bool = False
    """Whether a limit on how much runs at once leaves nobody else room for more: then what waits in the region may
    stay there for as long as all its slots only wait."""
    shallow: bool = False
    """Whether only stages that a piece names may run, and nothing of their bodies: the run may have to stop in them."""
    debugged: bool = False
    """Whether what models are asked is told as log lines."""
    budget_ms: float = 20.0
    """After this long nothing new is started; the rest goes back."""
    options: dict[str, Any] = {}
    """The run's options (`RunSubmitted.options`)."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets that its component declares."""
    models: bool = False
    """Whether its component may ask models."""
    capped: bool = False
    """Whether its run is under a budget."""
    allowance: Limit | None = None
    """Of one stage with an effect: what its model calls may use; recorded with its start."""
    fallback: bool = False
    """Whether the stage asks the cheaper model of its budget."""
    handed: Handed | None = None
    """Filled in as the call leaves a conductor that knows the secrets of orgs. None: the worker's environment has
    them."""


ASKED = "asked the model"
"""The message of the log line that tells, in a debugged run, what a model was asked: `system_prompt`, `user_prompt`."""


FROM_CACHE = "answered from the cache"
"""The message of the log line that tells of an answer that was given before: `provider`, `model`, `given_at` (ms)."""
LINED_UP = "waits for its turn at a provider"
"""The message of the log line that an attempt writes when it has to wait for a provider's limits: `provider`."""
LET_IN = "it is its turn"
"""The message of the one that it writes afterwards."""


class LogLine(msgspec.Struct, frozen=True):
    """A line that a component wrote through `context.logger`."""

    path: StagePath
    attempt: int
    n: int
    """Rises by one per (path, attempt)."""
    at: int
    level: str
    message: str
    fields: dict[str, Any] = {}


class Delta(msgspec.Struct, frozen=True):
    """Text that a model streamed."""

    path: StagePath
    attempt: int
    n: int
    text: str
    reset: bool = False
    """Whether what was streamed of the stage before counts no more: another attempt begins with it."""


class Progress(msgspec.Struct, frozen=True):
    """How far a stage says it is."""

    path: StagePath
    attempt: int
    done: float
    total: float | None = None
    message: str = ""


class Spent(msgspec.Struct, frozen=True):
    """A model call of an attempt that has not ended: should it never report its end, this is what is known of it."""

    path: StagePath
    attempt: int
    n: int
    """Rises by one per (path, attempt)."""
    call: Call


Side = LogLine | Delta | Progress
"""What is shown beside the journal and is no part of it."""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a region streams back: every 20 ms while something is finished, and at its end."""

    region: str
    events: tuple[StageEvent, ...] = ()
    logs: tuple[LogLine, ...] = ()
    deltas: tuple[Delta, ...] = ()
    progress: tuple[Progress, ...] = ()
    spent: tuple[Spent, ...] = ()
    released: bool = False
    """The region's time is over: it starts nothing more. What it neither reported nor lists in
    `running` may be dispatched elsewhere at once."""
    running: tuple[StagePath, ...] = ()
    """With `released`: the stages (or items) under way."""
    ended: Ended | None = None
    """Set in the last report."""
    failure: Failure | None = None
    """Why the region was lost or refused."""
    worker: str = ""
    """`pid@host` of the worker, for people."""


region_encoder = msgspec.msgpack.Encoder()
region_decoder = msgspec.msgpack.Decoder(Region)
regions_decoder = msgspec.msgpack.Decoder(tuple[Region, ...])
report_decoder = msgspec.msgpack.Decoder(Report)


def read_report(encoded: bytes) -> Report:
    """A report as it came. One that cannot be read is the end of its region, and costs no other."""
    try:
        return report_decoder.decode(encoded)
    except msgspec.MsgspecError as error:
        reason = f"what the worker reported cannot be read: {error}"
        region = msgspec.msgpack.decode(encoded)["region"]
        return Report(region=region, ended=Ended.LOST, failure=Failure(code=Code.INTERNAL, message=reason))


def read_reports(frame: bytes) -> list[Report]:
    """The same for several in one frame."""
    return [read_report(bytes(part)) for part in _frame_decoder.decode(frame)]


_frame_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
