"""An org's secrets: set, listed by name, removed; never shown. Conductors look values up for the calls that need them.

A value is sealed with the org, the secret's id and the version: a row that is moved to another place does not open.
Every `set` makes a version. The older ones stay, unused, until `rotate`: whoever set a wrong value can see that it
happened, and nobody reads it.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from flowmason.errors import Code, EngineUnavailableError, JournalError, UsageError, did_you_mean
from flowmason.ids import OrgId
from flowmason.secrets import canonical
from flowmason.studio import schema
from flowmason.studio.identity import audit
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.credentials import new_id
from flowmason.studio.scope import Scope, StudioStore
from flowmason.studio.sealing import Sealer, open_sealer

LEAST, MOST = 4, 64 * 1024
"""Bytes of a value. What is shorter cannot be masked: it would blot out innocent text."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}\Z")
_AT_ONCE = 200
_FRESH_S = 1.0
_KEPT_ORGS = 1024
_table = schema.secrets
_columns = _table.c
_SHORT = tuple(column for column in _columns if column.name != "sealed")


class SecretInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What may be known of a secret."""

    name: str
    """As it is kept: lower case, `_` for `-` and `.`."""
    version: int
    """Rises by one whenever it is set."""
    versions: int
    """How many of them are kept."""
    set_by: str
    set_at: int
    """Milliseconds since the epoch."""
    key_id: str
    """The master key that it is sealed under."""


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """What a rotation did."""

    rewrapped: int
    """Values that were brought under the current master key."""
    dropped: int
    """Older versions that were deleted."""


def named(name: str) -> str:
    """The name as it is kept. Raises `UsageError` for what is no name."""
    found = canonical(name)
    if not _NAME.match(found):
        raise UsageError(
            f"not a name of a secret: {name[:100]!r}",
            code=Code.INVALID_INPUT,
            help="Letters, digits, '_', '-' and '.', a letter first; at most 100. Case does not matter.",
        )
    return found


def put(scope: Scope, sealer: Sealer, caller: Caller, name: str, value: str, now: int) -> SecretInfo:
    """Set a secret: a new version. Raises `UsageError` for what is no name, or a value of another size."""
    name, data = named(name), _checked(value)
    # The row of the org is a lock: of two that set the same secret, the second makes the next version.
    scope.one(schema.orgs, lock=True)
    last = _newest(scope, name)
    secret_id = last["secret_id"] if last is not None else new_id("secret")
    version = last["version"] + 1 if last is not None else 1
    scope.add(
        _table,
        name=name,
        version=version,
        secret_id=secret_id,
        key_id=sealer.current,
        sealed=sealer.seal(data, _context(scope.org_id, secret_id, version)),
        created_by=caller.actor,
        created_at=now,
    )
    _note(scope, caller, "secret.set", name, {"version": version}, now)
    return _info(scope.find(_table, _columns.name == name, columns=_SHORT, order_by=(_columns.version,)))


def listed(scope: Scope) -> list[SecretInfo]:
    """The org's secrets, by name."""
    found: dict[str, list[RowMapping]] = {}
    for row in scope.find(_table, columns=_SHORT, order_by=(_columns.name, _columns.version)):
        found.setdefault(row["name"], []).append(row)
    return [_info(rows) for rows in found.values()]


def remove(scope: Scope, caller: Caller, name: str, now: int) -> None:
    """Delete a secret with all its versions. Raises `UsageError` (`NOT_FOUND`)."""
    name = named(name)
    removed = scope.remove(_table, _columns.name == name)
    if not removed:
        near = did_you_mean(name, [each.name for each in listed(scope)])
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"there is no secret {name!r}{hint}", code=Code.NOT_FOUND)
    _note(scope, caller, "secret.remove", name, {"versions": removed}, now)


def rotate(store: StudioStore, sealer: Sealer, caller: Caller, now: int) -> Rotated:
    """Bring the org's secrets under the current master key, and delete versions that are not the newest.

    Raises `UsageError` (SECURITY) where a value does not open; what was done until then stays done.
    """
    with store.scope(caller.org_id) as scope:
        newest = {row["name"]: row["version"] for row in _latest(scope)}
        dropped = sum(
            scope.remove(_table, _columns.name == name, _columns.version < version) for name, version in newest.items()
        )
    moved = rewrap(store, sealer, caller.org_id)
    with store.scope(caller.org_id) as scope:
        _note(scope, caller, "secret.rotate", "*", {"rewrapped": moved, "dropped": dropped}, now)
    return Rotated(rewrapped=moved, dropped=dropped)


def rewrap(store: StudioStore, sealer: Sealer, org_id: OrgId) -> int:
    """Bring an org's values under the current master key; returns how many were under another.

    It commits as it goes: one that is interrupted goes on where it was.
    """
    moved = 0
    while True:
        with store.scope(org_id) as scope:
            rows = scope.find(_table, _columns.key_id != sealer.current, limit=_AT_ONCE, lock=True)
            for row in rows:
                context = _context(org_id, row["secret_id"], row["version"])
                scope.change(
                    _table,
                    _columns.name == row["name"],
                    _columns.version == row["version"],
                    sealed=sealer.rewrap(bytes(row["sealed"]), context),
                    key_id=sealer.current,
                )
        moved += len(rows)
        if len(rows) < _AT_ONCE:
            return moved


