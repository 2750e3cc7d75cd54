"""How large a document may be, and the error that says where it is not."""

from __future__ import annotations

from typing import Any

from flowmason.errors import Fault, RefusedError
from flowmason.pipeline.pointers import Path, format_pointer

MAX_BYTES = 16 * 1024 * 1024
"""Of the text; and of all scalars together once YAML aliases are written out."""
MAX_DEPTH = 64
"""Objects and lists inside one another, the outermost included."""
MAX_VALUES = 400_000
"""Values of all kinds, keys not counted; what a YAML alias stands for is counted each time."""
MAX_DIGITS = 400
"""Characters of a number."""

Place = tuple[int, int]
"""Line and column, both from 1."""


def too_deep() -> str:
    """The reason for a document nested too deeply."""
    return f"nested deeper than {MAX_DEPTH} levels"


def too_many() -> str:
    """The reason for a document of too many values."""
    return f"there are more than {MAX_VALUES:,} values"


def too_large() -> str:
    """The reason for a document of too many bytes."""
    return f"larger than {MAX_BYTES // (1024 * 1024)} MiB"


def refused(reason: str, file: str | None, path: Path = (), place: Place | None = None) -> RefusedError:
    """The error for one fault."""
    return RefusedError([fault(reason, file, path, place)])


def fault(reason: str, file: str | None, path: Path = (), place: Place | None = None) -> Fault:
    """One fault, with its place."""
    line, column = place or (None, None)
    return Fault(reason, format_pointer(path), line=line, column=column, file=file)


def measure(value: Any) -> str | None:
    """Why `value` is too deep or too large, or None. Never recurses."""
    level = [value] if isinstance(value, (dict, list)) else []
    count, depth = 1, 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return too_deep()
        below: list[Any] = []
        for container in level:
            count += len(container)
            if count > MAX_VALUES:
                return too_many()
            items = container.values() if isinstance(container, dict) else container
            below += [item for item in items if isinstance(item, (dict, list))]
        level = below
    return None
