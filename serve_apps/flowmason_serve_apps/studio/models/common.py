"""Parts that many answers have, and what bodies have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Body(BaseModel):
    """What a request brings: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class FaultOut(BaseModel):
    """One thing that is wrong in a document, with its place."""

    reason: str
    pointer: str = Field(default="", description="JSON path of the offending value.")
    line: int | None = Field(default=None, description="From 1, in the text that was sent.")
    column: int | None = None
    nearest: str | None = Field(default=None, description="The nearest right name.")
    file: str | None = None
    code: str = "INVALID_DOCUMENT"


class FailureOut(BaseModel):
    """What went wrong in a run or a stage."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    stage: str | None = None
    phase: str | None = None
    type: str | None = None
    retry: str | None = None
    retry_after_ms: int | None = None
    cause: FailureOut | None = None
    details: dict[str, Any] | None = None
    help: str | None = None
    trace: str | None = None


class UsageOut(BaseModel):
    """What model calls used and cost."""

    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_tokens: int
    cost: str | None = Field(description="US dollars as a decimal string; null where a price is unknown.")
    provider: str | None
    model: str | None
    estimated: bool
