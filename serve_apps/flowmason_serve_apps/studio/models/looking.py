"""Answers about how runs of an org go: why one waits, and how many there were."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from flowmason_serve_apps.studio.models.common import Body, UsageOut
from flowmason_serve_apps.studio.models.runs import RunStatus

Cause = Literal[
    "ENDED", "UNDER_WAY", "READY", "NO_CONDUCTOR", "CONDUCTOR_LOST", "ORG_CONCURRENCY", "QUEUE", "CAPACITY", "PAUSED",
    "PAUSING", "CANCELLING", "RETRY_DELAY", "RATE_LIMIT", "MAX_CONCURRENCY", "DEPENDENCY", "BUDGET",
    "PROVIDER_LIMIT", "RESOURCES",
]  # fmt: skip


class Why(BaseModel):
    """One cause."""

    code: Cause
    explanation: str = Field(description="One sentence for a person.")
    until: str | None = Field(description="When it goes on by itself, where that is known.")
    on: list[str] = Field(description="What it waits for: paths of stages.")
    count: int | None = Field(description="How many runs or stages there are of what it waits for.")


class StageWhy(Why):
    """Why a stage waits."""

    path: str
    status: str


class WhyOut(BaseModel):
    """Why a run waits, and each of its stages that has not ended."""

    run_id: str
    status: RunStatus
    waiting: bool = Field(description="Whether the run as a whole stands still.")
    causes: list[Why]
    stages: list[StageWhy] = Field(description="The first 100.")
    more: int = Field(description="How many stages are left out.")


class Durations(BaseModel):
    """How long runs took that ended in the window, in milliseconds; null where none did."""

    p50: float | None
    p95: float | None


class Day(BaseModel):
    """Runs that were started on one day (UTC)."""

    day: str
    runs: dict[str, int] = Field(description="By state.")
    duration_ms: Durations
    usage: UsageOut


class Stats(BaseModel):
    """How an org's runs went."""

    days: int
    since: str
    counted: int = Field(description="Runs in the window that were looked at, the newest first.")
    complete: bool = Field(description="Whether these are all; false where there are more than 20,000.")
    runs: dict[str, int] = Field(description="By state.")
    duration_ms: Durations
    usage: UsageOut
    by_day: list[Day] = Field(description="The oldest first; days without runs are left out.")


class UsageSum(BaseModel):
    """What the model calls of one day, pipeline (or caller) and model add up to."""

    day: str = Field(description="UTC.")
    pipeline: str = Field(description="Empty for calls over HTTP, which no run makes.")
    caller: str = Field(description="Of calls over HTTP: the API key or the user. Empty for those of runs.")
    provider: str
    model: str
    calls: int = Field(description="All but those that failed or were answered from a cache.")
    failed: int
    cached: int = Field(description="Answered from a cache.")
    input_tokens: int
    output_tokens: int
    cached_tokens: int = Field(description="Of the input: read from the provider's prompt cache.")
    cost: str = Field(description="US dollars, of the calls whose price is known.")
    unpriced: int = Field(description="Calls at an unknown price.")
    estimated: int = Field(description="Calls that are our own count.")


class UsagePage(BaseModel):
    """The latest day first."""

    items: list[UsageSum]
    next_cursor: str | None


class DayBudget(Body):
    """What the org may spend on models a day (UTC); null: any amount."""

    max_cost_per_day: str | None = Field(
        default=None, pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$", description="US dollars, as a decimal string."
    )
    max_tokens_per_day: int | None = Field(default=None, ge=0, le=10**15, description="Prompts and answers together.")


class DayBudgetOut(BaseModel):
    """What the org may spend on models a day, and how today stands."""

    max_cost_per_day: str | None
    max_tokens_per_day: int | None
    day: str = Field(description="Today, by UTC.")
    spent_cost: str = Field(description="Since the org has a budget.")
    spent_tokens: int
    reserved_cost: str = Field(description="By model calls under way, at worst.")
    reserved_tokens: int
    held_cost: str = Field(description="By conductors, to reserve out of.")
    held_tokens: int
