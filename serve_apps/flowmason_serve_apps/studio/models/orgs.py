"""Bodies and answers about orgs: their members, their limits, their audit log."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason.studio.identity.permissions import Role
from flowmason_serve_apps.studio.models.auth import Email, Label, Slug
from flowmason_serve_apps.studio.models.common import Body


class LimitsBody(Body):
    """How much of the Studio an org may use at once; null: without a limit of its own."""

    max_concurrent_runs: int | None = Field(default=None, ge=1, le=1_000_000)
    max_queued_runs: int | None = Field(default=None, ge=1, le=10_000_000)
    weight: int = Field(default=1, ge=1, le=1000, description="Its share beside other orgs.")


class NewOrg(Body):
    """An org that is to be made."""

    name: Label
    slug: Slug


class OrgChange(Body):
    """What is to change; what is left out stays."""

    name: Label | None = None
    limits: LimitsBody | None = None


class LimitsOut(BaseModel):
    """The limits of an org."""

    max_concurrent_runs: int | None
    max_queued_runs: int | None
    weight: int


class OrgOut(BaseModel):
    """An org."""

    org_id: str
    name: str
    slug: str
    plan: str
    created_at: str


class OrgDetail(OrgOut):
    """The caller's org."""

    limits: LimitsOut


class Membership(OrgOut):
    """An org of the caller's."""

    role: Role


class MembershipPage(BaseModel):
    """The orgs that the caller is a member of."""

    items: list[Membership]
    next_cursor: str | None


class NewUser(Body):
    """A person who is to have an account."""

    email: Email
    name: Label


class UserOut(BaseModel):
    """A person, as whoever adds one sees them."""

    user_id: str
    email: str


class NewMember(Body):
    """A user who is to be a member."""

    user_id: str = Field(max_length=100)
    role: Role = Role.DEVELOPER


class RoleChange(Body):
    """Another role of a member."""

    role: Role


class MemberOut(BaseModel):
    """A user in an org."""

    member_id: str
    user_id: str
    email: str
    name: str
    role: Role
    created_at: str


class MemberPage(BaseModel):
    """Members, by id."""

    items: list[MemberOut]
    next_cursor: str | None


class AuditEntry(BaseModel):
    """One thing that was done: an entry of the chain, or the start of a run, which the run's journal tells."""

    source: Literal["chain", "journal"]
    audit_id: str | None = None
    """Of an entry of the chain, as the number and the hashes."""
    number: int | None = None
    at: str
    actor: str
    action: str
    resource_type: str
    resource_id: str
    details: dict[str, Any]
    previous_hash: str | None = None
    hash: str | None = None


class AuditPage(BaseModel):
    """Entries, the newest first."""

    items: list[AuditEntry]
    next_cursor: str | None


class VerdictOut(BaseModel):
    """Whether the chain of an org's entries is whole."""

    whole: bool
    entries: int
    head_number: int
    head_hash: str
    broken_at: int | None
    reason: str | None
