"""The source behind a component: its module, and the modules of the same project that it imports.

Imports are followed by reading, never by running. The digest over these files is what tells whether a component
was edited; without the imported helpers, an edit in one of them would go unnoticed.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from flowmason.ids import Digest, sha256


class Sources:
    """The files of one component module, read once: what is digested is what is run."""

    def __init__(self, root: Path, file: str) -> None:
        """`file` is relative to `root`, with slashes. Raises `OSError` where it cannot be read."""
        self.root = root
        self.file = file
        self.contents: dict[str, bytes] = {}
        self._local: dict[str, bool] = {}
        self._collect(file)

    @property
    def digest(self) -> Digest:
        """Over the paths and contents of all files."""
        return files_digest({path: sha256(data) for path, data in self.contents.items()})

    @property
    def module(self) -> str:
        """The module's name as the project itself imports it: `components.text.shout`."""
        return module_name(self.file)

    def _collect(self, file: str) -> None:
        waiting = [file]
        while waiting:
            path = waiting.pop()
            if path in self.contents:
                continue
            self.contents[path] = (self.root / path).read_bytes()
            for package in _packages_of(path):
                if (self.root / package).is_file():
                    waiting.append(package)
            for name in _imported(self.contents[path], module_name(path), path.endswith("__init__.py")):
                top = name.partition(".")[0]
                if top not in self._local:
                    self._local[top] = is_local(self.root, top)
                if self._local[top]:
                    waiting += self._files_of(name)

    def _files_of(self, module: str) -> Iterator[str]:
        stem = module.replace(".", "/")
        for candidate in (f"{stem}.py", f"{stem}/__init__.py"):
            if (self.root / candidate).is_file():
                yield candidate


def files_digest(files: dict[str, Digest]) -> Digest:
    """One digest for a set of files: path → digest of its content."""
    text = "".join(f"{path}\0{digest}\n" for path, digest in sorted(files.items()))
    return Digest("sha256:" + hashlib.sha256(text.encode()).hexdigest())


def module_name(file: str) -> str:
    """`components/text/shout.py` → `components.text.shout`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_local(root: Path, top: str) -> bool:
    """Whether `import top` in a project's component means a module of that project."""
    if top in sys.stdlib_module_names or top == "flowmason" or not top.isidentifier():
        return False
    if (root / f"{top}.py").is_file():
        return True
    folder = root / top
    if not folder.is_dir():
        return False
    for at, folders, files in os.walk(folder):
        if any(name.endswith(".py") for name in files):
            return True
        depth = len(Path(at).relative_to(folder).parts)
        folders[:] = [] if depth > 3 else [name for name in folders if name.isidentifier()]
    return False


def _packages_of(file: str) -> Iterator[str]:
    parts = file.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join([*parts[:count], "__init__.py"])


def _imported(source: bytes, module: str, is_package: bool) -> Iterator[str]:
    """Absolute names of the modules that the source may import; `from a import b` may mean `a.b`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing it will give them
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # importing it will say so, with the place
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _prefixes(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                if keep <= 0:
                    continue
                base = ".".join([*parts[:keep], *([base] if base else [])])
            yield from _prefixes(base)
            for alias in node.names:
                yield f"{base}.{alias.name}"


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
