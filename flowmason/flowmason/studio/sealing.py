"""Sealing: what must be kept secret in the database is encrypted under master keys that are not in it.

Each sealed thing has a data key of its own (AES-256-GCM); a master key wraps that. So master keys can be exchanged
without touching the data: `rewrap`. What a thing is, and whose, is authenticated with it: a sealed value that is moved
to another row does not open.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from flowmason.errors import Code, EngineUnavailableError, UsageError
from flowmason.places import home_dir

VARIABLE = "FLOWMASON_MASTER_KEY"
FILE = "master_key"
_SIZE = 32
_NONCE = 12


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """A sealed thing as it is stored, in msgpack."""

    format: int
    key_id: str
    """The master key that wraps the data key."""
    wrapped: bytes
    """Nonce and encrypted data key."""
    data: bytes
    """Nonce and encrypted content."""


class Sealer:
    """Seals and opens under master keys; the first seals, all of them open. Thread-safe."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`: 32 bytes each. Raises `UsageError` for none, or for one of another size."""
        if not keys or any(len(key) != _SIZE for key in keys):
            raise UsageError(f"a master key is {_SIZE} bytes", code=Code.SECURITY)
        self._keys = {key_id(key): key for key in keys}
        self.current = key_id(keys[0])
        """The id of the key that seals."""

    def seal(self, content: bytes, context: Sequence[str]) -> bytes:
        """Encrypt `content`. `context` (whose it is, and what) is not stored; it must be given again to open it."""
        data_key = os.urandom(_SIZE)
        bound = _bound(context)
        sealed = Sealed(1, self.current, self._wrap(data_key, self.current, bound), _encrypt(data_key, content, bound))
        return msgspec.msgpack.encode(sealed)

    def open(self, sealed: bytes, context: Sequence[str]) -> bytes:
        """The content. Raises `UsageError` (SECURITY) where the key is not here, or content or context were changed."""
        parts, bound = _read(sealed), _bound(context)
        return _decrypt(self._unwrap(parts, bound), parts.data, bound)

    def rewrap(self, sealed: bytes, context: Sequence[str]) -> bytes:
        """The same thing under the current master key; the content is not decrypted. Raises as `open` does."""
        parts, bound = _read(sealed), _bound(context)
        if parts.key_id == self.current:
            return sealed
        wrapped = self._wrap(self._unwrap(parts, bound), self.current, bound)
        return msgspec.msgpack.encode(Sealed(parts.format, self.current, wrapped, parts.data))

    def _wrap(self, data_key: bytes, name: str, bound: bytes) -> bytes:
        return _encrypt(self._keys[name], data_key, name.encode() + bound)

    def _unwrap(self, parts: Sealed, bound: bytes) -> bytes:
        key = self._keys.get(parts.key_id)
        if key is None:
            raise UsageError(
                f"this is sealed under the master key {parts.key_id}, which is not here",
                code=Code.SECURITY,
                help=f"Add the key to {VARIABLE} (behind the current one, after a comma) or to the file {FILE}.",
            )
        return _decrypt(key, parts.wrapped, parts.key_id.encode() + bound)


def key_id(key: bytes) -> str:
    """The public name of a master key: 16 hexadecimal digits."""
    return hashlib.sha256(b"flowmason master key\0" + key).hexdigest()[:16]


def key_of(sealed: bytes) -> str:
    """The id of the master key that something is sealed under."""
    return _read(sealed).key_id


def new_key() -> str:
    """A new master key as it is written in the variable and in the file: 32 random bytes in base64."""
    return base64.b64encode(os.urandom(_SIZE)).decode()


def open_sealer(environ: Mapping[str, str]) -> Sealer:
    """The sealer of this installation.

    Keys stand in `FLOWMASON_MASTER_KEY` (separated by commas, the current one first), else in the file `master_key` of
    `FLOWMASON_HOME` (one a line), which is made on first use and readable by its owner alone. Raises `UsageError` for
    what is no key, `EngineUnavailableError` where the file cannot be read or can be read by others.
    """
    given = environ.get(VARIABLE)
    if given:
        return Sealer([_parse(part, VARIABLE) for part in given.split(",") if part.strip()])
    path = home_dir(environ) / FILE
    text = _stored(path)
    return Sealer([_parse(line, str(path)) for line in text.splitlines() if line.strip()])


def _stored(path: Path) -> str:
    try:
        if not path.exists():
            _make(path)
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise EngineUnavailableError(
                f"the master key {path} can be read by others (mode {stat.S_IMODE(mode):04o})",
                help=f"chmod 600 {path}; if others may have read it, put a new key in its first line.",
            )
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise EngineUnavailableError(
            f"the master key {path} cannot be used: {error.strerror or error}",
            help=f"Make the folder writable, or set {VARIABLE}.",
        ) from error


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(new_key() + "\n")
        file.flush()
        os.fsync(file.fileno())
    # A link, not a rename: of two that start at once one makes the key, and both read that one.
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _parse(text: str, place: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _SIZE:
        # What was given is not repeated: it may be a key that was cut off.
        raise UsageError(
            f"{place} holds something that is no master key (32 bytes in base64)",
            code=Code.SECURITY,
            help="Make one with: python -c 'from flowmason.studio import sealing; print(sealing.new_key())'",
        )
    return key


def _bound(context: Sequence[str]) -> bytes:
    return msgspec.msgpack.encode(list(context))


def _encrypt(key: bytes, content: bytes, bound: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, bound)


def _decrypt(key: bytes, content: bytes, bound: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(content[:_NONCE], content[_NONCE:], bound)
    except (InvalidTag, ValueError) as error:
        raise UsageError(
            "something sealed does not open: it was changed, or belongs elsewhere", code=Code.SECURITY
        ) from error


def _read(sealed: bytes) -> Sealed:
    try:
        parts = msgspec.msgpack.decode(sealed, type=Sealed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError("this is nothing that was sealed here", code=Code.SECURITY) from error
    if parts.format != 1:
        raise UsageError("this was sealed by a newer FlowMason", code=Code.FORMAT_TOO_NEW)
    return parts
