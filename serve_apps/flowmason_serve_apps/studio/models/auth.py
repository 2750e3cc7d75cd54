"""Bodies and answers about who somebody is: sign-in, tokens, passwords, API keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr

from flowmason.studio.identity.permissions import KeyScope, Role
from flowmason_serve_apps.studio.models.common import Body

Email = Annotated[str, Field(min_length=3, max_length=254)]
Password = Annotated[SecretStr, Field(max_length=1024)]
Token = Annotated[SecretStr, Field(min_length=1, max_length=4096)]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Slug = Annotated[str, Field(min_length=1, max_length=63, description="Lower-case letters, digits, inner hyphens.")]


class Bootstrap(Body):
    """The first org and its owner."""

    token: Token
    org_name: Label
    org_slug: Slug
    email: Email
    name: Label
    password: Password | None = Field(default=None, description="Without one the owner has only the API key.")


class FirstOut(BaseModel):
    """What the first owner holds. The key is shown here alone."""

    org_id: str
    user_id: str
    api_key: str


class Login(Body):
    """An e-mail address and its password."""

    email: Email
    password: Password
    org: str | None = Field(default=None, max_length=63, description="Id or slug; else the org joined first.")


class Refresh(Body):
    """A refresh token, which is used up."""

    refresh_token: Token


class Revoke(Body):
    """A token of one's own that is to count no more."""

    token: Token


class Switch(Body):
    """Another org of the same user."""

    org_id: str = Field(max_length=100)


class TokensOut(BaseModel):
    """What somebody who signed in holds."""

    access_token: str
    token_type: str = "Bearer"
    expires_at: str
    refresh_token: str
    refresh_expires_at: str
    org_id: str
    user_id: str


class Forgot(Body):
    """Whose password is forgotten."""

    email: Email


class Reset(Body):
    """A new password by the token that came by mail."""

    token: Token
    password: Password


class Change(Body):
    """A new password by the old one."""

    old: Password
    new: Password


class WhoAmI(BaseModel):
    """The caller as this Studio sees them."""

    org_id: str
    org_name: str
    org_slug: str
    user_id: str
    email: str
    role: Role
    permissions: list[str]
    key_id: str | None
    session_id: str | None
    expires_at: str | None


class TicketOut(BaseModel):
    """Opens one WebSocket, once."""

    ticket: str
    expires_at: str


class NewKey(Body):
    """An API key that is to be made."""

    name: Label
    scopes: list[KeyScope] = Field(default=[KeyScope.FULL], min_length=1, max_length=4)
    role: Role | None = Field(default=None, description="At most the maker's own, which it is by default.")
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)


class Rotation(Body):
    """How a key is exchanged."""

    overlap_hours: float = Field(default=0, ge=0, le=168, description="For how long the old one still counts.")


class KeyOut(BaseModel):
    """What is known of a key; not the key."""

    key_id: str
    user_id: str
    name: str
    prefix: str
    scopes: list[KeyScope]
    role: Role
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    revoke_reason: str | None
    replaces: str | None


class NewKeyOut(KeyOut):
    """A new key. `api_key` is shown here alone."""

    api_key: str


class KeyPage(BaseModel):
    """API keys, by id."""

    items: list[KeyOut]
    next_cursor: str | None
