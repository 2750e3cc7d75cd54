"""The settings of a project as data, and what follows from them: its components and its pipeline files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from flowmason.component import version_key
from flowmason.document import read_document
from flowmason.errors import Code, Fault, RefusedError, UsageError, did_you_mean
from flowmason.registry import Registry, find_components, packages_dir

MANIFEST = "flowmason.json"
PIPELINE_SUFFIXES = (".pipeline.json", ".pipeline.yaml", ".pipeline.yml")


class ComponentFiles(msgspec.Struct, frozen=True):
    """Which Python files declare components: globs relative to the project's root."""

    include: tuple[str, ...] = ("components/**/*.py",)
    exclude: tuple[str, ...] = ()


class ProviderConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one LLM provider is reached. What is None is the provider's own default."""

    model: str | None = None
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    base_url: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    extra: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    """`concurrency`, `per_minute`, `tokens_per_minute`, `breaker`: see `flowmason.providers.read_limits`."""
    chain: tuple[dict[str, Any], ...] = ()
    """Not one provider, but several that are asked in turn: `provider` and `model` of each."""


class Testing(msgspec.Struct, frozen=True):
    """Defaults of `fm test`."""

    timeout: int = 30_000
    """Milliseconds per test."""
    retries: int = 2
    parallel: bool = False
    coverage: bool = True
    test_patterns: tuple[str, ...] = ("**/*.test.json",)


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    """The most that one run may spend."""

    max_cost: str | None = None
    """Dollars, as a decimal text."""
    max_tokens: int | None = None


class PipelineEntry(msgspec.Struct, frozen=True):
    """A pipeline file of the project."""

    path: Path
    name: str
    """As the file says; the file's own name where it cannot be read."""
    version: str = "1.0.0"
    faults: tuple[Fault, ...] = ()
    """Why the file cannot be read, where it cannot."""


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a project, or, with `manifest=False`, the defaults for files that belong to none."""

    root: Path
    manifest: bool = True
    name: str = ""
    version: str = "1.0.0"
    description: str = ""
    author: str = ""
    license: str = ""
    repository: str = ""
    main: str | None = None
    """The pipeline that runs when none is named; relative to the root."""
    components: ComponentFiles = ComponentFiles()
    default_provider: str | None = None
    """None: the command decides (the local model, where it is installed)."""
    providers: dict[str, ProviderConfig] = {}
    testing: Testing = Testing()
    org: str | None = None
    pipeline_dirs: tuple[str, ...] = ("pipelines",)
    env: tuple[str, ...] = ()
    """The only names that `env.` may read."""
    egress_allow: tuple[str, ...] = ()
    """`host:port`s that may be called although the egress guard would refuse them."""
    mcp_servers: dict[str, dict[str, Any]] = {}
    """As written; `flowmason.mcp_client.read_server` says what they mean."""
    budget: Budget = Budget()
    extra: dict[str, Any] = {}
    """The object `extra` and every `x-…` key, as written."""

    @property
    def state_dir(self) -> Path:
        """`.flowmason/`: the journal, values and caches."""
        return self.root / ".flowmason"

    def registry(self, *, packages: Sequence[Path] | None = None) -> Registry:
        """Every component that the project's pipelines may name."""
        return find_components(
            self.root if self.manifest else None,
            include=self.components.include,
            exclude=self.components.exclude,
            packages_dirs=(packages_dir(),) if packages is None else packages,
        )

    def pipeline_files(self) -> list[Path]:
        """Every pipeline file: below each of `pipeline_dirs`, and directly in the root; sorted."""
        found: set[Path] = set()
        for folder in self.pipeline_dirs:
            for path in (self.root / folder).rglob("*.pipeline.*"):
                if not any(part.startswith(".") for part in path.relative_to(self.root).parts):
                    found.add(path)
        found.update(self.root.glob("*.pipeline.*"))
        return sorted(path for path in found if path.name.endswith(PIPELINE_SUFFIXES) and path.is_file())

    def pipelines(self) -> list[PipelineEntry]:
        """Every pipeline of the project, with the name and version that its file gives."""
        return [_entry(path) for path in self.pipeline_files()]

    def find_pipeline(self, wanted: str, *, cwd: Path | None = None) -> Path:
        """The file of a pipeline given as an absolute path, a path relative to `cwd` or the root, a name, or
        `name@version`. A name without a version means the newest. Raises `UsageError` (`PIPELINE_NOT_FOUND`).
        """
        for base in (cwd or Path.cwd(), self.root):
            path = base / wanted
            if path.is_file():
                return path
        if "/" in wanted or wanted.endswith(PIPELINE_SUFFIXES):
            near = did_you_mean(wanted, [str(path.relative_to(self.root)) for path in self.pipeline_files()])
            hint = f"; did you mean {near!r}?" if near else ""
            raise UsageError(f"there is no pipeline file {wanted!r}{hint}", code=Code.PIPELINE_NOT_FOUND)
        name, at, version = wanted.partition("@")
        entries = self.pipelines()
        named = [entry for entry in entries if entry.name == name] or [e for e in entries if _stem(e.path) == name]
        fitting = [entry for entry in named if not at or entry.version == version]
        if not fitting:
            raise self._not_found(wanted, name, named, entries)
        newest = max(version_key(entry.version) for entry in fitting)
        best = [entry for entry in fitting if version_key(entry.version) == newest]
        if len(best) > 1:
            files = " and ".join(str(entry.path.relative_to(self.root)) for entry in best)
            raise UsageError(f"{wanted!r} names more than one pipeline: {files}", code=Code.PIPELINE_NOT_FOUND)
        return best[0].path

    def _not_found(
        self, wanted: str, name: str, named: Sequence[PipelineEntry], entries: Sequence[PipelineEntry]
    ) -> UsageError:
        if named:
            hint = "there is " + ", ".join(entry.version for entry in named)
        else:
            near = did_you_mean(name, [entry.name for entry in entries])
            hint = f"did you mean {near!r}?" if near else "`fm list pipelines` shows those there are"
        return UsageError(f"there is no pipeline {wanted!r}; {hint}", code=Code.PIPELINE_NOT_FOUND)


def _stem(path: Path) -> str:
    return path.name.partition(".pipeline.")[0]


def _entry(path: Path) -> PipelineEntry:
    try:
        value = read_document(path).value
    except RefusedError as error:
        return PipelineEntry(path, _stem(path), faults=error.faults)
    given = value if isinstance(value, dict) else {}
    name, version = given.get("name"), given.get("version", "1.0.0")
    return PipelineEntry(
        path, name if isinstance(name, str) else _stem(path), version if isinstance(version, str) else "1.0.0"
    )
