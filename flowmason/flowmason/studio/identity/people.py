"""Users, who belong to no org, and members: users in an org, with a role."""

from __future__ import annotations

import re

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from flowmason.errors import Code, UsageError
from flowmason.studio import schema
from flowmason.studio.identity import audit
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.credentials import new_id
from flowmason.studio.identity.orgs import named
from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import Scope, StudioStore, System

_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f<>\"(),:;\\\[\]]{1,64}@[^\s@\x00-\x1f\x7f<>\"(),:;\\\[\]]{1,189}")
_members, _users = schema.members.c, schema.users.c


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A user in an org."""

    member_id: str
    user_id: str
    email: str
    name: str
    role: Role
    created_at: int


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A user as whoever adds one sees them: nothing that somebody else has set."""

    user_id: str
    email: str


def address(email: str) -> str:
    """The address as it is kept and compared: without blanks around it, in lower case.

    Raises `UsageError` for what is none.
    """
    email = email.strip().lower()
    if not _EMAIL.fullmatch(email):
        raise UsageError("this is not an e-mail address", code=Code.INVALID_INPUT)
    return email


def ensure(store: StudioStore, caller: Caller, email: str, name: str, now: int) -> tuple[Person, bool]:
    """The user with an e-mail address, made if nobody has it; and whether they still have no password.

    The answer is the same for somebody who was there: an org does not learn who uses the Studio elsewhere. `name` is
    theirs only if they are new.
    """
    email = address(email)
    try:
        return _ensure(store, caller, email, name, now)
    except sa.exc.IntegrityError:
        # Somebody else has just made them.
        return _ensure(store, caller, email, name, now)


def _ensure(store: StudioStore, caller: Caller, email: str, name: str, now: int) -> tuple[Person, bool]:
    with store.scope(caller.org_id) as scope:
        user_id = add(scope.system, email, name, now)
        found = scope.system.execute(sa.select(schema.users).where(_users.email == email)).mappings().one()
        audit.record(
            scope, now, actor=caller.actor, action="user.add", resource_type="user", resource_id=found["user_id"],
            details={"email": email},
        )  # fmt: skip
        pending = found["password_hash"] is None and found["disabled_at"] is None
    return Person(user_id=user_id or found["user_id"], email=email), pending


def add(system: System, email: str, name: str, now: int, *, password_hash: str | None = None) -> str | None:
    """Make a user; their id, or None where the address is known already. Part of the caller's transaction."""
    known = sa.select(_users.user_id).where(_users.email == email)
    if system.execute(known).first() is not None:
        return None
    user_id = new_id("user")
    system.execute(
        sa.insert(schema.users).values(
            user_id=user_id, email=email, name=named(name), password_hash=password_hash, created_at=now
        )
    )
    return user_id


def members(scope: Scope, *, limit: int, after: str | None = None) -> list[Member]:
    """The members of an org, in the order of their ids; `after` is the last one seen."""
    conditions = () if after is None else (_members.member_id > after,)
    rows = scope.find(schema.members, *conditions, order_by=(_members.member_id,), limit=limit)
    return _with_people(scope, rows)


def add_member(store: StudioStore, caller: Caller, user_id: str, role: Role, now: int) -> Member:
    """Make a user a member. Raises `UsageError`: NOT_FOUND, CONFLICT (is one already), FORBIDDEN (a higher role)."""
    _not_above(caller, role)
    with store.scope(caller.org_id) as scope:
        if scope.system.execute(sa.select(_users.user_id).where(_users.user_id == user_id)).first() is None:
            raise UsageError(f"there is no user {user_id!r}", code=Code.NOT_FOUND)
        member_id = new_id("mem")
        try:
            scope.add(schema.members, member_id=member_id, user_id=user_id, role=role.value, created_at=now)
        except sa.exc.IntegrityError as error:
            raise UsageError("this user is a member already", code=Code.CONFLICT) from error
        _record(scope, caller, now, "member.add", member_id, {"user_id": user_id, "role": role.value})
        return _with_people(scope, scope.find(schema.members, _members.member_id == member_id))[0]


def change_role(store: StudioStore, caller: Caller, member_id: str, role: Role, now: int) -> Member:
    """Give a member another role. Raises `UsageError`: NOT_FOUND, FORBIDDEN, CONFLICT (the last owner stays)."""
    _not_above(caller, role)
    with store.scope(caller.org_id) as scope:
        found = _changeable(scope, caller, member_id, keeps_owner=role is Role.OWNER)
        scope.change(schema.members, _members.member_id == member_id, role=role.value)
        _record(scope, caller, now, "member.change", member_id, {"role": [found["role"], role.value]})
        return _with_people(scope, scope.find(schema.members, _members.member_id == member_id))[0]


def remove_member(store: StudioStore, caller: Caller, member_id: str, now: int) -> None:
    """End a membership, with the keys and sessions that came by it. Raises as `change_role` does."""
    with store.scope(caller.org_id) as scope:
        found = _changeable(scope, caller, member_id, keeps_owner=False)
        user_id = found["user_id"]
        scope.remove(schema.members, _members.member_id == member_id)
        reason = "no member any more"
        keys, sessions = schema.api_keys.c, schema.sessions.c
        scope.change(
            schema.api_keys, keys.user_id == user_id, keys.revoked_at.is_(None), revoked_at=now, revoke_reason=reason
        )
        scope.change(
            schema.sessions, sessions.user_id == user_id, sessions.ended_at.is_(None), ended_at=now, end_reason=reason
        )
        _record(scope, caller, now, "member.remove", member_id, {"user_id": user_id, "role": found["role"]})


def _changeable(scope: Scope, caller: Caller, member_id: str, *, keeps_owner: bool) -> RowMapping:
    # All owners are locked, in one order: of two who step down at once the second sees that they are the last.
    owners = scope.find(schema.members, _members.role == Role.OWNER.value, order_by=(_members.member_id,), lock=True)
    found = scope.one(schema.members, _members.member_id == member_id, lock=True)
    if found is None:
        raise UsageError(f"there is no member {member_id!r}", code=Code.NOT_FOUND)
    _not_above(caller, Role(found["role"]))
    if found["role"] == Role.OWNER and not keeps_owner and len(owners) == 1:
        raise UsageError(
            "this is the last owner of the org", code=Code.CONFLICT, help="Make somebody else an owner first."
        )
    return found


def _not_above(caller: Caller, role: Role) -> None:
    if role.rank > caller.role.rank:
        raise UsageError(f"only an {role} may do that for an {role}", code=Code.FORBIDDEN)


def _record(scope: Scope, caller: Caller, now: int, action: str, member_id: str, details: dict[str, object]) -> None:
    audit.record(
        scope, now, actor=caller.actor, action=action, resource_type="member", resource_id=member_id, details=details
    )


def _with_people(scope: Scope, rows: list[RowMapping]) -> list[Member]:
    chosen = sa.select(schema.users).where(_users.user_id.in_([row["user_id"] for row in rows]))
    people = {row["user_id"]: row for row in scope.system.execute(chosen).mappings()}
    return [
        Member(
            member_id=row["member_id"],
            user_id=row["user_id"],
            email=people[row["user_id"]]["email"],
            name=people[row["user_id"]]["name"],
            role=Role(row["role"]),
            created_at=row["created_at"],
        )
        for row in rows
    ]
