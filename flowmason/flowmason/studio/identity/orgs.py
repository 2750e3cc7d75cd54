"""Orgs: the tenants of a Studio."""

from __future__ import annotations

import re

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from flowmason.errors import Code, UsageError
from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity import audit
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.credentials import new_id
from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import Scope, StudioStore
from flowmason.usage import Limit, dollars

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Org(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant."""

    org_id: OrgId
    name: str
    slug: str
    """Unique in the Studio: lower-case letters, digits and inner hyphens, at most 63."""
    plan: str
    created_at: int


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the Studio an org may use at once."""

    max_concurrent_runs: int | None = None
    """None: as many as there is room for."""
    max_queued_runs: int | None = None
    weight: int = 1
    """Its share beside other orgs when all want more than there is."""


def current(store: StudioStore, org_id: OrgId) -> Org:
    """The org. Raises `UsageError` (NOT_FOUND) where it is gone."""
    with store.scope(org_id, writing=False) as scope:
        return _org(scope)


def create(store: StudioStore, caller: Caller, name: str, slug: str, now: int, *, most: int) -> Org:
    """A new org whose first owner is the caller, who may be the owner of `most` in all.

    Raises `UsageError`: CONFLICT for a slug that is taken, FORBIDDEN for one org too many.
    """
    org_id = OrgId(new_id("org"))
    members, users = schema.members.c, schema.users.c
    with store.scope(org_id, user=caller.user_id) as scope:
        # The user is locked, so that orgs that are asked for together are counted one after the other.
        scope.system.execute(sa.select(users.user_id).where(users.user_id == caller.user_id).with_for_update())
        owned = sa.select(sa.func.count()).where(members.user_id == caller.user_id, members.role == Role.OWNER.value)
        if scope.system.execute(owned).scalar_one() >= most:
            raise UsageError(
                f"you are the owner of {most} orgs or more already, and every org has a share of its own",
                code=Code.FORBIDDEN,
                help="The operator of the Studio allows more by FLOWMASON_MAX_ORGS_PER_USER.",
            )
        add(scope, name, slug, caller.user_id, now)
        made = _org(scope)
        audit.record(
            scope.system.scope(caller.org_id), now, actor=caller.actor, action="org.create", resource_type="org",
            resource_id=org_id, details={"slug": slug},
        )  # fmt: skip
    return made


def rename(store: StudioStore, caller: Caller, name: str, now: int) -> Org:
    """Give the caller's org another name."""
    with store.scope(caller.org_id) as scope:
        before = _org(scope)
        scope.change(schema.orgs, name=named(name))
        audit.record(
            scope, now, actor=caller.actor, action="org.update", resource_type="org", resource_id=caller.org_id,
            details={"name": [before.name, name]},
        )  # fmt: skip
        return _org(scope)


def limits(store: StudioStore, org_id: OrgId) -> Limits:
    """The limits of an org."""
    with store.scope(org_id, writing=False) as scope:
        found = scope.one(schema.org_limits)
    return Limits() if found is None else Limits(**{name: found[name] for name in Limits.__struct_fields__})


def set_limits(store: StudioStore, caller: Caller, wanted: Limits, now: int) -> Limits:
    """Give the caller's org other limits."""
    values = msgspec.structs.asdict(wanted)
    with store.scope(caller.org_id) as scope:
        if not scope.change(schema.org_limits, **values):
            scope.add(schema.org_limits, **values)
        audit.record(
            scope, now, actor=caller.actor, action="org.limits", resource_type="org", resource_id=caller.org_id,
            details=values,
        )  # fmt: skip
    return wanted


def set_budget(store: StudioStore, caller: Caller, limit: Limit, now: int) -> None:
    """Say what the caller's org may spend on models a day; nothing limited: any amount."""
    values = {"nanodollars": limit.nanodollars, "tokens": limit.tokens}
    with store.scope(caller.org_id) as scope:
        if not scope.change(schema.org_budgets, **values):
            scope.add(schema.org_budgets, **values)
        details = {
            "max_cost_per_day": None if limit.nanodollars is None else dollars(limit.nanodollars),
            "max_tokens_per_day": limit.tokens,
        }
        audit.record(
            scope, now, actor=caller.actor, action="org.budget", resource_type="org", resource_id=caller.org_id,
            details=details,
        )  # fmt: skip


def of_user(store: StudioStore, user_id: str) -> list[tuple[Org, Role]]:
    """The orgs that somebody is a member of, in the order in which they joined, with their role in each."""
    members, columns = schema.members.c, schema.orgs.c
    chosen = (
        sa.select(schema.orgs, members.role)
        .join(schema.members, members.org_id == columns.org_id)
        .where(members.user_id == user_id)
        .order_by(members.created_at, members.member_id)
    )
    with store.system(writing=False, user=user_id) as system:
        rows = list(system.execute(chosen).mappings())
    return [(_read(row), Role(row["role"])) for row in rows]


def add(scope: Scope, name: str, slug: str, owner: str, now: int) -> None:
    """Make the org of `scope`, with its first owner; part of the caller's transaction."""
    if not _SLUG.fullmatch(slug):
        raise UsageError(
            f"not a slug: {slug!r}",
            code=Code.INVALID_INPUT,
            help="Lower-case letters, digits and hyphens between them; at most 63.",
        )
    try:
        scope.add(schema.orgs, name=named(name), slug=slug, plan="free", settings="{}", created_at=now)
    except sa.exc.IntegrityError as error:
        raise UsageError(f"the slug {slug!r} is taken", code=Code.CONFLICT) from error
    scope.add(schema.org_limits, max_concurrent_runs=None, max_queued_runs=None, weight=1)
    scope.add(schema.members, member_id=new_id("mem"), user_id=owner, role=Role.OWNER.value, created_at=now)
    audit.record(
        scope, now, actor=owner, action="org.create", resource_type="org", resource_id=scope.org_id,
        details={"slug": slug},
    )  # fmt: skip


def named(name: str) -> str:
    """The name as it is kept. Raises `UsageError` for one that is empty, too long (200), or not printable."""
    name = name.strip()
    if not name or len(name) > 200 or not name.isprintable():
        raise UsageError("a name is 1 to 200 printable characters", code=Code.INVALID_INPUT)
    return name


def _org(scope: Scope) -> Org:
    found = scope.one(schema.orgs)
    if found is None:
        raise UsageError("there is no such org", code=Code.NOT_FOUND)
    return _read(found)


def _read(row: RowMapping) -> Org:
    return Org(**{name: row[name] for name in Org.__struct_fields__})
