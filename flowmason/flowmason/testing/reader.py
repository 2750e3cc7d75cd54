"""Checks plain values on the way in and notes every fault with its place, instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowmason.errors import Fault, did_you_mean
from flowmason.pipeline import Path, format_pointer


class Reader:
    """Reads fields of plain values; what is wrong is in `faults`, and reads as its default."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, path: Path, reason: str, nearest: str | None = None) -> None:
        """Note that the value at `path` is wrong."""
        self.faults.append(Fault(reason, format_pointer(path), nearest=nearest))

    def record(self, value: Any, path: Path, known: Sequence[str] | None) -> dict[str, Any]:
        """An object with no keys but `known` and `x-…` (None: any keys); an empty one where it is something else."""
        if not isinstance(value, dict):
            self.fault(path, f"an object is expected, not {kind_of(value)}")
            return {}
        for key in value:
            if known is not None and key not in known and not key.startswith("x-"):
                self.fault((*path, key), f"unknown key {key!r}", did_you_mean(key, known))
        return value

    def one(self, given: dict[str, Any], path: Path, key: str, default: Any, kinds: Any, said: str) -> Any:
        """A field of one kind; `default` where it is not given or null."""
        value = given.get(key)
        if value is None:
            return default
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.fault((*path, key), f"{said} is expected, not {kind_of(value)}")
            return default
        return value

    def text(self, given: dict[str, Any], path: Path, key: str, default: Any = "") -> Any:
        """A text."""
        return self.one(given, path, key, default, str, "a text")

    def flag(self, given: dict[str, Any], path: Path, key: str) -> bool:
        """True or false; false where it is not given."""
        return bool(self.one(given, path, key, False, bool, "true or false"))

    def number(self, given: dict[str, Any], path: Path, key: str, default: Any, least: float, whole: bool) -> Any:
        """A number that is at least `least`."""
        said = "a whole number" if whole else "a number"
        value = self.one(given, path, key, default, int if whole else (int, float), said)
        if value is not None and value < least:
            self.fault((*path, key), f"it is {value}; the least is {least:g}")
            return default
        return value

    def texts(self, given: dict[str, Any], path: Path, key: str) -> tuple[str, ...]:
        """A list of texts."""
        items = self.one(given, path, key, [], list, "a list of texts")
        for index, item in enumerate(items):
            if not isinstance(item, str):
                self.fault((*path, key, index), f"a text is expected, not {kind_of(item)}")
        return tuple(item for item in items if isinstance(item, str))

    def texts_by_name(self, given: dict[str, Any], path: Path, key: str) -> dict[str, str]:
        """An object of texts."""
        found = self.record(given.get(key) or {}, (*path, key), None)
        for name, item in found.items():
            if not isinstance(item, str):
                self.fault((*path, key, name), f"a text is expected, not {kind_of(item)}")
        return {name: item for name, item in found.items() if isinstance(item, str)}


def kind_of(value: Any) -> str:
    """What kind of JSON value something is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
