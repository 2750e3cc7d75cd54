"""Which files of tests there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flowmason.assembly.workspace import Workspace
from flowmason.errors import Code, UsageError, did_you_mean
from flowmason.project import project_for
from flowmason.testing.files import SUFFIX

_NEVER = frozenset({"node_modules", "__pycache__", "build", "dist"})


def find_test_files(paths: Sequence[str], *, cwd: Path | None = None) -> list[tuple[Workspace, list[Path]]]:
    """The files of tests at `paths` (files or folders; none: the project we are in), by project, sorted.

    In folders, `testing.test_patterns` of the project decides. Raises `UsageError` where a path does not exist or
    there is no such file at all, `RefusedError` for a wrong `flowmason.json`.
    """
    here = (cwd or Path.cwd()).resolve()
    workspaces: dict[Path, Workspace] = {}
    found: dict[Path, dict[Path, None]] = {}
    for path in [here / each for each in paths] or [here]:
        if not path.exists():
            raise _missing(path, here)
        # A folder's own project, or without paths the whole project that we are in.
        project = project_for(path)
        workspace = workspaces.setdefault(project.root, Workspace(project, cwd=here))
        files = [path.resolve()] if path.is_file() else _below(path if paths else project.root, workspace)
        found.setdefault(project.root, {}).update(dict.fromkeys(files))
    if not any(found.values()):
        where = ", ".join(paths) or "this project"
        raise UsageError(
            f"there are no tests in {where}",
            code=Code.NOT_FOUND,
            help=f"They are files that end in {SUFFIX}; testing.test_patterns in flowmason.json says where they lie.",
        )
    return [(workspaces[root], sorted(files)) for root, files in found.items()]


def _below(folder: Path, workspace: Workspace) -> Iterator[Path]:
    folder, root = folder.resolve(), workspace.project.root
    for pattern in workspace.project.testing.test_patterns:
        for path in root.glob(pattern):
            parts = path.relative_to(root).parts
            hidden = any(part.startswith(".") or part in _NEVER for part in parts)
            if path.is_file() and not hidden and path.is_relative_to(folder):
                yield path


def _missing(path: Path, here: Path) -> UsageError:
    folder = path.parent
    names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    near = did_you_mean(path.name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return UsageError(f"there is no {str(shown)!r}{hint}", code=Code.NOT_FOUND)
