"""What a file of tests is about: a pipeline, or a single component."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flowmason.assembly.workspace import Source, Workspace, shown
from flowmason.compiler import compile_pipeline
from flowmason.component import ComponentSpec
from flowmason.errors import Code, Fault, RefusedError, UsageError
from flowmason.ids import StageId
from flowmason.pipeline import Pipeline, Stage
from flowmason.plan import Plan
from flowmason.region.mocks import Mock, Mocks
from flowmason.testing.coverage import CATCH, UNCOVERED, StageLine
from flowmason.testing.files import TestCase, TestFile
from flowmason.testing.mocking import fitted

if TYPE_CHECKING:
    from pathlib import Path


class PipelineSubject:
    """A pipeline under test."""

    def __init__(self, workspace: Workspace, file: TestFile) -> None:
        """Raises `RefusedError`: there is no such pipeline, it does not compile, or mocks do not fit it."""
        assert file.pipeline is not None
        try:
            path = workspace.project.find_pipeline(file.pipeline, cwd=file.path.parent)
        except UsageError as error:
            raise RefusedError([Fault(str(error), "$.pipeline", code=Code.PIPELINE_NOT_FOUND)]) from None
        compiled = workspace.compile(path.resolve())
        self.source: Source | None = compiled.source
        self._plan = compiled.plan
        self.name = self.source.pipeline.reference
        self._mocks = _fitted(file, self._plan, workspace.registry)

    def plan(self, given: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
        """The Plan to run, and the input of the run."""
        return self._plan, dict(given)

    def mocks(self, case: TestCase) -> Mocks:
        """Fresh mocks for one run of a test: the test's own before those of the file."""
        return Mocks(self._mocks[case.index])


class ComponentSubject:
    """A component under test, as the only stage of a pipeline that is made up for each input."""

    source: Source | None = None

    def __init__(self, workspace: Workspace, file: TestFile) -> None:
        """Raises `RefusedError`: there is no such component, or the file has mocks."""
        assert file.component is not None
        try:
            self._spec = workspace.registry.require(file.component)
        except UsageError as error:
            faults = [Fault(str(error), "$.component", code=Code.COMPONENT_MISSING), *workspace.component_faults()]
            raise RefusedError(faults) from None
        self._workspace = workspace
        self._component = file.component
        self.name = self._spec.id
        reason = "a test of a component mocks no components; 'llm' scripts its model"
        mocked = ["$.mocks"] if file.mocks else []
        mocked += [f"$.tests[{case.index}].mocks" for case in file.cases if case.mocks]
        if mocked:
            raise RefusedError([Fault(reason, pointer) for pointer in mocked])

    def plan(self, given: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
        """The Plan to run, and the input of the run. Raises `RefusedError` for inputs that can never be right."""
        stage = Stage(id=StageId(self._spec.name), component=self._component, config=_literal(dict(given)))
        pipeline = Pipeline(name=f"test-of-{self._spec.name}", stages=(stage,))
        return compile_pipeline(
            pipeline, self._workspace.registry, env=self._workspace.project.env, prompts=self._workspace.prompts
        ), {}

    def mocks(self, case: TestCase) -> None:
        """None: the component itself runs."""


Subject = PipelineSubject | ComponentSubject


def subject_of(workspace: Workspace, file: TestFile) -> Subject:
    """What a file of tests is about. Raises `RefusedError`."""
    return PipelineSubject(workspace, file) if file.pipeline is not None else ComponentSubject(workspace, file)


def _fitted(file: TestFile, plan: Plan, specs: Mapping[str, ComponentSpec]) -> dict[int, dict[str, Mock]]:
    faults: list[Fault] = []

    def fit(mocks: Mapping[str, Mock], *at: str | int) -> dict[str, Mock]:
        try:
            return fitted(mocks, (*at, "mocks"), plan, specs)
        except RefusedError as error:
            faults.extend(error.faults)
            return {}

    common = fit(file.mocks)
    found = {case.index: {**common, **fit(case.mocks, "tests", case.index)} for case in file.cases}
    if faults:
        raise RefusedError(faults)
    return found


def _literal(value: Any) -> Any:
    """A value as a stage's config says it literally: `{{` is no template."""
    if isinstance(value, str):
        return value.replace("{{", "{{{{")
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value


def declared(workspace: Workspace, source: Source) -> Iterator[StageLine]:
    """The stages of a pipeline with their places and branches; those it inherits stand in the file they are from."""
    for stage in source.pipeline.stages:
        origin = source.resolved.origins[stage.id]
        own = origin.pipeline == source.written.name
        home = source if own else _home(workspace, origin.pipeline)
        place = home.document.position(origin.path) if home is not None else None
        yield StageLine(
            id=stage.id,
            status=UNCOVERED,
            hits=0,
            file=shown((home or source).path),
            line=place[0] if place is not None else None,
            branches=dict.fromkeys(_branches(stage, workspace.registry), 0),
        )


def _home(workspace: Workspace, pipeline: str) -> Source | None:
    try:
        return workspace.source(workspace.project.find_pipeline(pipeline, cwd=workspace.project.root))
    except (UsageError, RefusedError):
        return None


def _branches(stage: Stage, specs: Mapping[str, ComponentSpec]) -> tuple[str, ...]:
    spec = specs.get(stage.component)
    kind = spec.control_flow_type if spec is not None else None
    given = stage.inputs
    if kind == "conditional":
        return ("true", "false")
    if kind == "router":
        routes = given.get("routes")
        names = tuple(routes) if isinstance(routes, dict) else ()
        return (*names, "default") if given.get("default_route") else names
    if kind == "trycatch" and given.get("catch_stages"):
        return (CATCH,)
    return ()


def source_of(workspace: Workspace, name: str, version: str) -> Source | None:
    """The file of a pipeline that ran; None: it has none in the project."""
    return _home(workspace, f"{name}@{version}")


def project_sources(workspace: Workspace) -> Iterator[Source]:
    """Every pipeline file of the project that can be read and run."""
    paths: list[Path] = workspace.project.pipeline_files()
    for path in paths:
        try:
            source = workspace.source(path.resolve())
        except RefusedError:
            continue  # `fm validate` says so
        if not source.pipeline.abstract:
            yield source
