"""The folder of a Ray that lives no longer than this process: for its owner alone, and gone with it.

Ray's default is one folder for everybody on the machine, open to all, with what components print in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from flowmason_actors import head

_NAME = "fm-ray-"
_LOCK = "lock"


class OwnFolder:
    """A folder that exists until `remove`; where that never came, the next one that is made clears it away."""

    def __init__(self) -> None:
        _clear()
        self.path = head.make_temp_dir()
        # Held as long as this process lives, however it ends. (A pid would say less where containers share /tmp.)
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def rays(self) -> str:
        """What Ray is told of: it opens that to everybody, and only the owner gets as far."""
        return str(self.path / head.RAYS_OWN)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _clear() -> None:
    """Remove the folders of processes that were killed."""
    for left in Path("/tmp").glob(f"{_NAME}*/{_LOCK}"):
        with suppress(OSError):
            if left.parent.lstat().st_uid != os.getuid():
                continue
            lock = os.open(left, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.parent, ignore_errors=True)
            finally:
                os.close(lock)
