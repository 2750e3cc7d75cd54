"""Where things lie on disk, and how a file gets there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from flowmason import places


def home_dir() -> Path:
    """`FLOWMASON_HOME`, else `~/.flowmason`."""
    return places.home_dir(os.environ)


def packages_dir() -> Path:
    """Where `fm install` unpacks to: `<home>/packages/<name>/<version>/`."""
    return home_dir() / "packages"


def write_whole(path: Path, data: bytes) -> None:
    """Write `path` so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
