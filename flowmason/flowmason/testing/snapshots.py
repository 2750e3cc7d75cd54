"""Snapshots: outputs kept beside the tests, in `__snapshots__/<file>.snap.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowmason.document import located, read_document
from flowmason.errors import Fault, RefusedError
from flowmason.testing.assertions import AssertionResult, same, shown

FOLDER = "__snapshots__"
FORMAT = 1
_SUFFIX = ".snap.json"


class Snapshots:
    """The snapshots of one file of tests. With `update`, they become what the tests give now.

    `declared` are the names that the tests of the file give theirs, whether they run this time or not: all others are
    obsolete.
    """

    def __init__(self, test_file: Path, declared: Iterable[str], *, update: bool = False) -> None:
        """Raises `RefusedError` where the file that is there cannot be read."""
        self.path = test_file.parent / FOLDER / (test_file.name.removesuffix(".json") + _SUFFIX)
        self._update = update
        self._declared = frozenset(declared)
        self._kept = _read(self.path) if self.path.is_file() else {}
        self._new: dict[str, Any] = {}

    def check(self, name: str, value: Any) -> AssertionResult:
        """Hold `value` against the snapshot; with `update`, keep it."""
        path = f"snapshot {name!r}"
        if self._update:
            self._new[name] = value
            return AssertionResult(path, True, f"{path} was kept", value, value)
        if name not in self._kept:
            return AssertionResult(path, False, f"there is no {path} yet; `fm test -u` keeps one", None, value)
        kept = self._kept[name]
        if same(kept, value):
            return AssertionResult(path, True, f"{path} is the same", kept, value)
        where = _difference(kept, value, "output")
        return AssertionResult(path, False, f"{path} differs: {where}; `fm test -u` keeps the new one", kept, value)

    @property
    def obsolete(self) -> tuple[str, ...]:
        """Kept snapshots of tests that are there no more."""
        return tuple(sorted(self._kept.keys() - self._declared))

    def save(self, *, tidy: bool) -> bool:
        """Write what was kept anew; says whether the file changed. With `tidy`, obsolete ones go."""
        if not self._update:
            return False
        kept = {name: value for name, value in self._kept.items() if not tidy or name in self._declared}
        content = {**kept, **self._new}
        if self._kept.keys() == content.keys() and all(same(content[name], self._kept[name]) for name in content):
            return False
        if not content:
            self.path.unlink(missing_ok=True)
            return True
        self.path.parent.mkdir(exist_ok=True)
        document = {"format": FORMAT, "snapshots": dict(sorted(content.items()))}
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        whole_file = self.path.with_suffix(f".{os.getpid()}.tmp")
        whole_file.write_text(text, encoding="utf-8")
        whole_file.replace(self.path)
        return True


def orphans(folder: Path) -> list[Path]:
    """Files of snapshots whose file of tests is there no more; those of a folder of tests."""
    found = sorted((folder / FOLDER).glob(f"*{_SUFFIX}"))
    return [path for path in found if not (folder / (path.name.removesuffix(_SUFFIX) + ".json")).exists()]


def _read(path: Path) -> dict[str, Any]:
    document = read_document(path)
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("snapshots"), dict):
        raise RefusedError([located(Fault("this is no file of snapshots; `fm test -u` writes them", "$"), document)])
    if value.get("format") != FORMAT:
        reason = f"snapshots of format {value.get('format')!r}; this FlowMason knows {FORMAT}"
        raise RefusedError([located(Fault(reason, "$.format"), document)])
    return dict(value["snapshots"])


def _difference(kept: Any, new: Any, path: str) -> str:
    """The first place where two values differ."""
    if isinstance(kept, dict) and isinstance(new, dict):
        for key in kept:
            if key not in new:
                return f"{path}.{key} is gone"
            if not same(kept[key], new[key]):
                return _difference(kept[key], new[key], f"{path}.{key}")
        added = next(key for key in new if key not in kept)
        return f"{path}.{added} is new"
    if isinstance(kept, list) and isinstance(new, list):
        for index, (left, right) in enumerate(zip(kept, new, strict=False)):
            if not same(left, right):
                return _difference(left, right, f"{path}[{index}]")
        return f"{path} has {len(new)} items, it had {len(kept)}"
    return f"{path} is {shown(new)}, it was {shown(kept)}"
