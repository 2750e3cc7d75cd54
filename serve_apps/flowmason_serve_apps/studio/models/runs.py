"""Bodies and answers about runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from flowmason_serve_apps.studio.models.common import Body, FailureOut, UsageOut

RunStatus = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]
Label = Annotated[str, Field(max_length=200)]


class BudgetIn(Body):
    """The most that a run may spend on models; the pipeline and the org may allow less."""

    max_cost: Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")] | None = Field(
        default=None, description="US dollars, as a decimal string."
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Prompts and answers together.")


class RunOptions(Body):
    """How a run is to go."""

    provider: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="Model provider of the stages that name none."
    )
    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="How many stages may run at once."
    )
    budget: BudgetIn | None = None
    labels: Annotated[dict[Label, Label], Field(max_length=50)] | None = Field(default=None, description="For people.")


class RunDraft(Body):
    """A run of a pipeline's draft."""

    input: dict[str, Any] | None = Field(
        default=None, description="Null: empty, with the defaults of the input schema."
    )
    options: RunOptions = RunOptions()
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(
        default=0, description="Higher comes first, within the org."
    )
    async_mode: bool = Field(
        default=True, description="False: answer once the run has ended, if that takes at most 30 s."
    )


class RunNamed(RunDraft):
    """A run of a pipeline by its name."""

    pipeline: Annotated[str, Field(min_length=1, max_length=300)] = Field(description="`name` or `name@version`.")


class TestDraft(Body):
    """A test of a pipeline's draft."""

    sample_input: dict[str, Any] | None = Field(default=None, description="Null: the pipeline's own.")


class TestResult(BaseModel):
    """How a test went."""

    run_id: str
    pipeline_id: str
    status: RunStatus
    is_success: bool
    can_publish: bool = Field(description="Whether the run completed and the draft is still what was tested.")
    output: Any
    error: FailureOut | None


class Reason(Body):
    """Why somebody asks for it."""

    reason: Annotated[str, Field(max_length=500)] = ""


class Resume(Body):
    """How a run is to go on."""

    rerun_unknown: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=1000)] = Field(
        default=[], description="Stages whose outcome is unknown that may run again."
    )
    budget: BudgetIn | None = Field(
        default=None, description="The run's own budget from here on, with what it has spent; only where it had one."
    )


class Accepted(BaseModel):
    """A command is in the run's inbox."""

    run_id: str
    command: str
    status: RunStatus = Field(description="Of the run, before the command is answered.")


class RunSummary(BaseModel):
    """A run in a list."""

    id: str
    pipeline: str
    version: str
    status: RunStatus
    priority: int
    parent: str | None = Field(description="The run that started it.")
    created_at: str | None
    updated_at: str | None
    duration_ms: float | None
    counts: dict[str, int] = Field(description="Stages by status.")
    usage: UsageOut
    error: FailureOut | None


class RunPage(BaseModel):
    """Runs, newest first."""

    items: list[RunSummary]
    next_cursor: str | None


class ModelCalls(BaseModel):
    """Model calls that went to one model and ended alike."""

    provider: str
    model: str
    end: str = Field(description="answered, failed, aborted, lost or cached.")
    calls: int
    failure: str = Field(default="", description="The code of the failure, where they failed or broke off.")
    resumed: bool = Field(default=False, description="Whether they went on from what the call before had given.")


class StageResult(BaseModel):
    """How one stage went."""

    status: str
    attempts: int
    started_at: str | None
    finished_at: str | None
    duration_ms: float | None
    output: Any = Field(description="Above 64 KiB its `$blob`: see /runs/{id}/values/{digest}.")
    error: FailureOut | None = None
    models: list[ModelCalls] = Field(default=[], description="Its model calls: who answered, who did not and why.")


class RunDetail(RunSummary):
    """A run in full."""

    pipeline_id: str | None
    submitted_by: str | None
    test: bool
    pausing: bool
    cancelling: bool
    reason: str = Field(description="Why it was cancelled or paused.")
    input: Any
    output: Any
    stages: dict[str, StageResult] = Field(description="By path, in the order of the file.")
    models: list[ModelCalls] = Field(description="The model calls of all stages.")
    prompts: dict[str, str] = Field(description="The prompts by reference that its Plan was made from: name to digest.")
    options: RunOptions
    seq: int = Field(description="The last event that is in it.")
    plan: str | None
    started_at: str | None
    ended_at: str | None


class TraceEntry(BaseModel):
    """When one stage ran."""

    path: str
    status: str
    attempts: int
    started_at: str | None
    finished_at: str | None
    duration_ms: float | None
    waited_ms: float | None = Field(description="From the start of the run to its own.")


class Trace(BaseModel):
    """When what ran."""

    run_id: str
    status: RunStatus
    created_at: str | None
    started_at: str | None
    ended_at: str | None
    duration_ms: float | None
    queued_ms: float | None
    stages: list[TraceEntry]


class LogOut(BaseModel):
    """A line that a component wrote."""

    number: int
    path: str
    attempt: int
    n: int
    at: int = Field(description="Milliseconds since the epoch.")
    level: str
    message: str
    fields: dict[str, Any]


class LogPage(BaseModel):
    """Lines, the oldest first."""

    items: list[LogOut]
    next_cursor: str | None
