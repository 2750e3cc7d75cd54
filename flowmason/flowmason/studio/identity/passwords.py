"""Passwords: bcrypt with 12 rounds over a SHA-256 of the whole password. About 0.25 s each: keep it off event loops."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

from flowmason.errors import Code, UsageError

ROUNDS = 12
SHORTEST, LONGEST = 12, 1024


def acceptable(password: str, email: str = "") -> None:
    """Raise `UsageError` (INVALID_INPUT) for a password that nobody should have."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise UsageError(f"a password has {SHORTEST} to {LONGEST} characters", code=Code.INVALID_INPUT)
    if len(set(password)) < 4 or (email and password.lower() in {email, email.partition("@")[0]}):
        raise UsageError("this password is too easy to guess", code=Code.INVALID_INPUT)


def hash_password(password: str) -> str:
    """What is stored of a password."""
    import bcrypt

    return bcrypt.hashpw(_digest(password), bcrypt.gensalt(ROUNDS)).decode()


def check(password: str, stored: str | None) -> bool:
    """Whether it is the password. Without a stored one it takes the same time and says no."""
    import bcrypt

    right = bcrypt.checkpw(_digest(password), (stored or _nobodys()).encode())
    return right and stored is not None


def weaker(stored: str) -> bool:
    """Whether it was stored with fewer rounds than are used now."""
    return int(stored.split("$")[2]) < ROUNDS


def _digest(password: str) -> bytes:
    # 44 characters of base64: bcrypt would cut at 72 bytes and stop at a NUL.
    return base64.b64encode(hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest())


@lru_cache(maxsize=1)
def _nobodys() -> str:
    return hash_password("nobody's")
