"""The child process that imports user code to read component specs: `python -P -m flowmason.registry.child`.

It reads one JSON request on stdin and writes one JSON line before and one after each item on what was its stdout,
so that the parent knows which item a crash or a hang belongs to. What user code prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, TextIO

import msgspec

from flowmason.component import ComponentSpec, component_digest, is_component, spec_of
from flowmason.registry.importing import import_sources
from flowmason.registry.sources import Sources

_LOOK_S = 0.25


def file_specs(root: Path, file: str) -> list[ComponentSpec]:
    """The components that a project's file declares. Raises whatever importing it raises."""
    sources = Sources(root, file)
    module = import_sources(sources)
    found = []
    for cls in components_in(module):
        spec = msgspec.structs.replace(spec_of(cls), target=f"{file}:{_attribute(cls)}")
        found.append(msgspec.structs.replace(spec, digest=component_digest(spec, sources.digest)))
    return found


def module_specs(value: str) -> list[ComponentSpec]:
    """The components behind an entry point's value: `package.module`, or `package.module:LIST`. Without digests."""
    name, _, attribute = value.partition(":")
    module = importlib.import_module(name.strip())
    if not attribute:
        classes = components_in(module)
    else:
        given = getattr(module, attribute.strip())
        classes = [given] if isinstance(given, type) else list(given)
    for cls in classes:
        _attribute(cls)
    return [spec_of(cls) for cls in classes]


def components_in(module: ModuleType) -> list[type[Any]]:
    """The component classes that a module declares itself, in their order."""
    return [cls for cls in vars(module).values() if is_component(cls) and cls.__module__ == module.__name__]


def _attribute(cls: type[Any]) -> str:
    if "<locals>" in cls.__qualname__:
        raise ValueError(f"component {cls.__qualname__} is declared inside a function, where no worker can find it")
    return cls.__qualname__


def _fault(error: BaseException, item: str, root: str | None) -> dict[str, Any]:
    line = column = None
    file = item
    if isinstance(error, SyntaxError):
        line, column, reason = error.lineno, error.offset, f"SyntaxError: {error.msg}"
        file = _shown(error.filename or item, root)
    else:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if root and frame.filename.startswith(root + os.sep):
                file, line = _shown(frame.filename, root), frame.lineno
                break
    return {"reason": f"it cannot be imported: {reason}", "file": file, "line": line, "column": column}


def _shown(path: str, root: str | None) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/") if root and path.startswith(root + os.sep) else path


class _Answers:
    """Tells the parent how each item ended, and which is under way."""

    def __init__(self, root: str | None, out: TextIO) -> None:
        self._root, self._out = root, out
        self._item: str | None = None
        self._lock = threading.Lock()

    def begin(self, item: str) -> None:
        with self._lock:
            self._item = item
            print(json.dumps({"begin": item}), file=self._out, flush=True)

    def end(self, answer: dict[str, Any]) -> None:
        with self._lock:
            self._item = None
            print(json.dumps(answer), file=self._out, flush=True)

    def watch(self, own_s: float) -> None:
        """End this process where the project's own code has gone on for `own_s` seconds: a loop that has no end."""
        main, since, item = threading.main_thread().ident, 0.0, None
        while True:
            time.sleep(_LOOK_S)
            now, place = time.monotonic(), _place(sys._current_frames().get(main or 0), self._root)
            with self._lock:
                if place is None or self._item is None or self._item != item:
                    since, item = now, self._item
                elif now - since >= own_s:
                    file, line = place
                    reason = f"importing it does not end: it has been busy here for {own_s:g} seconds"
                    fault = {"reason": reason, "file": file, "line": line, "column": None}
                    print(json.dumps({"end": item, "specs": [], "fault": fault}), file=self._out, flush=True)
                    os._exit(0)


def _place(frame: FrameType | None, root: str | None) -> tuple[str, int] | None:
    """The file and line that run, where they are the project's own."""
    if frame is None or root is None or not frame.f_code.co_filename.startswith(root + os.sep):
        return None
    return _shown(frame.f_code.co_filename, root), frame.f_lineno


def main() -> None:
    """Answer one request."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    root = request.get("root")
    answers = _Answers(root, out)
    threading.Thread(target=answers.watch, args=[request["own_s"]], daemon=True).start()
    for kind, item in [*(("file", f) for f in request["files"]), *(("module", m) for m in request["modules"])]:
        answers.begin(item)
        answer: dict[str, Any] = {"end": item, "specs": [], "fault": None}
        try:
            specs = file_specs(Path(root), item) if kind == "file" else module_specs(item)
            answer["specs"] = [spec.manifest() for spec in specs]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a component file may raise SystemExit, too
            answer["fault"] = _fault(error, item, root)
        answers.end(answer)
    os._exit(0)  # threads that user code started must not keep us


if __name__ == "__main__":
    main()
