"""Answers about components and packages."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from flowmason_serve_apps.studio.models.common import FaultOut


class ComponentSummary(BaseModel):
    """A component that pipelines may name."""

    name: str
    kind: str
    category: str
    description: str
    version: str
    package: str | None
    icon: str
    color: str
    effect: str
    requires_llm: bool
    control_flow_type: str | None
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


class ComponentDetail(ComponentSummary):
    """A component in full."""

    author: str
    tags: list[str]
    ai_config: dict[str, Any]
    timeout_ms: int
    max_retries: int
    supports_streaming: bool
    secrets: list[str]
    models: list[str]
    hosts: list[str]
    digest: str
    versions: list[str]


class ComponentPage(BaseModel):
    """Components by name."""

    items: list[ComponentSummary]
    next_cursor: str | None


class PackageOut(BaseModel):
    """A package that the org uploaded."""

    id: str
    name: str
    version: str
    description: str
    digest: str
    size: int
    components: list[str]
    uploaded_by: str
    uploaded_at: str | None


class PackagePage(BaseModel):
    """Packages by name, the newest version first."""

    items: list[PackageOut]
    next_cursor: str | None


class RegistryStats(BaseModel):
    """How many components there are."""

    components: int
    packages: int
    by_kind: dict[str, int]
    by_category: dict[str, int]


class Refreshed(BaseModel):
    """What was read again."""

    components: int
    faults: list[FaultOut]
