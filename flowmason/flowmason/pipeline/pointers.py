"""JSON paths as people read them: `$.stages[2].config.url`, and as tuples: `("stages", 2, "config", "url")`."""

from __future__ import annotations

import json
import re

Path = tuple[str | int, ...]
"""Where a value stands in a document; an int is a position in a list."""

_PLAIN = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*\Z")
_SEGMENT = re.compile(r'\.([A-Za-z_$][A-Za-z0-9_$-]*)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')


def format_pointer(path: Path) -> str:
    """Write a path: `$` is the document itself; keys that are no plain names are quoted: `$.routes["a b"]`."""
    parts = ["$"]
    for segment in path:
        if isinstance(segment, int):
            parts.append(f"[{segment}]")
        elif _PLAIN.match(segment):
            parts.append("." + segment)
        else:
            parts.append(f"[{json.dumps(segment)}]")
    return "".join(parts)


def parse_pointer(text: str) -> Path:
    """Read what `format_pointer` wrote. Raises `ValueError` for anything else."""
    if not text.startswith("$"):
        raise ValueError(f"not a JSON path: {text!r}")
    path: list[str | int] = []
    position = 1
    while position < len(text):
        match = _SEGMENT.match(text, position)
        if match is None:
            raise ValueError(f"not a JSON path: {text!r}")
        if match[1] is not None:
            path.append(match[1])
        elif match[2] is not None:
            path.append(int(match[2]))
        else:
            path.append(json.loads(match[3]))
        position = match.end()
    return tuple(path)
