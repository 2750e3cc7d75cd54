"""On PostgreSQL the API's role, which row-level security binds to one org, does all that secrets and storage need."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from flowmason.ids import OrgId
from flowmason.journal_sql.tenant import Kept, RunStore
from flowmason.studio import rotation, schema, secrets, storage
from flowmason.studio.identity.callers import Caller
from flowmason.studio.identity.permissions import ROLES, Role
from flowmason.studio.roles import ensure_api_role
from flowmason.studio.scope import StudioStore
from flowmason.studio.sealing import Sealer
from flowmason.studio.secrets import StudioSecrets
from studio.kit import ACME, OTHER, people_in


def _caller(org: OrgId) -> Caller:
    return Caller(org_id=org, user_id="user_1", name="a@b.c", role=Role.OWNER, permissions=ROLES[Role.OWNER])


@pytest.mark.postgres
def test_secrets_and_storage_behind_row_level_security(postgres_url: str, tmp_path: Path) -> None:
    owner = StudioStore.open(postgres_url)
    for org, slug in ((ACME, "acme"), (OTHER, "other")):
        people_in(owner, org, slug)
    ensure_api_role(postgres_url)
    api = StudioStore.open(postgres_url, role="api")
    old, fresh = os.urandom(32), os.urandom(32)
    sealer, caller = Sealer([old]), _caller(ACME)
    for text in ("first value", "second value"):
        with api.scope(ACME) as scope:
            secrets.put(scope, sealer, caller, "key", text, 1)
    with api.scope(OTHER) as scope:
        assert secrets.listed(scope) == [] and secrets.read(scope, sealer, ["key"]) == {}
        secrets.put(scope, sealer, _caller(OTHER), "key", "of the other", 1)
    with api.scope(ACME) as scope:
        [info] = secrets.listed(scope)
        assert (info.version, info.versions) == (2, 2)
    found = StudioSecrets(lambda: owner, lambda: sealer)
    assert asyncio.run(found.values(ACME, {"key", "absent"})) == {"key": "second value"}
    assert asyncio.run(found.values(OTHER, {"key"})) == {"key": "of the other"}
    both = Sealer([fresh, old])
    assert secrets.rotate(api, both, caller, 2) == secrets.Rotated(rewrapped=1, dropped=1)
    assert rotation.rewrap_all(owner, both) == 1
    with api.scope(ACME, writing=False) as scope:
        assert secrets.read(scope, Sealer([fresh]), ["key"]) == {"key": "second value"}
    # The second wall: without an org the API's role sees no row at all.
    with api.system(writing=False) as system:
        assert list(system.execute(sa.select(schema.secrets))) == []
    with api.scope(ACME) as scope:
        storage.set_retention(scope, caller, storage.Retention(3, 1), 3)
        assert storage.retention_of(scope) == storage.Retention(3, 1)
        secrets.remove(scope, caller, "KEY", 4)

    async def kept() -> Kept:
        runs = RunStore.open(postgres_url)
        try:
            return await runs.org(ACME).kept()
        finally:
            await runs.close()

    assert asyncio.run(kept()) == Kept(0, 0, 0, 0)
    api.close()
    owner.close()
