"""Bodies and answers about debugging a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from flowmason_serve_apps.studio.models.common import Body, FailureOut
from flowmason_serve_apps.studio.models.runs import RunOptions

Expression = Annotated[str, Field(min_length=1, max_length=4000)]
Filter = Literal["all", "uncaught", "error", "warning", "timeout", "validation", "connectivity"]
Text = Annotated[str, Field(max_length=1_000_000)]


class Breakpoint(Body):
    """A cut before a stage: the run stops there."""

    stage: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="A stage's id; with the stages around it, `child.inner`; or one place of the run, `each[3].inner`."
    )
    condition: Annotated[str, Field(max_length=4000)] = Field(
        default="", description="An expression over what the stage can see; empty: always."
    )
    hit_condition: Annotated[str, Field(max_length=4000)] = Field(
        default="", description="`3` (the third time alone), or an expression over `hits`; empty: every time."
    )


Breakpoints = Annotated[list[Breakpoint], Field(max_length=500)]
Filters = Annotated[list[Filter], Field(max_length=7)]


class DebugRun(Body):
    """A run that stops where it is told to."""

    pipeline: dict[str, Any] | Annotated[str, Field(min_length=1, max_length=300)] = Field(
        description="A pipeline as it stands in a file, or `name` or `name@version` of one that is kept."
    )
    input: dict[str, Any] | None = Field(default=None, description="Null: empty, with the defaults of the schema.")
    options: RunOptions = RunOptions()
    breakpoints: Breakpoints = []
    exceptions: Filters = Field(default=[], description="Failures after which it stops.")
    stop_on_entry: bool = Field(default=False, description="Whether it stops before its first stage.")


class PutBreakpoints(Body):
    """All breakpoints from now on."""

    breakpoints: Breakpoints


class PutExceptions(Body):
    """All exception filters from now on."""

    filters: Filters


class Continue(Body):
    """How to go on."""

    redo: bool = Field(default=False, description="Whether what used an edited or renewed result runs again first.")


class Step(Body):
    """One step."""

    kind: Literal["over", "into", "out"] = "over"


class Edit(Body):
    """A prompt for one more run of a stage; null: as the pipeline says."""

    system_prompt: Text | None = None
    user_prompt: Text | None = None


class Evaluate(Body):
    """Expressions to look at."""

    expressions: Annotated[list[Expression], Field(min_length=1, max_length=50)]
    stage: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="The path of an open stage to look from; null: where the run stands."
    )


class Watched(BaseModel):
    """An expression and its value, or why it has none."""

    expression: str
    value: Any
    error: str | None


class Watches(BaseModel):
    """What was looked at, in the order of the question."""

    items: list[Watched]
    next_cursor: None = None


class BreakpointState(BaseModel):
    """A breakpoint, and what became of it."""

    stage: str
    condition: str
    hit_condition: str
    hits: int = Field(description="How often it was reached with its condition true.")
    verified: bool = Field(description="Whether a pipeline of the run has such a stage.")


class Frame(BaseModel):
    """One level of the call stack: a stage, and what it runs in."""

    path: str
    stage: str
    kind: str
    pipeline: str
    status: str
    round: int
    part: str | None = Field(description="Of a trycatch: attempt, rescue or cleanup.")
    index: int | None = Field(description="Of a foreach: the position of the item.")
    total: int | None
    locals: dict[str, Any]


class DebugState(BaseModel):
    """Where a run stands."""

    run_id: str
    mode: Literal["running", "paused", "stepping", "stopped"]
    status: str
    pausing: bool = Field(description="Whether it is about to stop and waits for what is under way.")
    reason: str = Field(description="breakpoint, entry, step, exception, rerun, pause, or empty.")
    path: str | None = Field(description="The stage before which it stands; after it, by an exception or a rerun.")
    breakpoint: str
    hit: int
    note: str
    failure: FailureOut | None
    breakpoints: list[BreakpointState]
    exceptions: list[str]
    stack: list[Frame] = Field(description="The innermost first.")
    inputs: Any
    variables: dict[str, Any]
    locals: dict[str, Any]
    next: list[str] = Field(description="Stages that may start once the run goes on.")
    stale: list[str] = Field(description="Stages whose results were edited or made anew since the run stopped.")
    seq: int = Field(description="The last event that is in it.")


class ExceptionInfo(BaseModel):
    """The failure at which a run stands, or by which it failed."""

    run_id: str
    path: str | None
    filter: str | None = Field(description="The exception filter that stopped the run; null: the run itself failed.")
    failure: FailureOut
    stack: list[Frame]


class Prompt(BaseModel):
    """What a stage asks its model."""

    path: str
    stage: str
    kind: str
    status: str
    attempt: int
    round: int
    source: Literal["asked", "input"] = Field(
        description="asked: what the model was asked last; input: the stage's own fields."
    )
    system_prompt: str | None
    user_prompt: str | None
    model: str | None
    edit: dict[str, Any] | None
    variables: dict[str, Any]
    input: Any
    output: Any