def read(scope: Scope, sealer: Sealer, names: Collection[str]) -> dict[str, str]:
    """The newest values of those of `names` (canonical) that are set. For conductors; no route leads here.

    Raises `UsageError` (SECURITY) for a value that does not open.
    """
    return _opened(sealer, scope.org_id, {row["name"]: row for row in _latest(scope, names)}, names)


class StudioSecrets:
    """The `OrgSecrets` of conductors: an org's sealed values, kept for a second, opened for each call. Thread-safe.

    The sealer is opened with the first question, so that a conductor of a Studio without secrets needs no key.
    """

    def __init__(
        self,
        store: Callable[[], StudioStore],
        sealer: Callable[[], Sealer],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_store, self._open_sealer = store, sealer
        self._clock = monotonic
        self._lock = threading.Lock()
        self._store: StudioStore | None = None
        self._sealer: Sealer | None = None
        self._known: dict[OrgId, tuple[float, dict[str, RowMapping]]] = {}

    async def values(self, org_id: OrgId, names: Collection[str]) -> dict[str, str]:
        """The newest values of those that are set. Raises `FlowMasonError`."""
        found = self._fresh(org_id)
        if found is None:
            found = await asyncio.to_thread(self._load, org_id)
        wanted = {name: found[name] for name in names if name in found}
        return await asyncio.to_thread(self._open, org_id, wanted) if wanted else {}

    def _fresh(self, org_id: OrgId) -> dict[str, RowMapping] | None:
        known = self._known.get(org_id)
        return known[1] if known is not None and self._clock() - known[0] < _FRESH_S else None

    def _load(self, org_id: OrgId) -> dict[str, RowMapping]:
        with self._lock:
            found = self._fresh(org_id)
            if found is not None:
                return found
            asked = self._clock()
            try:
                if self._store is None:
                    self._store = self._open_store()
                with self._store.scope(org_id, writing=False) as scope:
                    found = {row["name"]: row for row in _latest(scope)}
            except (sa.exc.SQLAlchemyError, JournalError) as error:
                raise EngineUnavailableError(f"the secrets of the org cannot be looked up: {error}") from error
            while len(self._known) >= _KEPT_ORGS:
                del self._known[next(iter(self._known))]
            self._known[org_id] = (asked, found)
            return found

    def _open(self, org_id: OrgId, rows: Mapping[str, RowMapping]) -> dict[str, str]:
        with self._lock:
            if self._sealer is None:
                self._sealer = self._open_sealer()
        return _opened(self._sealer, org_id, rows, rows)


def org_secrets(database_url: str) -> StudioSecrets:
    """The `OrgSecrets` of conductors of a Studio: master keys as the environment of this process has them."""
    import os

    return StudioSecrets(lambda: StudioStore.open(database_url), lambda: open_sealer(os.environ))


def _checked(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise UsageError("the value is no text in UTF-8", code=Code.INVALID_INPUT) from None
    if not LEAST <= len(data) <= MOST or not value.strip():
        raise UsageError(
            f"the value of a secret has {LEAST} to {MOST} bytes; this has {len(data)}",
            code=Code.INVALID_INPUT,
            help="What is shorter could not be masked where it is echoed.",
        )
    return data


def _latest(scope: Scope, names: Collection[str] | None = None) -> list[RowMapping]:
    """The newest version of each secret, with its sealed value."""
    newest = (
        sa.select(_columns.name, sa.func.max(_columns.version))
        .where(_columns.org_id == scope.org_id)
        .group_by(_columns.name)
    )
    conditions = [sa.tuple_(_columns.name, _columns.version).in_(newest)]
    if names is not None:
        conditions.append(_columns.name.in_(list(names)))
    return scope.find(_table, *conditions, order_by=(_columns.name,))


def _newest(scope: Scope, name: str) -> RowMapping | None:
    found = scope.find(_table, _columns.name == name, columns=_SHORT, order_by=(_columns.version.desc(),), limit=1)
    return found[0] if found else None


def _opened(sealer: Sealer, org_id: OrgId, rows: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    found = {}
    for name in names:
        row = rows.get(name)
        if row is not None:
            sealed = sealer.open(bytes(row["sealed"]), _context(org_id, row["secret_id"], row["version"]))
            found[name] = sealed.decode()
    return found


def _context(org_id: OrgId, secret_id: str, version: int) -> list[str]:
    return ["secrets", org_id, secret_id, str(version)]


def _info(rows: Collection[RowMapping]) -> SecretInfo:
    last = list(rows)[-1]
    return SecretInfo(
        name=last["name"],
        version=last["version"],
        versions=len(rows),
        set_by=last["created_by"],
        set_at=last["created_at"],
        key_id=last["key_id"],
    )


def _note(scope: Scope, caller: Caller, action: str, name: str, details: Mapping[str, Any], now: int) -> None:
    audit.record(
        scope, now, actor=caller.actor, action=action, resource_type="secret", resource_id=name, details=details
    )
