"""Reading and making values on a worker: joining, decoding, encoding, storing."""

from __future__ import annotations

from typing import Any

from flowmason import control, value
from flowmason.errors import Code, FlowMasonError, StageError
from flowmason.ids import Digest, OrgId, sha256
from flowmason.policy import INLINE_LIMIT
from flowmason.value import Concat, Inline, Picked, Record, Sequence, Stored, Value
from flowmason.values import ValueStore


class Data:
    """The values of one org, as plain data.

    Every read decodes afresh, so that a component which changes its input changes nobody else's.
    """

    def __init__(self, store: ValueStore, org_id: OrgId) -> None:
        self._store = store
        self._org_id = org_id

    def load(self, source: Value) -> Any:
        """The plain data of a value. Raises `FlowMasonError` (`VALUE_MISSING`)."""
        if isinstance(source, Inline):
            return value.decode(source.data)
        if isinstance(source, Stored):
            return value.decode(self._store.get(self._org_id, source.digest))
        if isinstance(source, Record):
            return {key: self.load(part) for key, part in source.fields.items()}
        if isinstance(source, Sequence):
            return [self.load(part) for part in source.items]
        if isinstance(source, Concat):
            return [item for chunk in source.chunks for item in self.load(chunk)]
        if isinstance(source, Picked):
            found = control.pick(self.load(source.source), source.path)
            return None if found is control.MISSING else found
        raise FlowMasonError(f"unknown kind of value: {type(source).__name__}", code=Code.INTERNAL)

    def keep(self, data: Any) -> Value:
        """Plain data as a value: inline where it is small, else stored before this returns."""
        try:
            encoded = value.encode(data)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StageError(f"the output cannot be written as data: {error}", code=Code.INVALID_OUTPUT) from None
        return self.keep_encoded(encoded)

    def keep_encoded(self, encoded: bytes) -> Value:
        """The same for bytes that are msgpack already."""
        if len(encoded) <= INLINE_LIMIT:
            return Inline(encoded)
        digest = sha256(encoded)
        self._store.put(self._org_id, digest, encoded)
        return Stored(digest, len(encoded))

    def read_blob(self, digest: str) -> bytes:
        """The bytes of a blob. Raises `FlowMasonError` (`VALUE_MISSING`)."""
        return self._store.get(self._org_id, Digest(digest))

    def make_blob(self, data: bytes, type_: str) -> dict[str, Any]:
        """Store bytes as they are, whatever their size."""
        digest = sha256(data)
        self._store.put(self._org_id, digest, data)
        return {"$blob": digest, "type": type_, "size": len(data)}

    def keep_list(self, parts: list[bytes]) -> Value:
        """A list whose items are msgpack already."""
        return self.keep_encoded(list_header(len(parts)) + b"".join(parts))


def list_header(length: int) -> bytes:
    """The msgpack header of a list of `length` items."""
    if length < 16:
        return bytes((0x90 | length,))
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")
