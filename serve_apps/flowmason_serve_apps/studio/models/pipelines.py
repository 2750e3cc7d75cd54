"""Bodies and answers about pipelines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from flowmason_serve_apps.studio.models.common import Body, FaultOut

PipelineStatus = Literal["draft", "published"]


class PipelineSummary(BaseModel):
    """A pipeline in a list."""

    id: str
    name: str
    version: str
    description: str
    category: str | None
    tags: list[str]
    status: PipelineStatus
    revision: int = Field(description="Rises with every write; the ETag.")
    digest: str
    last_test_run_id: str | None
    published_version: str | None = Field(description="What the name alone means; null: the draft.")
    published_at: str | None
    created_by: str
    created_at: str | None
    updated_at: str | None


class PipelineDetail(PipelineSummary):
    """A pipeline with its document."""

    document: dict[str, Any]
    warnings: list[FaultOut] = Field(default=[], description="What is kept, but cannot be run yet.")


class PipelinePage(BaseModel):
    """Pipelines by name."""

    items: list[PipelineSummary]
    next_cursor: str | None


class VersionSummary(BaseModel):
    """A version that is kept."""

    pipeline_id: str
    name: str
    version: str
    revision: int
    digest: str
    created_by: str
    created_at: str | None
    published_at: str | None


class VersionDetail(VersionSummary):
    """A kept version with its document."""

    document: dict[str, Any]


class VersionPage(BaseModel):
    """Versions, the newest first."""

    items: list[VersionSummary]
    next_cursor: str | None


class Inline(Body):
    """A pipeline that is not kept: as values, or as a text, so that faults have lines and columns."""

    pipeline: dict[str, Any] | None = None
    text: Annotated[str, Field(max_length=16 * 1024 * 1024)] | None = None
    format: Literal["json", "yaml"] = Field(default="json", description="Of `text`.")


class InlineValues(Body):
    """A pipeline that is not kept."""

    pipeline: dict[str, Any]


class Validation(BaseModel):
    """What is wrong with a pipeline."""

    valid: bool = Field(description="Whether it can be run.")
    faults: list[FaultOut]
    warnings: list[FaultOut] = Field(description="What may be kept, but cannot be run yet.")
    stages: list[str] = Field(description="Ids in the order in which they may run; empty where it is refused.")


class Fixed(BaseModel):
    """A pipeline with what could be mended mended."""

    fixed: dict[str, Any]
    applied_fixes: list[str]


class Publish(Body):
    """What a publication rests on."""

    test_run_id: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        description="A completed run of the draft as it stands."
    )
