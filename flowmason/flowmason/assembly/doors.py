"""`flowmason.load` and `flowmason.run`: pipelines from Python, without the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowmason.assembly.outcome import RunResult, result
from flowmason.assembly.running import opened, run_pipeline
from flowmason.assembly.workspace import Compiled, Workspace
from flowmason.errors import UsageError
from flowmason.pipeline import Pipeline
from flowmason.plan import Plan


class LoadedPipeline:
    """A pipeline file that was read, checked and compiled."""

    def __init__(self, workspace: Workspace, compiled: Compiled) -> None:
        self._workspace = workspace
        self._compiled = compiled

    @property
    def name(self) -> str:
        return self.pipeline.name

    @property
    def version(self) -> str:
        return self.pipeline.version

    @property
    def path(self) -> Path:
        """The file."""
        return self._compiled.source.path

    @property
    def pipeline(self) -> Pipeline:
        """What the file says, with what it inherits written out."""
        return self._compiled.source.pipeline

    @property
    def plan(self) -> Plan:
        """What is run."""
        return self._compiled.plan

    @property
    def sample_input(self) -> dict[str, Any] | None:
        """The input that the file offers for trying it."""
        return self._compiled.sample_input

    def run(self, input: Mapping[str, Any] | None = None, **options: Any) -> RunResult:
        """Run it and wait; see `flowmason.run`."""
        return run(self, input, **options)

    async def run_async(
        self,
        input: Mapping[str, Any] | None = None,
        *,
        on: str = "local",
        address: str | None = None,
        allow_open_ray: bool = False,
        provider: str | None = None,
        max_concurrency: int | None = None,
        timeout_s: float | None = None,
        journal: str | None = None,
        values: str | None = None,
    ) -> RunResult:
        """The same as `run`, to be awaited."""
        options = {"provider": provider, "max_concurrency": max_concurrency}
        async with opened(
            self._workspace,
            on=on,
            address=address,
            allow_open=allow_open_ray,
            provider=provider,
            journal=journal,
            values=values,
        ) as (stores, executor):
            picture = await run_pipeline(
                self._workspace,
                self._compiled,
                input,
                stores=stores,
                executor=executor,
                options=options,
                timeout_s=timeout_s,
            )
            return result(picture, stores.values, executor=executor.name, limit=None)

    def __repr__(self) -> str:
        return f"LoadedPipeline({self.pipeline.reference!r}, {str(self.path)!r})"


def load(path: str | Path) -> LoadedPipeline:
    """Read, check and compile a pipeline, given by its file, or by its name in the project we are in.

    Raises `RefusedError` with every fault in its place, `UsageError` where there is no such pipeline.
    """
    workspace = Workspace.at(path)
    return LoadedPipeline(workspace, workspace.compile(path))


def run(pipeline: str | Path | LoadedPipeline, input: Mapping[str, Any] | None = None, **options: Any) -> RunResult:
    """Run a pipeline and wait for its end. Without `input`, the pipeline gets an empty one with its defaults.

    Options: `on` (`"local"` by default, or `"ray"`), `address` and `allow_open_ray` (of Ray), `provider` (for stages
    that name none), `max_concurrency`, `timeout_s` (cancels the run), `journal` and `values` (URLs). A run that fails
    is a result with `status == "failed"` and an `error`, not an exception. Raises `RefusedError` for a wrong file or
    input, `EngineUnavailableError` where there is nothing to run on, `UsageError` inside a running event loop (await
    `LoadedPipeline.run_async` there).
    """
    loaded = pipeline if isinstance(pipeline, LoadedPipeline) else load(pipeline)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(loaded.run_async(input, **options))
    raise UsageError("an event loop is running already", help="Await LoadedPipeline.run_async(…) instead.")
