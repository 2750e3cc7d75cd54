"""`Workspace`: a project, its components and its pipelines, from files to Plans."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.document import Document, load_pipeline, located
from flowmason.errors import Code, Fault, RefusedError, UsageError
from flowmason.executor import WorkerSettings
from flowmason.ids import sha256
from flowmason.pipeline import Pipeline
from flowmason.plan import Plan
from flowmason.project import PIPELINE_SUFFIXES, Project, PromptFolder, project_for

if TYPE_CHECKING:
    from flowmason.inherit import Resolved
    from flowmason.registry import Registry


class Source(msgspec.Struct, frozen=True):
    """A pipeline file that was read, with everything it inherits written out."""

    path: Path
    document: Document
    written: Pipeline
    """As the file says."""
    resolved: Resolved

    @property
    def pipeline(self) -> Pipeline:
        """What is compiled."""
        return self.resolved.pipeline


class Compiled(msgspec.Struct, frozen=True):
    """A pipeline that can be run."""

    source: Source
    plan: Plan

    @property
    def sample_input(self) -> dict[str, Any] | None:
        """The input that the file offers for trying it."""
        return self.source.pipeline.sample_input


class Workspace:
    """A project (or, where files belong to none, the folder they lie in) and what its pipelines need.

    `cwd` is what relative paths go from; `packages` are the folders of installed packages.
    """

    def __init__(
        self,
        project: Project,
        *,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        packages: Sequence[Path] | None = None,
    ) -> None:
        self.project = project
        self.cwd = cwd or Path.cwd()
        self.environ = os.environ if environ is None else environ
        self._packages = packages
        self._sources: dict[Path, Source] = {}

    @classmethod
    def at(cls, wanted: str | Path | None = None, *, cwd: Path | None = None) -> Workspace:
        """The workspace of a file or folder; for anything else (a pipeline's name) that of `cwd`.

        Raises `RefusedError` for a wrong `flowmason.json`.
        """
        here = cwd or Path.cwd()
        path = here / wanted if wanted is not None else here
        return cls(project_for(path if path.exists() else here), cwd=here)

    @property
    def root(self) -> Path | None:
        """The project's root; None: there is no project."""
        return self.project.root if self.project.manifest else None

    @cached_property
    def registry(self) -> Registry:
        """Every component that the pipelines may name; `faults` tells of those that cannot be read."""
        return self.project.registry(packages=self._packages)

    @cached_property
    def prompts(self) -> PromptFolder:
        """Every prompt that the pipelines may refer to, read when it is asked for."""
        return PromptFolder(self.project.root)

    # -- pipelines -------------------------------------------------------------------------------

    def find(self, wanted: str | Path) -> Path:
        """The file of a pipeline, given as a path, a name or `name@version`. Raises `UsageError`."""
        return self.project.find_pipeline(str(wanted), cwd=self.cwd)

    def named(self, reference: str) -> Pipeline:
        """The resolved pipeline of `name` or `name@version`, as other pipelines refer to it.

        Raises `UsageError` (`PIPELINE_NOT_FOUND`) and `RefusedError`.
        """
        return self.source(self.project.find_pipeline(reference, cwd=self.project.root)).pipeline

    def source(self, path: Path) -> Source:
        """Read a pipeline file and what it inherits. Raises `RefusedError` with located faults."""
        found = self._sources.get(path)
        if found is None:
            written, document = load_pipeline(shown(path))
            try:
                resolved = self._resolved(written)
            except RefusedError as error:
                raise _placed(error.faults, document) from None
            found = self._sources[path] = Source(path, document, written, resolved)
        return found

    def _resolved(self, pipeline: Pipeline) -> Resolved:
        from flowmason.inherit import trace

        return trace(pipeline, self.written)

    def written(self, reference: str) -> Pipeline:
        """The pipeline of `name` or `name@version` as its file says. Raises `LookupError` where there is none."""
        try:
            path = self.project.find_pipeline(reference, cwd=self.project.root)
        except UsageError as error:
            raise LookupError(str(error)) from None
        return load_pipeline(shown(path))[0]

    def compile(self, wanted: str | Path) -> Compiled:
        """Find, read and compile a pipeline.

        Raises `RefusedError` with every fault in its place, `UsageError` where there is no such pipeline.
        """
        path = self.find(wanted)
        try:
            source = self.source(path)
        except RefusedError as error:
            raise self._surveyed(path, error) from None
        return Compiled(source, self._plan(source))

    def check(self, path: Path) -> tuple[Fault, ...]:
        """Everything that is wrong with one pipeline file; an abstract one is checked as far as it goes."""
        try:
            source = self.source(path)
        except RefusedError as error:
            return self._surveyed(path, error).faults
        try:
            if not source.pipeline.abstract:
                self._plan(source)
        except RefusedError as error:
            return error.faults
        return ()

    def _surveyed(self, path: Path, error: RefusedError) -> RefusedError:
        """The refusal of a file that cannot be read whole, or not resolved, with the faults of all that can."""
        from flowmason.compiler import survey_pipeline
        from flowmason.document import read_document
        from flowmason.pipeline import sketch_pipeline

        try:
            document = read_document(shown(path))
        except (RefusedError, UsageError):
            return error
        faults = survey_pipeline(
            sketch_pipeline(document.value),
            self.registry,
            written=self.written,
            find=self.named,
            env=self.project.env,
            prompts=self.prompts,
        )
        placed = _placed(faults, document)
        return self._with_component_faults(placed) if faults else error

    def _with_component_faults(self, error: RefusedError) -> RefusedError:
        if any(fault.code == Code.COMPONENT_MISSING for fault in error.faults):
            return RefusedError([*error.faults, *self.component_faults()])
        return error

    def _plan(self, source: Source) -> Plan:
        from flowmason.compiler import compile_pipeline

        try:
            return compile_pipeline(
                source.pipeline, self.registry, find=self.named, env=self.project.env, prompts=self.prompts
            )
        except RefusedError as error:
            placed = _placed([source.resolved.relocate(fault) for fault in error.faults], source.document)
            raise self._with_component_faults(placed) from None

    def component_faults(self) -> tuple[Fault, ...]:
        """Component files and packages that could not be read, with paths as they are shown here."""
        root = self.project.root
        found = []
        for fault in self.registry.faults:
            file = fault.file
            if file is not None and (root / file).is_file():
                file = shown(root / file)
            found.append(msgspec.structs.replace(fault, file=file))
        return tuple(found)

    async def resolve(self, name: str, options: dict[str, Any]) -> Plan:
        """The `Resolve` of a conductor: sub-pipelines whose names are known only at run time."""
        import asyncio

        def compile() -> Plan:
            path = self.project.find_pipeline(name, cwd=self.project.root)
            return self._plan(self.source(path))

        return await asyncio.to_thread(compile)

    # -- what workers need -----------------------------------------------------------------------

    def worker_settings(self, values_url: str, *, provider: str | None = None) -> WorkerSettings:
        """What worker processes are told of this project. `provider` is the default of this session."""
        from flowmason.registry import packages_dir

        project = self.project
        providers: dict[str, Any] = {
            name: msgspec.to_builtins(settings) for name, settings in sorted(project.providers.items())
        }
        default = provider or project.default_provider or local_model()
        if default is not None:
            providers["default"] = default
        packages = self._packages[0] if self._packages else packages_dir()
        return WorkerSettings(
            values_url=values_url,
            project_root=str(self.project.root) if project.manifest else None,
            packages_dir=str(packages),
            options={
                "env": list(project.env),
                "egress_allow": list(project.egress_allow),
                **({"mcp_servers": project.mcp_servers} if project.mcp_servers else {}),
                "providers": providers,
                "code": self.code,
            },
        )

    @property
    def code(self) -> str:
        """Digest of every component that can be run here: processes that live long serve one version of the code."""
        lines = [f"{spec.name}@{spec.version} {spec.digest}" for spec in self.registry.specs()]
        return sha256("\n".join(lines).encode())


def local_model() -> str | None:
    """The provider for a project that names none: the model in this process, where it is installed."""
    from flowmason.providers import missing_for

    return "llamacpp" if missing_for("llamacpp") is None else None


def pipeline_files(folder: Path) -> list[Path]:
    """Every pipeline file below a folder, sorted; hidden folders are left out."""
    found = (path for path in folder.rglob("*.pipeline.*") if path.name.endswith(PIPELINE_SUFFIXES) and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _placed(faults: Iterable[Fault], document: Document) -> RefusedError:
    placed = [located(fault, document) for fault in faults]
    placed.sort(key=lambda fault: (fault.line or 0, fault.column or 0))
    return RefusedError(placed)


def shown(path: Path) -> str:
    """A path as people want to read it: relative where it lies below the folder they are in."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
