"""Asking the child process for specs, and remembering its answers under `cache/specs/`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from flowmason.errors import Fault
from flowmason.registry.places import write_whole

SECONDS = 60.0
"""How long importing one file may take, with all that it imports."""
OWN_SECONDS = 8.0
"""How long a file may be busy with the project's own code while it is imported; what it imports may take longer."""


class Answer:
    """What importing one item gave: plain specs, or a fault."""

    def __init__(self, specs: Sequence[dict[str, Any]], fault: Fault | None = None) -> None:
        self.specs = list(specs)
        self.fault = fault


def ask(
    root: Path | None, files: Sequence[str] = (), modules: Sequence[str] = (), *, timeout_s: float = SECONDS
) -> dict[str, Answer]:
    """Import `files` of the project and `modules` in child processes. One that hangs or dies costs only itself."""
    answers: dict[str, Answer] = {}
    left = [*(("files", file) for file in files), *(("modules", module) for module in modules)]
    while left:
        guilty = _ask_once(root, left, answers, timeout_s)
        if guilty is not None:
            answers[guilty[0]] = Answer([], Fault(guilty[1], "$", file=guilty[0]))
        left = [(kind, item) for kind, item in left if item not in answers]
    return answers


def _ask_once(
    root: Path | None, items: Sequence[tuple[str, str]], answers: dict[str, Answer], timeout_s: float
) -> tuple[str, str] | None:
    """Run one child. Returns the item it did not survive, with the reason."""
    request = {
        "root": str(root) if root else None,
        "files": [item for kind, item in items if kind == "files"],
        "modules": [item for kind, item in items if kind == "modules"],
        "own_s": min(OWN_SECONDS, timeout_s / 2),
    }
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FLOWMASON_SECRET_") and name != "DATABASE_URL"
    }
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "flowmason.registry.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root,
        env=environment,
    )
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    begun = items[0][1]
    deadline = time.monotonic() + timeout_s
    noise = b""
    reason: str | None = None
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request).encode())
            child.stdin.close()
        pending = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            selector.register(child.stderr, selectors.EVENT_READ)
            while child.stdout in (key.fileobj for key in selector.get_map().values()):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    reason = f"importing it took longer than {timeout_s:g} seconds"
                    break
                for key, _ in ready:
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is child.stderr:
                        noise = (noise + data)[-4000:]
                    else:
                        *lines, pending = (pending + data).split(b"\n")
                        for line in lines:
                            message = json.loads(line)
                            if "begin" in message:
                                begun = message["begin"]
                                deadline = time.monotonic() + timeout_s
                            else:
                                answers[message["end"]] = _answer(message)
    finally:
        child.kill()
        code = child.wait()
        child.stdout.close()
        child.stderr.close()
    if reason is None and begun in answers:
        # All are answered, or the child has ended itself over this one and the rest is asked anew.
        return None
    if reason is None:
        last = noise.decode(errors="replace").strip().splitlines()[-1:]
        reason = f"importing it ended the process (exit code {code})" + "".join(f": {line}" for line in last)
    return begun, reason


def _answer(message: dict[str, Any]) -> Answer:
    fault = message["fault"]
    return Answer(message["specs"], None if fault is None else Fault(pointer="$", **fault))


class SpecCache:
    """Specs by item, good as long as the files they come from and the versions that make schemas are the same."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, item: str, files: Mapping[str, str]) -> list[dict[str, Any]] | None:
        """The specs remembered for `item`, if `files` (path → digest) are what they were."""
        if self._folder is None:
            return None
        try:
            found = json.loads(self._path(item).read_bytes())
            same = found["files"] == dict(files) and found["versions"] == _versions()
            return list(found["specs"]) if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def known_files(self, item: str) -> list[str]:
        """The files that the remembered specs of `item` came from; empty where nothing is remembered."""
        if self._folder is None:
            return []
        try:
            return [str(path) for path in json.loads(self._path(item).read_bytes())["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def put(self, item: str, files: Mapping[str, str], specs: Sequence[dict[str, Any]]) -> None:
        """Remember. A cache that cannot be written is no error: the next run asks again."""
        if self._folder is None:
            return
        entry = {"item": item, "files": dict(files), "versions": _versions(), "specs": list(specs)}
        with contextlib.suppress(OSError):
            write_whole(self._path(item), json.dumps(entry).encode())

    def keep_only(self, items: Sequence[str]) -> None:
        """Forget what belongs to files that are gone."""
        if self._folder is None or not self._folder.is_dir():
            return
        wanted = {self._path(item).name for item in items}
        for path in self._folder.glob("*.json"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)

    def _path(self, item: str) -> Path:
        assert self._folder is not None
        return self._folder / (hashlib.sha256(item.encode()).hexdigest()[:32] + ".json")


@cache
def _versions() -> dict[str, str]:
    """Versions of what decides the schemas: read from metadata, without importing pydantic."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("flowmason", "pydantic"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
