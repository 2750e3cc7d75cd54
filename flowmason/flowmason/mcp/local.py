"""A project on this machine, as the tools see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.errors import Code, UsageError, did_you_mean
from flowmason.mcp.offered import ComponentLine, ComponentShown, PipelineLine, PipelineShown, Progress, RunShown

if TYPE_CHECKING:
    from flowmason.assembly.hosting import RunHost
    from flowmason.assembly.workspace import Workspace
    from flowmason.component import ComponentSpec
    from flowmason.event import Recorded
    from flowmason.ids import RunId
    from flowmason.report import Report

_LOOK_S = 0.2
_END_S = 15.0


class LocalProject:
    """An `Offered`. The project is read anew by every call, so that edited files count at once."""

    def __init__(self, *, on: str = "local", address: str | None = None, provider: str | None = None) -> None:
        self._on = on
        self._address = address
        self._provider = provider

    async def pipelines(self) -> list[PipelineLine]:
        """Those of the project's files that can be read."""

        def found() -> list[PipelineLine]:
            from flowmason.document import read_document

            lines = []
            for entry in _workspace().project.pipelines():
                if not entry.faults:
                    value: Any = read_document(entry.path).value
                    about = value.get("description") if isinstance(value, dict) else None
                    lines.append(PipelineLine(entry.name, entry.version, about if isinstance(about, str) else ""))
            return lines

        return await asyncio.to_thread(found)

    async def pipeline(self, name: str) -> PipelineShown:
        def found() -> PipelineShown:
            workspace = _workspace()
            compiled = workspace.compile(_named(workspace, name))
            pipeline, plan = compiled.source.pipeline, compiled.plan
            stages = [
                {"id": stage.id, "component": stage.component, "depends_on": list(stage.depends_on)}
                for stage in pipeline.stages
            ]
            return PipelineShown(
                plan.name, plan.version, pipeline.description or "", plan.input_schema, plan.output_schema, stages
            )

        return await asyncio.to_thread(found)

    async def run(self, name: str, given: dict[str, Any], progress: Progress) -> RunShown:
        import anyio

        from flowmason.assembly.outcome import result
        from flowmason.assembly.picture import RunPicture
        from flowmason.assembly.running import opened, run_pipeline

        workspace = await asyncio.to_thread(_workspace)
        compiled = await asyncio.to_thread(lambda: workspace.compile(_named(workspace, name)))
        picture = RunPicture(compiled.plan)
        began: list[tuple[RunHost, RunId]] = []
        async with opened(workspace, on=self._on, address=self._address, provider=self._provider) as (stores, executor):
            walk = asyncio.create_task(
                run_pipeline(
                    workspace,
                    compiled,
                    given,
                    stores=stores,
                    executor=executor,
                    options={"provider": self._provider},
                    feeds=[_Feed(picture)],
                    on_start=lambda host, run_id: began.append((host, run_id)),
                )
            )
            try:
                told = (-1, "")
                while not walk.done():
                    await asyncio.wait([walk], timeout=_LOOK_S)
                    done = sum(stage.status in _ENDED for stage in picture.ordered())
                    if (now := (done, str(picture.status))) != told:
                        await progress(done, max(len(picture.ordered()), done), now[1])
                        told = now
            finally:
                if not walk.done():
                    # The request was cancelled: so is the run, and what it has recorded by then stays.
                    with anyio.CancelScope(shield=True):
                        for host, run_id in began:
                            await host.command(run_id, "cancel", reason="the MCP request was cancelled")
                        await asyncio.wait([walk], timeout=_END_S)
                        walk.cancel()
            outcome = result(await walk, stores.values, executor=executor.name)
        return RunShown(
            outcome.run_id,
            outcome.pipeline,
            outcome.version,
            str(outcome.status),
            msgspec.to_builtins(outcome.output),
            msgspec.to_builtins(outcome.error) if outcome.error is not None else None,
            {path: str(stage.status) for path, stage in outcome.stages.items()},
        )

    async def components(self) -> list[ComponentLine]:
        specs = await asyncio.to_thread(lambda: list(_workspace().registry.specs()))
        return [ComponentLine(s.name, s.version, str(s.kind), s.category, s.description) for s in specs]

    async def component(self, name: str) -> ComponentShown:
        def found() -> ComponentSpec:
            registry = _workspace().registry
            spec = registry.get(name)
            if spec is None:
                near = did_you_mean(name, list(registry))
                hint = f"; did you mean {near!r}?" if near else ""
                raise UsageError(f"there is no component {name!r}{hint}", code=Code.COMPONENT_MISSING)
            return spec

        spec = await asyncio.to_thread(found)
        return ComponentShown(
            spec.name,
            spec.version,
            str(spec.kind),
            spec.category,
            spec.description,
            str(spec.effect),
            spec.input_schema,
            spec.output_schema,
        )


_ENDED = frozenset({"completed", "failed", "skipped", "cancelled"})


def _workspace() -> Workspace:
    from flowmason.assembly.workspace import Workspace

    return Workspace.at()


def _named(workspace: Workspace, name: str) -> Any:
    """The file of one of the project's pipelines. A path is refused: a caller names what the project has."""
    known = [entry.name for entry in workspace.project.pipelines()]
    if name.partition("@")[0] not in known:
        near = did_you_mean(name, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"there is no pipeline {name!r}{hint}", code=Code.PIPELINE_NOT_FOUND)
    return workspace.project.find_pipeline(name, cwd=workspace.project.root / ".flowmason")


class _Feed:
    """Keeps a picture up to date."""

    def __init__(self, picture: Any) -> None:
        self._picture = picture

    def committed(self, run_id: RunId, events: Sequence[Recorded]) -> None:
        for recorded in events:
            self._picture.apply(recorded)

    def beside(self, run_id: RunId, report: Report) -> None:
        pass
