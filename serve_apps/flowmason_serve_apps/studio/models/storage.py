"""Bodies and answers about what an org keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from flowmason_serve_apps.studio.models.common import Body


class RetentionWish(Body):
    """For how long runs that have ended are kept."""

    days: Annotated[int, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="Runs that ended longer ago are deleted; null: none is."
    )
    min_kept: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0, description="So many of the latest are kept, however old."
    )


class RetentionOut(BaseModel):
    """For how long runs that have ended are kept."""

    days: int | None
    min_kept: int


class KeptAnswers(Body):
    """How old an answer of a model may be that is given again."""

    max_age_s: Annotated[int, Field(ge=0, le=30 * 24 * 3600)] | None = Field(
        default=None,
        description="For stages that say nothing else; 0: none is given or kept, whatever they say; null: as they say.",
    )


class AnswersCleared(BaseModel):
    """Kept answers are gone."""

    removed: int


class StorageOut(BaseModel):
    """How much the org keeps."""

    runs: int
    events: int = Field(description="Of all journals.")
    journal_bytes: int = Field(description="Of events as they are stored, compressed.")
    log_bytes: int = Field(description="Of log lines and streamed text.")
    values: int = Field(description="Large values and blobs, Plans included.")
    value_bytes: int
    counted_at: str | None = Field(description="When this was counted.")
    retention: RetentionOut
