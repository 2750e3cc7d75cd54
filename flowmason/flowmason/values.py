"""The ValueStore port: content-addressed bytes, kept per org under `org/digest`. Adapter: `values_fs`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from flowmason.ids import Digest, OrgId


class ValueStore(Protocol):
    """Where values above `policy.INLINE_LIMIT` lie.

    The calls are synchronous and may block on I/O: workers call them from a thread, or directly where
    nothing else waits. An object of this port can be pickled and sent to a worker.
    """

    location: str
    """Where it lies: stores of the same location hold the same values."""

    def put(self, org_id: OrgId, digest: Digest, data: bytes) -> None:
        """Store bytes under their digest (temporary file, fsync, rename). Storing twice only touches.

        Raises `FlowMasonError` with code `STORAGE` where there is no room.
        """
        ...

    def put_file(self, org_id: OrgId, digest: Digest, file: Path) -> None:
        """The same with the content of a file, which is read piece by piece; the file is left as it is."""
        ...

    def get(self, org_id: OrgId, digest: Digest) -> bytes:
        """The bytes. Raises `FlowMasonError` with code `VALUE_MISSING`."""
        ...

    def has(self, org_id: OrgId, digest: Digest) -> bool:
        """Whether the value is there."""
        ...

    def touch(self, org_id: OrgId, digest: Digest) -> bool:
        """Mark a value as put now, so that no sweep removes it for a while. Returns whether it is there.

        For who names a value that somebody else has put, before the event that mentions it is there.
        """
        ...

    def delete(self, org_id: OrgId, digest: Digest, untouched_s: float = 0.0) -> bool:
        """Remove a value, unless somebody has put it within the last `untouched_s` seconds.

        Returns whether it was removed; one that is not there is fine (False).
        """
        ...

    def untouched(self, org_id: OrgId, seconds: float) -> AsyncIterator[tuple[Digest, int]]:
        """Values (with their sizes in bytes) that nobody has put for that long: what a sweep may look at."""
        ...
