"""Answers of models that are kept for a while, beside the values: `<org>/answers/<aa>/<hex>.answer`.

An answer is found by the digest of all that was asked (`region.answers`). What is damaged or half written is no answer.
No run refers to them: they go when they are too old, and nobody misses them before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

from flowmason.ids import Digest, OrgId
from flowmason.places import org_name

_SEAL = 32
LONGEST_S = 30 * 24 * 3600.0
"""No answer is kept longer."""


class Answers:
    """Kept answers of all orgs below the URL of a value store. Calls block on I/O: make them in a thread."""

    def __init__(self, url: str) -> None:
        import fsspec

        self._fs: Any
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    def get(self, org_id: OrgId, key: Digest, max_age_s: float) -> bytes | None:
        """What was kept under `key` at most so many seconds ago."""
        path = self._path(org_id, key)
        try:
            if time.time() - self._fs.modified(path).timestamp() > max_age_s:
                return None
            data = bytes(self._fs.cat_file(path))
        except OSError:
            return None
        body = data[_SEAL:]
        return body if hashlib.sha256(body).digest() == data[:_SEAL] else None

    def put(self, org_id: OrgId, key: Digest, body: bytes) -> None:
        """Keep an answer, in the place of an older one. Raises `OSError`."""
        path, data = self._path(org_id, key), hashlib.sha256(body).digest() + body
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if not self._local:
            self._fs.pipe_file(path, data)
            return
        temporary = Path(f"{path}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    def forget(self, org_id: OrgId, older_than_s: float = LONGEST_S) -> int:
        """Remove what is older; returns how many answers that were."""
        count = 0
        with contextlib.suppress(OSError):
            for path in self._fs.find(self._folder(org_id)):
                with contextlib.suppress(OSError):
                    if time.time() - self._fs.modified(path).timestamp() >= older_than_s:
                        self._fs.rm_file(path)
                        count += 1
        return count

    def _folder(self, org_id: OrgId) -> str:
        return f"{self._root}/{org_name(org_id)}/answers"

    def _path(self, org_id: OrgId, key: Digest) -> str:
        name = key.removeprefix("sha256:")
        return f"{self._folder(org_id)}/{name[:2]}/{name}.answer"
