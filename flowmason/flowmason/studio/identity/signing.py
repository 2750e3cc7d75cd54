"""Access tokens: JWTs signed with Ed25519. The private keys lie in the database, sealed under the master key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity.callers import refused
from flowmason.studio.identity.credentials import new_id
from flowmason.studio.scope import StudioStore
from flowmason.studio.sealing import Sealer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ACCESS_S = 3600
AUDIENCE = "flowmason"
_TYPE = "at+jwt"
_FRESH_S = 2.0
_LEEWAY_S = 60
"""By how much the clocks of two API processes may differ."""
_keys = schema.signing_keys.c


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What an access token says. All of it is demanded."""

    iss: str
    aud: str
    exp: int
    """Seconds since the epoch."""
    iat: int
    jti: str
    sub: str
    """The user."""
    org: OrgId
    sid: str
    """The session."""


class Signer:
    """Signs and reads access tokens. Thread-safe; keys are looked up anew every two seconds."""

    def __init__(self, store: StudioStore, sealer: Sealer, issuer: str, now: Callable[[], int]) -> None:
        self._store = store
        self._sealer = sealer
        self._issuer = issuer
        self._now = now
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._public: dict[str, Ed25519PublicKey] = {}
        self._private: dict[str, Ed25519PrivateKey] = {}
        self._current: str | None = None

    def sign(self, user_id: str, org_id: OrgId, session_id: str) -> tuple[str, Claims]:
        """An access token for an hour, and what it says."""
        import jwt

        issued = self._now() // 1000
        claims = Claims(
            iss=self._issuer,
            aud=AUDIENCE,
            exp=issued + ACCESS_S,
            iat=issued,
            jti=new_id("token"),
            sub=user_id,
            org=org_id,
            sid=session_id,
        )
        name, key = self._signing_key()
        headers = {"kid": name, "typ": _TYPE}
        return jwt.encode(msgspec.to_builtins(claims), key, algorithm="EdDSA", headers=headers), claims

    def read(self, token: str) -> Claims:
        """What a token says, if we signed it and it is not over. Raises `UsageError` (UNAUTHENTICATED) otherwise."""
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            key = self._verifying_key(header.get("kid"))
            if key is None or header.get("typ") != _TYPE:
                raise refused()
            body = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                issuer=self._issuer,
                options={
                    "require": list(Claims.__struct_fields__),
                    "strict_aud": True,
                    # By our clock, below.
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
            claims = msgspec.convert(body, Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError) as error:
            raise refused() from error
        now = self._now() // 1000
        if claims.exp <= now or claims.iat > now + _LEEWAY_S or claims.exp - claims.iat > ACCESS_S:
            raise refused()
        return claims

    def rotate(self, *, distrust: bool = False) -> str:
        """Sign with a new key from here on; returns its id.

        Tokens of the old ones are read until they are over; with `distrust` the old keys are gone at once.
        """
        with self._store.system() as system:
            if distrust:
                system.execute(sa.delete(schema.signing_keys))
            else:
                retired = sa.update(schema.signing_keys).where(_keys.retired_at.is_(None))
                system.execute(retired.values(retired_at=self._now()))
        with self._lock:
            self._read_at = float("-inf")
        return self._signing_key()[0]

    def _signing_key(self) -> tuple[str, Ed25519PrivateKey]:
        with self._lock:
            self._reload()
            if self._current is None:
                self._make()
                self._reload(force=True)
            assert self._current is not None
            return self._current, self._private[self._current]

    def _verifying_key(self, name: object) -> Ed25519PublicKey | None:
        with self._lock:
            self._reload()
            return self._public.get(name) if isinstance(name, str) else None

    def _reload(self, *, force: bool = False) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        asked = time.monotonic()
        if not force and asked < self._read_at + _FRESH_S:
            return
        # A replica signs with a retired key for as long as it has not looked; then its tokens live for their hour.
        alive = self._now() - (ACCESS_S + _LEEWAY_S) * 1000
        chosen = (
            sa.select(schema.signing_keys)
            .where(sa.or_(_keys.retired_at.is_(None), _keys.retired_at > alive))
            .order_by(_keys.created_at, _keys.key_id)
        )
        with self._store.system(writing=False) as system:
            rows = list(system.execute(chosen).mappings())
        private = {}
        for row in rows:
            known = self._private.get(row["key_id"])
            private[row["key_id"]] = known or Ed25519PrivateKey.from_private_bytes(
                self._sealer.open(row["sealed_private"], _context(row["key_id"]))
            )
        self._private = private
        self._public = {name: key.public_key() for name, key in private.items()}
        active = [row["key_id"] for row in rows if row["retired_at"] is None]
        # Two that started at once made a key each: both sign with the older one.
        self._current = active[0] if active else None
        self._read_at = asked

    def _make(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        name, key = new_id("sign"), Ed25519PrivateKey.generate()
        sealed = self._sealer.seal(key.private_bytes_raw(), _context(name))
        public = key.public_key().public_bytes_raw().hex()
        with self._store.system() as system:
            system.execute(
                sa.insert(schema.signing_keys).values(
                    key_id=name, sealed_private=sealed, public=public, created_at=self._now()
                )
            )


def rewrap(store: StudioStore, sealer: Sealer) -> int:
    """Bring all signing keys under the current master key; returns how many were under another."""
    moved = 0
    with store.system() as system:
        for row in list(system.execute(sa.select(schema.signing_keys)).mappings()):
            sealed = sealer.rewrap(row["sealed_private"], _context(row["key_id"]))
            if sealed != row["sealed_private"]:
                changed = sa.update(schema.signing_keys).where(_keys.key_id == row["key_id"])
                system.execute(changed.values(sealed_private=sealed))
                moved += 1
    return moved


def _context(name: str) -> list[str]:
    return ["signing_keys", name]


def looks_like_token(text: str) -> bool:
    """Whether a credential has the shape of a JWT."""
    return text.count(".") == 2
