"""Failed sign-ins slow down whoever guesses, and not for long those whom somebody else guesses at.

Counted are the account and the address that asks. After a few failures each further one locks for twice as long as the
one before, an account for at most a minute, an address for at most a quarter of an hour. Where somebody has signed in
before (a *place*) their account is counted apart from the rest of the world: strangers cannot lock them out there.

An attempt is counted as failed before the password is looked at, so that a hundred at once are not one.
"""

from __future__ import annotations

import hashlib
import ipaddress

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from flowmason.errors import Code, UsageError
from flowmason.studio import schema
from flowmason.studio.scope import StudioStore, System

FREE_OF_ACCOUNT, FREE_OF_ADDRESS = 5, 20
LONGEST_OF_ACCOUNT_MS, LONGEST_OF_ADDRESS_MS = 60_000, 15 * 60_000
FORGET_MS = 24 * 3600 * 1000
"""After this long without a failure, counting begins anew."""
KNOWN_MS = 90 * 24 * 3600 * 1000
"""For how long a place stays known."""
_failures, _places = schema.login_failures.c, schema.login_places.c


def place(address: str) -> str:
    """What of an address counts: an IPv4 address, or the /64 of an IPv6 one (a single subscriber has a whole /64)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def begin(store: StudioStore, email: str, address: str, user_id: str, now: int) -> None:
    """Count an attempt; `user_id` is empty for an unknown account.

    Raises `UsageError` (RATE_LIMITED, with the time to wait) where it is too early for one.
    """
    waits = []
    with store.system() as system:
        for subject, free, longest in _subjects(system, email, place(address), user_id, now):
            waits.append(_count(system, subject, free, longest, now))
    wait = max(waits)
    if wait > 0:
        raise UsageError("too many failed attempts", code=Code.RATE_LIMITED, retry_after_ms=wait)


def succeeded(store: StudioStore, email: str, address: str, user_id: str, now: int) -> None:
    """The attempt was right: the account is not counted any more, this one not against the address."""
    where = place(address)
    with store.system() as system:
        (account, _, _), (from_address, _, _) = _subjects(system, email, where, user_id, now)
        system.execute(sa.delete(schema.login_failures).where(_failures.subject == account))
        system.execute(
            sa.update(schema.login_failures)
            .where(_failures.subject == from_address, _failures.count > 0)
            .values(count=_failures.count - 1)
        )
        _upsert(system, schema.login_places, {"user_id": user_id, "place": where}, {"seen_at": now})


def forgive(system: System, email: str, user_id: str) -> None:
    """Forget all failures of an account, at known places too: its password is new."""
    subjects = [_account(email), *(_at(email, row.place) for row in system.execute(_known(user_id)))]
    system.execute(sa.delete(schema.login_failures).where(_failures.subject.in_(subjects)))


def _subjects(system: System, email: str, where: str, user_id: str, now: int) -> list[tuple[str, int, int]]:
    known = any(row.place == where and row.seen_at > now - KNOWN_MS for row in system.execute(_known(user_id)))
    account = _at(email, where) if known else _account(email)
    return [
        (account, FREE_OF_ACCOUNT, LONGEST_OF_ACCOUNT_MS),
        (f"address:{where}", FREE_OF_ADDRESS, LONGEST_OF_ADDRESS_MS),
    ]


def _count(system: System, subject: str, free: int, longest_ms: int, now: int) -> int:
    """Count a failure of a subject; returns how long it must wait, 0 if this attempt may be made."""
    _upsert(system, schema.login_failures, {"subject": subject}, {}, {"count": 0, "first_at": now})
    chosen = sa.select(schema.login_failures).where(_failures.subject == subject).with_for_update()
    row = system.execute(chosen).mappings().one()
    if row["locked_until"] is not None and row["locked_until"] > now:
        # An attempt while it is locked prolongs nothing: else whoever keeps asking would lock it for ever.
        return int(row["locked_until"] - now)
    last = row["locked_until"] or row["first_at"]
    count = 1 if last < now - FORGET_MS else row["count"] + 1
    over = count - free
    locked = now + min(longest_ms, 1000 * 2 ** min(over, 20)) if over >= 0 else None
    values = {"count": count, "locked_until": locked}
    if count == 1:
        values["first_at"] = now
    system.execute(sa.update(schema.login_failures).where(_failures.subject == subject).values(**values))
    return 0


def _known(user_id: str) -> sa.Select[tuple[str, int]]:
    return sa.select(_places.place, _places.seen_at).where(_places.user_id == user_id)


def _account(email: str) -> str:
    return "account:" + hashlib.sha256(email.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _at(email: str, where: str) -> str:
    return f"{_account(email)}@{where}"


def _upsert(
    system: System,
    table: sa.Table,
    key: dict[str, str],
    always: dict[str, int],
    first: dict[str, int] | None = None,
) -> None:
    insert = postgresql.insert if system.dialect == "postgresql" else sqlite.insert
    added = insert(table).values(**key, **always, **(first or {}))
    if always:
        system.execute(added.on_conflict_do_update(index_elements=list(key), set_=always))
    else:
        system.execute(added.on_conflict_do_nothing(index_elements=list(key)))
