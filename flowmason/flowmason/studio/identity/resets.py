"""A new password: by a token that came by mail, good once and for 24 hours, or by whoever knows the old one."""

from __future__ import annotations

import sqlalchemy as sa

from flowmason.errors import Code, UsageError
from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity import audit, credentials, lockout, passwords, sessions
from flowmason.studio.identity.refusals import Refusals
from flowmason.studio.scope import StudioStore, System

LIFE_MS = 24 * 3600 * 1000
MOST_AN_HOUR = 3
_HOUR_MS = 3600 * 1000
_resets, _users, _members = schema.password_resets.c, schema.users.c, schema.members.c


def issue(store: StudioStore, email: str, now: int) -> str | None:
    """A token for a user. None where there is no such user, they are disabled, or had `MOST_AN_HOUR` within an hour.

    Anybody may ask for one in somebody's name: that neither fills their mailbox, nor ends a token that is in it. Once
    one was redeemed the others do not count any more.
    """
    token = credentials.new(credentials.RESET)
    with store.system() as system:
        found = system.execute(
            # Locked, so that requests that come together are counted one after the other.
            sa.select(_users.user_id).where(_users.email == email, _users.disabled_at.is_(None)).with_for_update()
        ).first()
        if found is None:
            return None
        lately = sa.select(sa.func.count()).where(_resets.user_id == found.user_id, _resets.created_at > now - _HOUR_MS)
        if system.execute(lately).scalar_one() >= MOST_AN_HOUR:
            return None
        system.execute(
            sa.insert(schema.password_resets).values(
                token_hash=credentials.hashed(token), user_id=found.user_id, created_at=now, expires_at=now + LIFE_MS
            )
        )
    return token


def redeem(store: StudioStore, token: str, password: str, now: int) -> None:
    """Set a password by a token, which is used up; all sessions of the user end. Takes the time of a password hash.

    Raises `UsageError`: INVALID_INPUT for a password that is none, or a token that is unknown, used or over.
    """
    digest = credentials.hashed(token)
    with store.system(writing=False) as system:
        user_id, email = _meant(system, digest, now)
    passwords.acceptable(password, email)
    stored = passwords.hash_password(password)
    with store.system(user=user_id) as system:
        used = sa.update(schema.password_resets).where(
            _resets.token_hash == digest, _resets.used_at.is_(None), _resets.expires_at > now
        )
        if system.execute(used.values(used_at=now)).rowcount != 1:
            raise _unusable()
        _set(system, user_id, email, stored, now, "user.password_reset")


def change(store: StudioStore, user_id: str, old: str, new: str, now: int, *, refusals: Refusals, address: str) -> None:
    """Set a password by the old one; all sessions of the user end. Takes the time of two password hashes.

    Whoever guesses at the old one, at `address`, is slowed down as one who signs in, and told to `refusals`. Raises
    `UsageError`: FORBIDDEN for a wrong old one, RATE_LIMITED after too many, INVALID_INPUT for a new one that is none.
    """
    with store.system(writing=False) as system:
        found = system.execute(sa.select(schema.users).where(_users.user_id == user_id)).mappings().one()
    action = "user.password_refused"
    try:
        lockout.begin(store, found["email"], address, user_id, now)
    except UsageError:
        refusals.user(user_id, "too many failed attempts", address, action=action)
        raise
    if not passwords.check(old, found["password_hash"]):
        refusals.user(user_id, "wrong password", address, action=action)
        raise UsageError("this is not your password", code=Code.FORBIDDEN)
    lockout.succeeded(store, found["email"], address, user_id, now)
    passwords.acceptable(new, found["email"])
    stored = passwords.hash_password(new)
    with store.system(user=user_id) as system:
        _set(system, user_id, found["email"], stored, now, "user.password_change")


def _set(system: System, user_id: str, email: str, stored: str, now: int, action: str) -> None:
    system.execute(sa.update(schema.users).where(_users.user_id == user_id).values(password_hash=stored))
    system.execute(sa.delete(schema.password_resets).where(_resets.user_id == user_id, _resets.used_at.is_(None)))
    sessions.end_all(system, user_id, now, "the password is new")
    lockout.forgive(system, email, user_id)
    orgs = sa.select(_members.org_id).where(_members.user_id == user_id).order_by(_members.org_id)
    for row in system.execute(orgs).all():
        audit.record(
            system.scope(OrgId(row.org_id)), now, actor=user_id, action=action, resource_type="user",
            resource_id=user_id,
        )  # fmt: skip


def _meant(system: System, digest: str, now: int) -> tuple[str, str]:
    chosen = (
        sa.select(_users.user_id, _users.email)
        .join(schema.password_resets, _resets.user_id == _users.user_id)
        .where(_resets.token_hash == digest, _resets.used_at.is_(None), _resets.expires_at > now)
        .where(_users.disabled_at.is_(None))
    )
    found = system.execute(chosen).first()
    if found is None:
        raise _unusable()
    return found.user_id, found.email


def _unusable() -> UsageError:
    return UsageError(
        "the token is unknown, used, or older than 24 hours", code=Code.INVALID_INPUT, help="Ask for a new one."
    )
