"""What was done in an org, by whom: a chain of hashes, so that no entry can be changed or taken out unseen.

An entry is written in the transaction of what it tells of: neither is there without the other. Cutting off the end of
the chain leaves a chain that is whole; whoever wants to notice that keeps the number and hash of an entry elsewhere and
asks `verify` for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy.engine import RowMapping

from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity.credentials import new_id
from flowmason.studio.scope import Scope, StudioStore

_FIRST = "0" * 64
_AT_ONCE = 1000
_log = schema.audit_log.c


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done."""

    audit_id: str
    number: int
    """1, 2, 3 … in the org."""
    at: int
    """Milliseconds since the epoch."""
    actor: str
    """The id of the key or of the user; `system` for what nobody signed in did."""
    action: str
    """`resource.verb`."""
    resource_type: str
    resource_id: str
    details: dict[str, Any]
    previous_hash: str
    hash: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the chain of an org is whole."""

    whole: bool
    entries: int
    head_number: int
    head_hash: str
    broken_at: int | None = None
    """The number of the first entry that does not fit."""
    reason: str | None = None


def record(
    scope: Scope,
    now: int,
    *,
    actor: str,
    action: str,
    resource_type: str,
    resource_id: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry to the org's chain. Call it last in a transaction: it waits for others that add to the same chain.

    `details` is plain data without anything secret.
    """
    # The row of the org is the lock of its chain: of two writers the second sees what the first has written.
    scope.one(schema.orgs, lock=True)
    last = scope.find(schema.audit_log, columns=(_log.number, _log.hash), order_by=(_log.number.desc(),), limit=1)
    values = {
        "number": last[0]["number"] + 1 if last else 1,
        "audit_id": new_id("audit"),
        "at": now,
        "actor": actor,
        "action": action,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "details": msgspec.json.encode(dict(details or {}), order="sorted").decode(),
        "previous_hash": last[0]["hash"] if last else _FIRST,
    }
    scope.add(schema.audit_log, **values, hash=_hash(scope.org_id, values))


def entries(
    scope: Scope,
    *,
    limit: int,
    before: int | None = None,
    action: str | None = None,
    resource_type: str | None = None,
) -> list[Entry]:
    """Entries, the newest first; `before` is the number of the last one seen."""
    conditions = []
    if before is not None:
        conditions.append(_log.number < before)
    if action is not None:
        conditions.append(_log.action == action)
    if resource_type is not None:
        conditions.append(_log.resource_type == resource_type)
    rows = scope.find(schema.audit_log, *conditions, order_by=(_log.number.desc(),), limit=limit)
    return [_entry(row) for row in rows]


def verify(store: StudioStore, org_id: OrgId, *, anchor: tuple[int, str] | None = None) -> Verdict:
    """Compute the chain of an org anew. `anchor`: number and hash of an entry that must still be in it."""
    number, previous = 0, _FIRST
    anchored = anchor is None
    while True:
        with store.scope(org_id, writing=False) as scope:
            rows = scope.find(schema.audit_log, _log.number > number, order_by=(_log.number.asc(),), limit=_AT_ONCE)
        for row in rows:
            reason = _fault(org_id, row, number, previous)
            if reason is None and anchor is not None and row["number"] == anchor[0]:
                anchored = row["hash"] == anchor[1]
                reason = None if anchored else "its hash is not the one that was noted"
            if reason is not None:
                return Verdict(
                    whole=False,
                    entries=number,
                    head_number=number,
                    head_hash=previous,
                    broken_at=number + 1,
                    reason=reason,
                )
            number, previous = row["number"], row["hash"]
        if len(rows) < _AT_ONCE:
            break
    return Verdict(
        whole=anchored,
        entries=number,
        head_number=number,
        head_hash=previous,
        broken_at=None if anchored else number + 1,
        reason=None if anchored else "the entry that was noted is not there any more",
    )


def _fault(org_id: OrgId, row: RowMapping, number: int, previous: str) -> str | None:
    if row["number"] != number + 1:
        return "an entry is missing before it" if row["number"] > number else "its number is wrong"
    if row["previous_hash"] != previous:
        return "it does not follow the entry before it"
    if row["hash"] != _hash(org_id, row):
        return "it was changed"
    return None


def _hash(org_id: OrgId, values: Mapping[str, Any] | RowMapping) -> str:
    names = ("number", "audit_id", "at", "actor", "action", "resource_type", "resource_id", "details", "previous_hash")
    return hashlib.sha256(msgspec.json.encode([org_id, *(values[name] for name in names)])).hexdigest()


def _entry(row: RowMapping) -> Entry:
    values = {name: row[name] for name in Entry.__struct_fields__}
    values["details"] = msgspec.json.decode(row["details"])
    return Entry(**values)
