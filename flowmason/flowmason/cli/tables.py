"""Plain tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from flowmason.cli.console import paint, visible

_BRIEF = 160


def brief(text: str) -> str:
    """A message as one line of a list: `fm runs show` has the whole of it."""
    line = " ".join(text.split())
    return line if len(line) <= _BRIEF else line[: _BRIEF - 1] + "…"


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "", stream: TextIO | None = None
) -> None:
    """Columns as wide as they need to be; the last one as it comes. `stream`: stdout where None."""
    import sys

    to = sys.stdout if stream is None else stream
    table = [[visible(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    if not table:
        return
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        line = (indent + "  ".join([*cells, row[-1]])).rstrip()
        print(paint(line, "dim", stream=to) if head and number == 0 else line, file=to)
