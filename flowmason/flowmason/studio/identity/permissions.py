"""What each role may, and what of that the scopes of an API key leave. This table is the only place that says so."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from flowmason.errors import UsageError, did_you_mean


class Permission(StrEnum):
    """One thing that a caller may do in their org."""

    SELF = "self"
    """Ask who one is; end one's own session; change one's own password."""
    ORG_READ = "org.read"
    ORG_WRITE = "org.write"
    ORG_CREATE = "org.create"
    """Make another org in this Studio."""
    MEMBERS_READ = "members.read"
    MEMBERS_WRITE = "members.write"
    KEYS_READ = "keys.read"
    """See one's own API keys; those of others too with `keys.manage`."""
    KEYS_WRITE = "keys.write"
    """Make, rotate and revoke one's own API keys."""
    KEYS_MANAGE = "keys.manage"
    """See and revoke the API keys of others."""
    AUDIT_READ = "audit.read"
    PIPELINES_READ = "pipelines.read"
    PIPELINES_WRITE = "pipelines.write"
    PIPELINES_PUBLISH = "pipelines.publish"
    RUNS_READ = "runs.read"
    RUNS_START = "runs.start"
    RUNS_CONTROL = "runs.control"
    """Cancel, pause and resume."""
    RUNS_DELETE = "runs.delete"
    DEBUG_CONTROL = "debug.control"
    REGISTRY_READ = "registry.read"
    REGISTRY_WRITE = "registry.write"
    SECRETS_READ = "secrets.read"
    """See the names of secrets. Nothing reads their values."""
    SECRETS_WRITE = "secrets.write"
    STATS_READ = "stats.read"
    MODELS_USE = "models.use"
    """Ask the models that are served beside the Studio, and list them."""


class Role(StrEnum):
    """What somebody is in an org, from least to most."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    ADMIN = "admin"
    OWNER = "owner"

    @property
    def rank(self) -> int:
        """Higher may more."""
        return _RANKS[self]


class KeyScope(StrEnum):
    """What an API key may be used for."""

    FULL = "full"
    READ = "read"
    EXECUTE = "execute"
    DEPLOY = "deploy"


_RANKS = {role: rank for rank, role in enumerate(Role)}
_P = Permission
_VIEWER = frozenset(
    {_P.SELF, _P.ORG_READ, _P.MEMBERS_READ, _P.PIPELINES_READ, _P.RUNS_READ, _P.REGISTRY_READ, _P.STATS_READ}
)
_DEVELOPER = _VIEWER | {
    _P.KEYS_READ, _P.KEYS_WRITE, _P.PIPELINES_WRITE, _P.PIPELINES_PUBLISH, _P.RUNS_START, _P.RUNS_CONTROL,
    _P.RUNS_DELETE, _P.DEBUG_CONTROL, _P.REGISTRY_WRITE, _P.SECRETS_READ, _P.MODELS_USE,
}  # fmt: skip
_ADMIN = _DEVELOPER | {_P.ORG_WRITE, _P.MEMBERS_WRITE, _P.KEYS_MANAGE, _P.AUDIT_READ, _P.SECRETS_WRITE}

ROLES: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.DEVELOPER: _DEVELOPER,
    Role.ADMIN: _ADMIN,
    Role.OWNER: _ADMIN | {_P.ORG_CREATE},
}
"""Role → permissions. Only an owner makes, changes or removes an owner: that is in `people`."""

SCOPES: dict[KeyScope, frozenset[Permission]] = {
    KeyScope.FULL: frozenset(Permission),
    KeyScope.READ: frozenset({_P.SELF, *(each for each in Permission if each.endswith(".read"))}),
    KeyScope.EXECUTE: frozenset(
        {_P.SELF, _P.ORG_READ, _P.PIPELINES_READ, _P.REGISTRY_READ, _P.STATS_READ}
        | {_P.RUNS_READ, _P.RUNS_START, _P.RUNS_CONTROL, _P.MODELS_USE}
    ),
    KeyScope.DEPLOY: frozenset(
        {_P.SELF, _P.ORG_READ, _P.PIPELINES_READ, _P.PIPELINES_WRITE, _P.PIPELINES_PUBLISH}
        | {_P.REGISTRY_READ, _P.REGISTRY_WRITE}
    ),
}
"""Scope → permissions. A key with several scopes may what any of them allows, and never more than its role."""


def permissions_of(role: Role, scopes: Iterable[KeyScope] = (KeyScope.FULL,)) -> frozenset[Permission]:
    """What a role may through a key with these scopes."""
    allowed: frozenset[Permission] = frozenset().union(*(SCOPES[scope] for scope in scopes))
    return ROLES[role] & allowed


def as_role(text: str) -> Role:
    """The role of a name. Raises `UsageError` for an unknown one."""
    try:
        return Role(text)
    except ValueError:
        raise UsageError(f"no such role: {text!r}", help=_hint(text, list(Role))) from None


def as_scopes(texts: Iterable[str]) -> tuple[KeyScope, ...]:
    """The scopes of names, each once, in the table's order. Raises `UsageError` for an unknown one or for none."""
    given = set()
    for text in texts:
        try:
            given.add(KeyScope(text))
        except ValueError:
            raise UsageError(f"no such scope: {text!r}", help=_hint(text, list(KeyScope))) from None
    if not given:
        raise UsageError("a key needs at least one scope", help=f"One of {', '.join(KeyScope)}.")
    return tuple(scope for scope in KeyScope if scope in given)


def _hint(text: str, known: list[str]) -> str:
    near = did_you_mean(text, known)
    return f"Did you mean {near!r}?" if near else f"One of {', '.join(known)}."
