"""The first org and its owner: made once in the life of a Studio, by a token that only its operator has seen."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from flowmason.errors import Code, UsageError
from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity import api_keys, audit, credentials, orgs, passwords, people
from flowmason.studio.scope import StudioStore

_tokens = schema.bootstrap_tokens.c


class First(msgspec.Struct, frozen=True, kw_only=True):
    """What the first owner holds."""

    org_id: OrgId
    user_id: str
    api_key: str
    """Shown here alone."""


def issue_bootstrap_token(store: StudioStore, now: int) -> str | None:
    """A token to print; one that was printed before does not count any more. None once the Studio has its first org."""
    token = credentials.new(credentials.BOOTSTRAP)
    with store.system() as system:
        used = sa.select(_tokens.token_hash).where(_tokens.used_at.is_not(None))
        if system.execute(used).first() is not None:
            return None
        system.execute(sa.delete(schema.bootstrap_tokens))
        system.execute(sa.insert(schema.bootstrap_tokens).values(token_hash=credentials.hashed(token), created_at=now))
    return token


def bootstrap(
    store: StudioStore,
    token: str,
    now: int,
    *,
    org_name: str,
    org_slug: str,
    email: str,
    name: str,
    password: str | None = None,
) -> First:
    """Make the first org with its owner. May take the time of a password hash.

    Raises `UsageError`: FORBIDDEN for a token that is not the printed one, CONFLICT where it was done before.
    """
    email = people.address(email)
    digest = credentials.hashed(token)
    with store.system(writing=False) as system:
        _check(list(system.execute(sa.select(schema.bootstrap_tokens)).mappings()), digest)
    if password is not None:
        passwords.acceptable(password, email)
    stored = None if password is None else passwords.hash_password(password)
    org_id = OrgId(credentials.new_id("org"))
    with store.scope(org_id) as scope:
        system = scope.system
        locked = sa.select(schema.bootstrap_tokens).order_by(_tokens.token_hash).with_for_update()
        _check(list(system.execute(locked).mappings()), digest)
        system.execute(sa.update(schema.bootstrap_tokens).values(used_at=now))
        user_id = people.add(system, email, name, now, password_hash=stored)
        if user_id is None:
            raise UsageError("there is a user with this address already", code=Code.CONFLICT)
        orgs.add(scope, org_name, org_slug, user_id, now)
        key = api_keys.add_first(scope, user_id, now)
        audit.record(scope, now, actor=user_id, action="system.bootstrap", resource_type="org", resource_id=org_id)
    return First(org_id=org_id, user_id=user_id, api_key=key)


def _check(tokens: list[sa.RowMapping], digest: str) -> None:
    if any(row["used_at"] is not None for row in tokens):
        raise UsageError("this Studio has been set up already", code=Code.CONFLICT)
    if digest not in {row["token_hash"] for row in tokens}:
        raise UsageError(
            "this is not the token that `fm studio start` printed last",
            code=Code.FORBIDDEN,
            help="Start the Studio again to have a new one printed.",
        )
