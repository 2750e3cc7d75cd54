"""Whether the Studio answers. Open to everybody, and says nothing of anybody's data."""

from __future__ import annotations

from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """That this process answers."""

    status: Literal["healthy"] = "healthy"
    version: str


@router.get("/health", operation_id="health")
async def health() -> Health:
    """Answers as soon as the process does; it asks no database."""
    return Health(version=version("flowmason"))
