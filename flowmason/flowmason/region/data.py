"""Reading and making values on a worker: joining, decoding, encoding, storing."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from flowmason import control, value
from flowmason.errors import Code, FlowMasonError, StageError
from flowmason.ids import Digest, OrgId, sha256
from flowmason.policy import INLINE_LIMIT, LARGE
from flowmason.region.kept import Key, Unsharable, kept, share
from flowmason.region.storing import storing
from flowmason.value import Concat, Inline, Picked, Record, Sequence, Stored, Value
from flowmason.values import ValueStore

Stores = tuple["Future[None]", ...]
"""Values that are being stored: an event that names them may leave only when all are done."""


class Data:
    """The values of one org, as plain data.

    What is handed out may be changed and changes nobody else's. What `keep` makes is stored beside what goes on here:
    whoever proposes an event takes along what `begun` returns.
    """

    def __init__(self, store: ValueStore, org_id: OrgId) -> None:
        self._store = store
        self._org_id = org_id
        self._begun: list[Future[None]] = []
        self.handled = 0
        """Bytes of the large values that were made or read so far."""

    def load(self, source: Value) -> Any:
        """The plain data of a value. Raises `FlowMasonError` (`VALUE_MISSING`)."""
        if isinstance(source, Inline):
            return value.decode(source.data)
        if isinstance(source, Stored):
            return self._load_stored(source)
        if isinstance(source, Record):
            return {key: self.load(part) for key, part in source.fields.items()}
        if isinstance(source, Sequence):
            return [self.load(part) for part in source.items]
        if isinstance(source, Concat):
            return [item for chunk in source.chunks for item in self.load(chunk)]
        if isinstance(source, Picked):
            return self.pick(source)
        raise FlowMasonError(f"unknown kind of value: {type(source).__name__}", code=Code.INTERNAL)

    def pick(self, source: Picked) -> Any:
        """The part of another value. Raises `StageError` (`INVALID_OUTPUT`) where its path leads nowhere."""
        return control.picked(self.load(source.source), source.path)

    def _load_stored(self, source: Stored) -> Any:
        key = self._key(source.digest)
        found = kept.get(key)
        if found is None:
            if source.size >= LARGE:
                self.handled += source.size
            encoded = self._store.get(self._org_id, source.digest)
            loaded = value.decode(encoded)
            if source.size >= LARGE:
                kept.put(key, _Plain.of(loaded) or encoded, source.size)
            return loaded
        return share(found.data) if isinstance(found, _Plain) else value.decode(found)

    def keep(self, data: Any) -> Value:
        """Plain data as a value: inline where it is small, else it begins to be stored."""
        return self._keep(self.encode(data), data)

    def encode(self, data: Any) -> bytes:
        """Plain data as msgpack. Raises `StageError` (`INVALID_OUTPUT`)."""
        try:
            return value.encode(data)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StageError(f"the output cannot be written as data: {error}", code=Code.INVALID_OUTPUT) from None

    def keep_encoded(self, encoded: bytes) -> Value:
        """The same for bytes that are msgpack already."""
        return self._keep(encoded, None)

    def keep_list(self, parts: list[bytes]) -> Value:
        """A list whose items are msgpack already."""
        return self._keep(list_header(len(parts)) + b"".join(parts), None)

    def begun(self) -> Stores:
        """What has begun to be stored since this was last asked."""
        begun, self._begun = self._begun, []
        return tuple(begun)

    def _keep(self, encoded: bytes, data: Any) -> Value:
        if len(encoded) <= INLINE_LIMIT:
            return Inline(encoded)
        if len(encoded) >= LARGE:
            self.handled += len(encoded)
        digest = sha256(encoded)
        held = _Plain.of(data) if data is not None and len(encoded) >= LARGE else None
        self._begun.append(self._begin(digest, encoded, held or encoded))
        return Stored(digest, len(encoded))

    def _begin(self, digest: Digest, encoded: bytes, held: Any) -> Future[None]:
        store, org_id, key = self._store, self._org_id, self._key(digest)

        def put() -> None:
            try:
                store.put(org_id, digest, encoded)
            finally:
                kept.unpin(key)

        kept.pin(key, held, len(encoded))
        if len(encoded) >= LARGE:
            kept.put(key, held, len(encoded))
        return storing.begin(put, len(encoded))

    def read_blob(self, digest: str) -> bytes:
        """The bytes of a blob. Raises `FlowMasonError` (`VALUE_MISSING`)."""
        key = self._key(Digest(digest))
        found = kept.get(key)
        if not isinstance(found, bytes):
            data = self._store.get(self._org_id, Digest(digest))
            if found is None and len(data) >= LARGE:
                kept.put(key, data, len(data))
            return data
        return found

    def make_blob(self, data: bytes, type_: str) -> dict[str, Any]:
        """Store bytes as they are, whatever their size; they are stored when this returns."""
        digest = sha256(data)
        self._store.put(self._org_id, digest, data)
        if len(data) >= LARGE:
            kept.put(self._key(digest), data, len(data))
        return {"$blob": digest, "type": type_, "size": len(data)}

    def _key(self, digest: Digest) -> Key:
        return self._store.location, self._org_id, digest


class _Plain:
    """Plain data that may be shared but not changed, and stand for its bytes."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data

    @classmethod
    def of(cls, data: Any) -> _Plain | None:
        """A copy that nobody changes; None where decoding is cheaper."""
        try:
            return cls(share(data))
        except Unsharable:
            return None


def list_header(length: int) -> bytes:
    """The msgpack header of a list of `length` items."""
    if length < 16:
        return bytes((0x90 | length,))
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")
