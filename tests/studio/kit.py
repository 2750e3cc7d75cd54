"""A Studio's app on a SQLite file of the test's own, with two orgs and, in each, one API key for every role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from flowmason.ids import OrgId
from flowmason.studio import schema
from flowmason.studio.identity import credentials
from flowmason.studio.identity.permissions import KeyScope, Role
from flowmason.studio.roles import ensure_api_role
from flowmason.studio.scope import StudioStore
from flowmason.values_fs import open_values
from flowmason_serve_apps.studio.app import make_app
from flowmason_serve_apps.studio.services import Services
from flowmason_serve_apps.studio.settings import StudioSettings

ACME, OTHER = OrgId("org_" + "a" * 24), OrgId("org_" + "b" * 24)
HOST = "127.0.0.1"


@dataclass
class Studio:
    """An app that answers, and what tests need to talk to it."""

    app: FastAPI
    client: TestClient
    """Starts and ends the app; sends no credential by itself."""
    services: Services
    keys: dict[Role, str]
    """An API key of each role in `org`, scope full."""
    other_keys: dict[Role, str]
    """The same in another org."""
    org: OrgId = ACME
    other: OrgId = OTHER

    def headers(self, role: Role = Role.OWNER) -> dict[str, str]:
        """The headers of a caller of a role in `org`."""
        return {"Authorization": f"Bearer {self.keys[role]}"}

    def other_headers(self, role: Role = Role.OWNER) -> dict[str, str]:
        """The headers of a caller of a role in the other org."""
        return {"Authorization": f"Bearer {self.other_keys[role]}"}


def settings_in(folder: Path) -> StudioSettings:
    """Settings of a Studio that lives in a folder."""
    return StudioSettings(
        database_url=f"sqlite:///{folder / 'studio.db'}",
        values_url=str(folder / "values"),
        # Sockets of the test client come under that name, whatever its base URL is.
        allowed_hosts=("127.0.0.1", "localhost", "testserver"),
    )


@contextmanager
def studio_in(folder: Path, settings: StudioSettings | None = None) -> Iterator[Studio]:
    """A Studio in a folder, started."""
    settings = settings or settings_in(folder)
    owner = StudioStore.open(settings.database_url)
    keys = people_in(owner, ACME, "acme")
    other_keys = people_in(owner, OTHER, "other")
    owner.close()
    if not settings.database_url.startswith("sqlite"):
        ensure_api_role(settings.database_url)
    store = StudioStore.open(settings.database_url, role="api")
    services = Services(settings, store, open_values(settings.values_url))
    app = make_app(settings, services)
    with TestClient(app, base_url=f"http://{HOST}") as client:
        yield Studio(app, client, services, keys, other_keys)


def people_in(store: StudioStore, org: OrgId, slug: str) -> dict[Role, str]:
    """Make an org with a user of every role; returns an API key of each."""
    now = 1_700_000_000_000
    with store.scope(org) as scope:
        scope.add(schema.orgs, name=slug.title(), slug=slug, plan="free", settings="{}", created_at=now)
        for role in Role:
            user = credentials.new_id("user")
            person = {"user_id": user, "email": f"{role}@{slug}.example", "name": role.title(), "created_at": now}
            scope.system.execute(sa.insert(schema.users).values(**person))
            scope.add(
                schema.members, member_id=credentials.new_id("mem"), user_id=user, role=role.value, created_at=now
            )
    return {role: key_of(store, org, role) for role in Role}


def key_of(store: StudioStore, org: OrgId, role: Role, *scopes: KeyScope) -> str:
    """A new API key of the member with a role; of scope full unless others are given."""
    key = credentials.new(credentials.API_KEY)
    with store.scope(org) as scope:
        member = scope.one(schema.members, schema.members.c.role == role.value)
        assert member is not None
        scope.add(
            schema.api_keys,
            key_id=credentials.new_id("key"),
            user_id=member["user_id"],
            name=f"{role} in tests",
            prefix=key[: credentials.SHOWN],
            key_hash=credentials.hashed(key),
            scopes=" ".join(scopes or (KeyScope.FULL,)),
            role=role.value,
            created_at=1_700_000_000_000,
        )
    return key
