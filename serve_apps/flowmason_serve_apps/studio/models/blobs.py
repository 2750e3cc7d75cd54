"""Answers about files that become part of inputs."""

from __future__ import annotations

from pydantic import BaseModel, Field


class BlobOut(BaseModel):
    """What stands for a file in the input of a run, as it is."""

    blob: str = Field(alias="$blob", description="The digest of its bytes.", pattern=r"^sha256:[0-9a-f]{64}$")
    type: str = Field(description="Its media type, as the upload said.")
    size: int = Field(description="Bytes.")
