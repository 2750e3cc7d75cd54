"""`flowmason.json`: finding the project, reading its settings, and finding its pipelines by name."""

from __future__ import annotations

from pathlib import Path

from flowmason.document import located, read_document
from flowmason.errors import Code, RefusedError, UsageError
from flowmason.project.prompts import PromptFolder
from flowmason.project.reading import parse_project
from flowmason.project.settings import (
    MANIFEST,
    PIPELINE_SUFFIXES,
    Budget,
    ComponentFiles,
    PipelineEntry,
    Project,
    ProviderConfig,
    Testing,
)

__all__ = [
    "MANIFEST",
    "PIPELINE_SUFFIXES",
    "Budget",
    "ComponentFiles",
    "PipelineEntry",
    "Project",
    "PromptFolder",
    "ProviderConfig",
    "Testing",
    "find_project",
    "load_project",
    "project_for",
]


def find_project(start: Path | None = None) -> Path | None:
    """The nearest folder with a `flowmason.json`, from `start` (default: where we are) upwards; None: there is none."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / MANIFEST).is_file():
            return folder
    return None


def load_project(root: Path) -> Project:
    """Read `root/flowmason.json`. Raises `RefusedError` with everything that is wrong in it."""
    path = root / MANIFEST
    if not path.is_file():
        raise UsageError(f"there is no {MANIFEST} in {root}", code=Code.NOT_FOUND, help="`fm init` makes one.")
    document = read_document(path)
    project, faults = parse_project(document.value, root.resolve())
    if faults:
        raise RefusedError([located(fault, document) for fault in faults])
    return project


def project_for(path: Path) -> Project:
    """The project that a file or folder belongs to, or the defaults where it belongs to none."""
    folder = path if path.is_dir() else path.parent
    root = find_project(folder)
    return load_project(root) if root is not None else Project(root=folder.resolve(), manifest=False)
