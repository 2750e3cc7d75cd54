"""`--watch`: run again whenever a file changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flowmason.errors import EngineUnavailableError
from flowmason.testing.snapshots import FOLDER

_SUFFIXES = (".json", ".yaml", ".yml", ".py", ".md", ".txt")
_NEVER = frozenset({FOLDER, "__pycache__", "node_modules"})


def concerns(path: Path, root: Path) -> bool:
    """Whether a change of `path` may change the result of a test."""
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        return False
    hidden = any(part.startswith(".") or part in _NEVER for part in parts)
    return not hidden and path.suffix in _SUFFIXES


def watch(
    roots: Iterable[Path], again: Callable[[list[Path]], None], *, stop: Any = None, debounce_ms: int = 200
) -> None:
    """Call `again` with the files that changed, until `stop` (a `threading.Event`) is set or Ctrl-C comes.

    Raises `EngineUnavailableError` where the extra `watch` is not installed.
    """
    try:
        import watchfiles
    except ImportError as error:
        raise EngineUnavailableError(
            "--watch is not available: watchfiles is not installed",
            help="Install flowmason[watch] (pip install 'flowmason[watch]').",
        ) from error
    folders = sorted({root.resolve() for root in roots})

    def wanted(_: Any, name: str) -> bool:
        return any(concerns(Path(name), folder) for folder in folders)

    changes = watchfiles.watch(
        *folders, watch_filter=wanted, debounce=debounce_ms, stop_event=stop, raise_interrupt=False
    )
    try:
        for changed in changes:
            again(sorted({Path(name) for _, name in changed}))
    except KeyboardInterrupt:
        # watchfiles takes the interrupt only while it waits; it may also come just before or after.
        return
