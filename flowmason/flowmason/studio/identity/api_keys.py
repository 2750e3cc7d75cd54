"""API keys: `fm_live_` and 48 hexadecimal digits, shown once, stored as a hash. Nobody mints more than they have."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy.engine import RowMapping

from flowmason.errors import Code, UsageError
from flowmason.studio import schema
from flowmason.studio.identity import audit, credentials
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.orgs import named
from flowmason.studio.identity.permissions import KeyScope, Permission, Role, permissions_of
from flowmason.studio.scope import Scope, StudioStore

MOST = 100
"""How many live keys one member may have in an org."""
LONGEST_OVERLAP_MS = 7 * 24 * 3600 * 1000
_keys = schema.api_keys.c


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key; not the key."""

    key_id: str
    user_id: str
    name: str
    prefix: str
    """The first 12 characters, to know it by."""
    scopes: tuple[KeyScope, ...]
    role: Role
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    """Right to a minute."""
    revoked_at: int | None
    revoke_reason: str | None
    replaces: str | None
    """The key that this one was made for when it was rotated."""


def make(
    store: StudioStore,
    caller: Caller,
    name: str,
    now: int,
    *,
    scopes: Sequence[KeyScope] = (KeyScope.FULL,),
    role: Role | None = None,
    expires_at: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key of the caller's own, and the key itself, which cannot be seen again.

    `role` defaults to the caller's. Raises `UsageError`: FORBIDDEN for more than the caller has, INVALID_INPUT for an
    expiry that is past, CONFLICT for too many keys.
    """
    role = role or caller.role
    with store.scope(caller.org_id) as scope:
        key_id, secret = _add(scope, caller, named(name), now, scopes, role, expires_at)
        _record(scope, caller, now, "api_key.create", key_id, {"name": name, "scopes": list(scopes), "role": role})
        return _one(scope, caller, key_id), secret


def rotate(store: StudioStore, caller: Caller, key_id: str, now: int, *, overlap_ms: int = 0) -> tuple[ApiKey, str]:
    """A new key like one of the caller's own; the old one ends, at once or after `overlap_ms` (at most 7 days).

    Raises `UsageError`: NOT_FOUND for a key that is not the caller's own, CONFLICT for one that is over already.
    """
    overlap_ms = max(0, min(overlap_ms, LONGEST_OVERLAP_MS))
    with store.scope(caller.org_id) as scope:
        old = scope.one(schema.api_keys, _keys.key_id == key_id, _keys.user_id == caller.user_id, lock=True)
        if old is None:
            raise _missing(key_id)
        if old["revoked_at"] is not None or (old["expires_at"] is not None and old["expires_at"] <= now):
            raise UsageError("this key is over already", code=Code.CONFLICT, help="Make a new one.")
        scopes = [KeyScope(each) for each in old["scopes"].split()]
        role, ends = Role(old["role"]), old["expires_at"]
        new_id, secret = _add(scope, caller, old["name"], now, scopes, role, ends, replaces=key_id)
        if overlap_ms:
            until = now + overlap_ms if ends is None else min(ends, now + overlap_ms)
            scope.change(schema.api_keys, _keys.key_id == key_id, expires_at=until)
        else:
            scope.change(schema.api_keys, _keys.key_id == key_id, revoked_at=now, revoke_reason="rotated")
        _record(scope, caller, now, "api_key.rotate", new_id, {"replaces": key_id, "overlap_ms": overlap_ms})
        return _one(scope, caller, new_id), secret


def revoke(store: StudioStore, caller: Caller, key_id: str, reason: str, now: int) -> None:
    """End a key. One that has ended stays as it is. Raises `UsageError` (NOT_FOUND) for one the caller may not see."""
    if len(reason) > 500:
        raise UsageError("a reason is at most 500 characters", code=Code.INVALID_INPUT)
    with store.scope(caller.org_id) as scope:
        found = _one(scope, caller, key_id)
        if found.revoked_at is None:
            scope.change(schema.api_keys, _keys.key_id == key_id, revoked_at=now, revoke_reason=reason)
            _record(scope, caller, now, "api_key.revoke", key_id, {"reason": reason})


def listed(scope: Scope, caller: Caller, *, limit: int, after: str | None = None) -> list[ApiKey]:
    """The keys that the caller may see (their own; with `keys.manage` all), in the order of their ids."""
    conditions = [] if caller.may(Permission.KEYS_MANAGE) else [_keys.user_id == caller.user_id]
    if after is not None:
        conditions.append(_keys.key_id > after)
    rows = scope.find(schema.api_keys, *conditions, order_by=(_keys.key_id,), limit=limit)
    return [_read(row) for row in rows]


def add_first(scope: Scope, user_id: str, now: int) -> str:
    """The first key of the first owner; part of the caller's transaction."""
    key = credentials.new(credentials.API_KEY)
    _insert(scope, key, user_id, "first key", now, (KeyScope.FULL,), Role.OWNER, None, None)
    return key


def _add(
    scope: Scope,
    caller: Caller,
    name: str,
    now: int,
    scopes: Sequence[KeyScope],
    role: Role,
    expires_at: int | None,
    *,
    replaces: str | None = None,
) -> tuple[str, str]:
    if role.rank > caller.role.rank or not permissions_of(role, scopes) <= caller.permissions:
        raise UsageError("a key cannot be given more than you have yourself", code=Code.FORBIDDEN)
    if expires_at is not None and expires_at <= now:
        raise UsageError("the key would be over before it began", code=Code.INVALID_INPUT)
    if caller.key_id is not None and caller.expires_at is not None:
        # Else a key that ends tomorrow could make itself one that never does.
        if expires_at is not None and expires_at > caller.expires_at:
            raise UsageError("a key cannot make one that outlives it", code=Code.FORBIDDEN)
        expires_at = expires_at or caller.expires_at
    live = scope.count(schema.api_keys, _keys.user_id == caller.user_id, _keys.revoked_at.is_(None))
    if live >= MOST:
        raise UsageError(f"you have {live} keys here already", code=Code.CONFLICT, help="Revoke some.")
    key = credentials.new(credentials.API_KEY)
    return _insert(scope, key, caller.user_id, name, now, scopes, role, expires_at, replaces), key


def _insert(
    scope: Scope,
    key: str,
    user_id: str,
    name: str,
    now: int,
    scopes: Sequence[KeyScope],
    role: Role,
    expires_at: int | None,
    replaces: str | None,
) -> str:
    key_id = credentials.new_id("key")
    scope.add(
        schema.api_keys,
        key_id=key_id,
        user_id=user_id,
        name=name,
        prefix=key[: credentials.SHOWN],
        key_hash=credentials.hashed(key),
        scopes=" ".join(scopes),
        role=role.value,
        created_at=now,
        expires_at=expires_at,
        replaces=replaces,
    )
    return key_id


def _one(scope: Scope, caller: Caller, key_id: str) -> ApiKey:
    found = scope.one(schema.api_keys, _keys.key_id == key_id)
    if found is None or not (found["user_id"] == caller.user_id or caller.may(Permission.KEYS_MANAGE)):
        raise _missing(key_id)
    return _read(found)


def _missing(key_id: str) -> UsageError:
    return UsageError(f"there is no API key {key_id!r}", code=Code.NOT_FOUND)


def _record(scope: Scope, caller: Caller, now: int, action: str, key_id: str, details: dict[str, object]) -> None:
    audit.record(
        scope, now, actor=caller.actor, action=action, resource_type="api_key", resource_id=key_id, details=details
    )


def _read(row: RowMapping) -> ApiKey:
    values = {name: row[name] for name in ApiKey.__struct_fields__}
    values["scopes"] = tuple(KeyScope(each) for each in row["scopes"].split())
    values["role"] = Role(row["role"])
    return ApiKey(**values)
