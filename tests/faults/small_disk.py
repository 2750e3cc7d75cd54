"""A disk that is full when a test wants it."""

from __future__ import annotations

import errno
import resource
import subprocess
from pathlib import Path
from typing import Protocol

from faults.kit import Fm

_ALLOWED = 24 * 1024


class Disk(Protocol):
    """Where the state of a project lies."""

    folder: Path

    def fill(self, running: Fm, *, leave: int = 0) -> None:
        """From now on `running` can write no more than about `leave` bytes there."""

    def free(self, running: Fm) -> None:
        """Make room again."""

    def close(self) -> None: ...


class Mounted:
    """A file system of its own, in memory, with as many bytes as are wanted. Only root may mount one."""

    def __init__(self, folder: Path, size: int = 16 << 20) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "flowmason-test", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PermissionError(f"no mount: {error}") from error

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self, running: Fm, *, leave: int = 0) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
            file.truncate(max(0, file.tell() - leave))

    def free(self, running: Fm) -> None:
        self._ballast.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True, capture_output=True)


class Limited:
    """No file of the process may grow beyond a few pages: what the kernel does where nobody may mount."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def fill(self, running: Fm, *, leave: int = 0) -> None:
        allowed = max((path.stat().st_size for path in self.folder.iterdir()), default=0) + leave if leave else _ALLOWED
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (allowed, resource.RLIM_INFINITY))

    def free(self, running: Fm) -> None:
        if running.process.poll() is None:
            resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def close(self) -> None:
        pass
