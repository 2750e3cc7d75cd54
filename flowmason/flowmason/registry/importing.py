"""Importing a project's modules under private names, so that two projects, or two states of one, never mix.

A module `components/text/shout.py` becomes `_fm_<digest>.components.text.shout`, the digest being that of its
`Sources` and of where they lie; an edited file therefore is another module, and so is a copy elsewhere. Inside,
`import components.x` and `from components.x import y` mean the project's own modules, relative imports work as usual,
and everything else is imported from the process.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from flowmason.ids import sha256
from flowmason.registry.sources import Sources, is_local

_scopes: dict[str, _Scope] = {}
_lock = threading.Lock()


def import_sources(sources: Sources) -> ModuleType:
    """The module of `sources`, run at most once per process. Raises whatever the module raises."""
    place = sha256(f"{sources.root}\0{sources.digest}".encode())
    prefix = "_fm_" + place.removeprefix("sha256:")[:24]
    with _lock:
        if prefix not in _scopes:
            if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
                sys.meta_path.insert(0, _Finder())
            package = ModuleType(prefix)
            package.__path__ = [str(sources.root)]
            sys.modules[prefix] = package
            _scopes[prefix] = _Scope(prefix, sources)
            importlib.invalidate_caches()
    return importlib.import_module(f"{prefix}.{sources.module}")


class _Scope:
    """The private namespace of one state of one component module and its helpers."""

    def __init__(self, prefix: str, sources: Sources) -> None:
        self._prefix = prefix
        self._root = sources.root
        self.contents = {str(sources.root / path): data for path, data in sources.contents.items()}
        self._local: dict[str, bool] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or not self._is_local(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        private = f"{self._prefix}.{name}"
        try:
            module = builtins.__import__(private, globals, locals, fromlist or (), 0)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith(self._prefix):
                shown = error.name.removeprefix(self._prefix + ".")
                raise ModuleNotFoundError(f"No module named {shown!r} in the project", name=shown) from None
            raise
        return module if fromlist else sys.modules[f"{self._prefix}.{top}"]

    def _is_local(self, top: str) -> bool:
        if top not in self._local:
            self._local[top] = is_local(self._root, top)
        return self._local[top]


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        scope = _scopes.get(fullname.partition(".")[0])
        if scope is None or path is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(scope, spec.loader.name, spec.loader.path)
            spec.cached = None
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs the bytes that were digested, with the scope's `__import__`; leaves no `__pycache__` behind."""

    def __init__(self, scope: _Scope, name: str, path: str) -> None:
        super().__init__(name, path)
        self._scope = scope

    def get_data(self, path: str) -> bytes:
        known = self._scope.contents.get(path)
        return super().get_data(path) if known is None else known

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._scope.builtins
        super().exec_module(module)
