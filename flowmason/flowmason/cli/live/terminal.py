"""The live view on a terminal, drawn with rich on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flowmason.cli.console import visible
from flowmason.cli.live.model import LiveModel, Row, View
from flowmason.cli.live.words import cost, duration
from flowmason.state import Status

GLYPHS = {
    Status.PENDING: ("·", "dim"),
    Status.QUEUED: ("·", "dim"),
    Status.RUNNING: ("●", "bold cyan"),
    Status.PAUSED: ("‖", "yellow"),
    Status.COMPLETED: ("✓", "green"),
    Status.FAILED: ("✗", "bold red"),
    Status.SKIPPED: ("○", "dim"),
    Status.CANCELLED: ("⊘", "yellow"),
}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SECONDS = 0.1


class TerminalView:
    """Draws a `LiveModel` ten times a second until it is closed; log lines scroll by above it."""

    def __init__(self, model: LiveModel, *, logs: bool = False, console: Console | None = None) -> None:
        self._model = model
        self._logs = logs
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False, vertical_overflow="crop")
        self._task: asyncio.Task[None] | None = None
        self._frame = 0

    async def __aenter__(self) -> TerminalView:
        self._live.start()
        self._task = asyncio.get_running_loop().create_task(self._draw())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.draw()
        self._live.stop()

    async def _draw(self) -> None:
        while True:
            begun = time.monotonic()
            self.draw()
            # Drawing a very large run must not slow the run itself down.
            await asyncio.sleep(max(SECONDS, 10 * (time.monotonic() - begun)))

    def draw(self) -> None:
        """Draw what there is now."""
        self._frame += 1
        for line in self._model.take_logs():
            if self._logs:
                self._live.console.print(Text(visible(f"{line.level:<7} {line.message}"), style="dim"))
        most = max(3, self._console.size.height - 6)
        view = self._model.view(int(time.time() * 1000), most)
        self._live.update(render(view, self._console.size.width, self._frame), refresh=True)


def render(view: View, width: int, frame: int = 0) -> RenderableType:
    """The view as rich draws it."""
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_column(width=1)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(16, width // 3))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for row in view.rows:
        glyph, style = GLYPHS[row.status]
        if row.status is Status.RUNNING:
            glyph = _SPINNER[frame % len(_SPINNER)]
        name = Text("  " * min(row.depth, 6) + row.path, style="dim" if row.status is Status.SKIPPED else "")
        took = duration(row.elapsed_ms) if row.elapsed_ms is not None and row.status is not Status.SKIPPED else ""
        table.add_row(Text(glyph, style=style), name, Text(took, style="dim"), _detail(row, width))
    parts: list[Any] = [_head(view), table]
    if view.hidden:
        parts.append(Text("  " + hidden_text(view.hidden), style="dim"))
    parts.append(_foot(view))
    return Group(*parts)


def _detail(row: Row, width: int) -> RenderableType:
    text = Text(no_wrap=True, overflow="ellipsis")
    if row.attempts > 1:
        text.append(f"attempt {row.attempts}  ", style="yellow")
    if row.tail and row.status is Status.RUNNING:
        text.append("…" + row.tail[-max(10, width // 2) :], style="italic dim")
    else:
        text.append(row.detail, style="red" if row.status is Status.FAILED else "dim")
    if row.total is None:
        return text
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, row.total), completed=row.total if not row.total else row.done, width=20)
    grid.add_row(bar, Text(f"{row.done:g}/{row.total}", style="dim"), text)
    return grid


def _head(view: View) -> Text:
    glyph, style = GLYPHS[view.status]
    head = Text()
    head.append(f"{glyph} ", style=style)
    head.append(view.title, style="bold")
    head.append(f"  {view.status}", style=style)
    return head


def _foot(view: View) -> Text:
    parts = [f"{view.ended}/{view.stages} stages", duration(view.elapsed_ms)]
    if view.usage.calls:
        parts.append(f"{view.usage.total_tokens} tokens")
        parts.append(cost(view.usage))
    if view.note:
        parts.append(view.note)
    return Text("  " + " · ".join(parts), style="dim")


def hidden_text(hidden: Counter[str]) -> str:
    """`… and 480 more: 470 completed, 10 pending`."""
    parts = ", ".join(f"{count} {status}" for status, count in hidden.most_common())
    return f"… and {sum(hidden.values())} more: {parts}"
