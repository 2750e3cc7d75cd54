"""The port behind the tools, and what they answer. The answers are the tools' output schemas."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass
class PipelineLine:
    """A pipeline in a list."""

    name: str
    version: str
    description: str = ""


@dataclass
class Pipelines:
    pipelines: list[PipelineLine]


@dataclass
class PipelineShown:
    """A pipeline: what it takes, gives and does."""

    name: str
    version: str
    description: str
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    stages: list[dict[str, Any]]
    """`id`, `component` and `depends_on` of each, in the order of the file."""


@dataclass
class RunShown:
    """How a run went."""

    run_id: str
    pipeline: str
    version: str
    status: str
    """completed, failed, cancelled, paused."""
    output: Any = None
    error: dict[str, Any] | None = None
    stages: dict[str, str] = field(default_factory=dict)
    """The status of each stage, by path."""


@dataclass
class ComponentLine:
    """A component in a list."""

    name: str
    version: str
    kind: str
    category: str
    description: str


@dataclass
class Components:
    components: list[ComponentLine]


@dataclass
class ComponentShown:
    """A component: what it takes, gives and does to the world."""

    name: str
    version: str
    kind: str
    category: str
    description: str
    effect: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


Progress = Callable[[int, int, str], Awaitable[None]]
"""Told how many stages are done, of how many, and the status."""


class Offered(Protocol):
    """What a project or an org offers to one caller. Everything raises `FlowMasonError` for what it refuses."""

    async def pipelines(self) -> list[PipelineLine]: ...

    async def pipeline(self, name: str) -> PipelineShown: ...

    async def run(self, name: str, given: dict[str, Any], progress: Progress) -> RunShown:
        """Run a pipeline to its end. Cancelling the call cancels the run."""
        ...

    async def components(self) -> list[ComponentLine]: ...

    async def component(self, name: str) -> ComponentShown: ...
