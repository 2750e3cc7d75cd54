"""From a credential to the one who calls. What the database says now is what counts, not what a token once said."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from flowmason.errors import Code, UsageError
from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity.credentials import hashed
from flowmason.studio.identity.permissions import KeyScope, Permission, Role, permissions_of
from flowmason.studio.identity.refusals import Refusals
from flowmason.studio.scope import Scope, StudioStore

SEEN_MS = 60_000
"""The use of a key is noted at most this often."""
_REFUSED = "The credential is not valid, or not any more."


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, in which org, and what they may there."""

    org_id: OrgId
    user_id: str
    name: str
    """The user's e-mail address."""
    role: Role
    permissions: frozenset[Permission]
    key_id: str | None = None
    """The API key that was used."""
    session_id: str | None = None
    """The session that the access token belongs to."""
    token_id: str | None = None
    """`jti` of the access token."""
    expires_at: int | None = None
    """When the credential ends, in milliseconds since the epoch; None where it does not."""

    @property
    def actor(self) -> str:
        """How the audit log and `created_by` name this caller."""
        return self.key_id or self.user_id

    def may(self, permission: Permission) -> bool:
        """Whether this caller has a permission."""
        return permission in self.permissions


def refused(reason: str = _REFUSED) -> UsageError:
    """The one answer to any credential that does not count."""
    return UsageError(reason, code=Code.UNAUTHENTICATED)


def by_api_key(
    store: StudioStore, key: str, now: int, *, refusals: Refusals | None = None, address: str = "unknown"
) -> tuple[Caller, bool]:
    """The holder of an API key, and whether its use is due to be noted. Raises `UsageError` (UNAUTHENTICATED).

    A key of an org that does not count any more is told to `refusals`, with the `address` that it came from.
    """
    digest = hashed(key)
    keys = schema.api_keys.c
    with store.system(writing=False, key_hash=digest) as system:
        found = system.execute(sa.select(schema.api_keys).where(keys.key_hash == digest)).mappings().first()
        if found is None:
            raise refused()
        try:
            caller = _holder(system.scope(OrgId(found["org_id"])), found, now)
        except UsageError:
            if refusals is not None:
                refusals.key(OrgId(found["org_id"]), found["key_id"], _why(found, now), address)
            raise
    return caller, found["last_used_at"] is None or found["last_used_at"] <= now - SEEN_MS


def by_key_id(scope: Scope, key_id: str, now: int) -> Caller:
    """The holder of a key that was presented before. Raises `UsageError` (UNAUTHENTICATED) if it ended since."""
    found = scope.one(schema.api_keys, schema.api_keys.c.key_id == key_id)
    if found is None:
        raise refused()
    return _holder(scope, found, now)


def note_use(store: StudioStore, caller: Caller, now: int) -> None:
    """Note that a key is in use; a use within the last minute is left as it is."""
    keys = schema.api_keys.c
    with store.scope(caller.org_id) as scope:
        due = sa.or_(keys.last_used_at.is_(None), keys.last_used_at <= now - SEEN_MS)
        scope.change(schema.api_keys, keys.key_id == caller.key_id, due, last_used_at=now)


def member(scope: Scope, user_id: str) -> tuple[Role, str]:
    """Role and e-mail address of somebody who is a member now. Raises `UsageError` (UNAUTHENTICATED) otherwise."""
    found = scope.one(schema.members, schema.members.c.user_id == user_id)
    users = schema.users.c
    person = (
        scope.system.execute(sa.select(users.email, users.disabled_at).where(users.user_id == user_id))
        .mappings()
        .first()
    )
    if found is None or person is None or person["disabled_at"] is not None:
        raise refused()
    return Role(found["role"]), person["email"]


def _why(key: RowMapping, now: int) -> str:
    """Why a key that was refused does not count."""
    if key["revoked_at"] is not None:
        return "it was revoked"
    over = key["expires_at"] is not None and key["expires_at"] <= now
    return "it is over" if over else "its holder is no member any more"


def _holder(scope: Scope, key: RowMapping, now: int) -> Caller:
    if key["revoked_at"] is not None or (key["expires_at"] is not None and key["expires_at"] <= now):
        raise refused()
    role, email = member(scope, key["user_id"])
    # A key never outranks its holder: whoever is made less has keys that may less.
    role = min(role, Role(key["role"]), key=lambda each: each.rank)
    scopes = [KeyScope(each) for each in key["scopes"].split()]
    return Caller(
        org_id=scope.org_id,
        user_id=key["user_id"],
        name=email,
        role=role,
        permissions=permissions_of(role, scopes),
        key_id=key["key_id"],
        expires_at=key["expires_at"],
    )
