"""Orgs: their names and limits, their members, and what was done in them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, BackgroundTasks, Path, Query

from flowmason.assembly.outcome import moment
from flowmason.errors import Code, UsageError
from flowmason.studio import history
from flowmason.studio.identity import audit, orgs, people
from flowmason.studio.identity.audit import Entry
from flowmason.studio.identity.callers import Caller
from flowmason_serve_apps.studio.models import orgs as models
from flowmason_serve_apps.studio.routes.auth import send_reset
from flowmason_serve_apps.studio.routes.parts import (
    AuditReader,
    Cursor,
    Given,
    Limit,
    MemberReader,
    MemberWriter,
    OrgMaker,
    OrgReader,
    OrgWriter,
    Themselves,
    cursor_of,
    edge_of,
)
from flowmason_serve_apps.studio.services import Services

router = APIRouter(prefix="/auth", tags=["orgs"])
MemberId = Annotated[str, Path(max_length=100)]


@router.get("/orgs", operation_id="orgs_list")
def mine(services: Given, caller: Themselves) -> models.MembershipPage:
    """The orgs that the caller is a member of. An API key knows only its own."""
    found = orgs.of_user(services.store, caller.user_id)
    items = [
        models.Membership(**_timed(org), role=role)
        for org, role in found
        if caller.key_id is None or org.org_id == caller.org_id
    ]
    return models.MembershipPage(items=items, next_cursor=None)


@router.post("/orgs", status_code=201, operation_id="orgs_create")
def create(services: Given, caller: OrgMaker, body: models.NewOrg) -> models.OrgOut:
    """Make another org; the caller is its first owner."""
    most = services.settings.max_orgs_per_user
    made = orgs.create(services.store, caller, body.name, body.slug, services.now(), most=most)
    return models.OrgOut(**_timed(made))


@router.get("/orgs/current", operation_id="orgs_get")
def current(services: Given, caller: OrgReader) -> models.OrgDetail:
    """The caller's org and its limits."""
    return _detail(services, caller)


@router.patch("/orgs/current", operation_id="orgs_update")
def change(services: Given, caller: OrgWriter, body: models.OrgChange) -> models.OrgDetail:
    """Change the name or the limits of the caller's org."""
    most = services.settings.max_org_weight
    if body.limits is not None and body.limits.weight > most:
        raise UsageError(
            f"an org may give itself a weight of at most {most}",
            code=Code.FORBIDDEN,
            help="The operator of the Studio allows more by FLOWMASON_MAX_ORG_WEIGHT.",
        )
    if body.name is not None:
        orgs.rename(services.store, caller, body.name, services.now())
    if body.limits is not None:
        orgs.set_limits(services.store, caller, orgs.Limits(**body.limits.model_dump()), services.now())
    return _detail(services, caller)


@router.post("/users", status_code=201, operation_id="users_create")
def add_user(services: Given, caller: MemberWriter, body: models.NewUser, later: BackgroundTasks) -> models.UserOut:
    """The user with an address, made if nobody has it. Who has no password yet is sent a token to set one, by mail."""
    person, pending = people.ensure(services.store, caller, body.email, body.name, services.now())
    if pending:
        later.add_task(send_reset, services, person.email, "Your account at FlowMason")
    return models.UserOut(**msgspec.structs.asdict(person))


@router.get("/orgs/current/members", operation_id="members_list")
def members(services: Given, caller: MemberReader, limit: Limit = 100, cursor: Cursor = None) -> models.MemberPage:
    """The members of the caller's org."""
    with services.store.scope(caller.org_id, writing=False) as scope:
        found = people.members(scope, limit=limit + 1, after=edge_of(cursor, str))
    return models.MemberPage(
        items=[models.MemberOut(**_timed(each)) for each in found[:limit]],
        next_cursor=cursor_of(found[limit - 1].member_id) if len(found) > limit else None,
    )


@router.post("/orgs/current/members", status_code=201, operation_id="members_create")
def add_member(services: Given, caller: MemberWriter, body: models.NewMember) -> models.MemberOut:
    """Make a user a member."""
    return models.MemberOut(
        **_timed(people.add_member(services.store, caller, body.user_id, body.role, services.now()))
    )


@router.patch("/orgs/current/members/{member_id}", operation_id="members_update")
def change_role(
    services: Given, caller: MemberWriter, member_id: MemberId, body: models.RoleChange
) -> models.MemberOut:
    """Give a member another role. Only an owner makes or changes an owner; the last one stays."""
    changed = people.change_role(services.store, caller, member_id, body.role, services.now())
    services.authenticator.forget()
    return models.MemberOut(**_timed(changed))


@router.delete("/orgs/current/members/{member_id}", status_code=204, operation_id="members_delete")
def remove_member(services: Given, caller: MemberWriter, member_id: MemberId) -> None:
    """End a membership, with the keys and sessions that came by it."""
    people.remove_member(services.store, caller, member_id, services.now())
    services.authenticator.forget()


@router.get("/audit-log", operation_id="audit_list")
def entries(
    services: Given,
    caller: AuditReader,
    action: Annotated[str | None, Query(max_length=100)] = None,
    resource_type: Annotated[str | None, Query(max_length=100)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> models.AuditPage:
    """What was done in the org, the newest first; starts of runs, which their journals tell, among it."""
    with services.store.scope(caller.org_id, writing=False) as scope:
        found, edge = history.page(
            scope, limit=limit, after=edge_of(cursor, history.Edge), action=action, resource_type=resource_type
        )
    return models.AuditPage(
        items=[_deed(each) for each in found], next_cursor=None if edge is None else cursor_of(edge)
    )


@router.get("/audit-log/verify", operation_id="audit_verify")
def verify(
    services: Given,
    caller: AuditReader,
    number: Annotated[int | None, Query(ge=1, description="An entry that was noted elsewhere …")] = None,
    hash: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$", description="… and its hash.")] = None,
) -> models.VerdictOut:
    """Compute the chain of entries anew: whether one was changed or taken out."""
    if (number is None) != (hash is None):
        raise UsageError("an entry that was noted is given by its number and its hash")
    anchor = None if number is None or hash is None else (number, hash)
    return models.VerdictOut(**msgspec.structs.asdict(audit.verify(services.store, caller.org_id, anchor=anchor)))


def _deed(of: Entry | history.Start) -> models.AuditEntry:
    if isinstance(of, Entry):
        return models.AuditEntry(**{**msgspec.structs.asdict(of), "at": moment(of.at)}, source="chain")
    return models.AuditEntry(
        at=moment(of.at) or "", actor=of.by, action=history.STARTED, resource_type="run", resource_id=of.run_id,
        details={"pipeline": of.pipeline, "version": of.version}, source="journal",
    )  # fmt: skip


def _detail(services: Services, caller: Caller) -> models.OrgDetail:
    limits = orgs.limits(services.store, caller.org_id)
    org = orgs.current(services.store, caller.org_id)
    return models.OrgDetail(**_timed(org), limits=models.LimitsOut(**msgspec.structs.asdict(limits)))


def _timed(of: Any) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(of)
    return {**values, "created_at": moment(values["created_at"])}
