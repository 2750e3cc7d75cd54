"""What the keeper of a Studio does now and then."""

from __future__ import annotations

import hashlib
import time

import pytest
import sqlalchemy as sa

from flowmason.ids import Digest
from flowmason.studio import schema
from flowmason_serve_apps.studio.upkeep import SWEEP_S, Upkeep
from studio.kit import Studio


@pytest.fixture
def upkeep(studio: Studio) -> Upkeep:
    """That of the Studio's database and values."""
    settings = studio.services.settings
    return Upkeep({"DATABASE_URL": settings.database_url, "FLOWMASON_VALUES_URL": settings.values_url})


def test_tickets_that_are_over_are_deleted_and_others_kept(studio: Studio, upkeep: Upkeep) -> None:
    hour = 3_600_000
    now = time.time_ns() // 1_000_000
    with studio.services.store.scope(studio.org) as scope:
        for name, expires_at in (("over", now - hour), ("good", now + hour)):
            scope.add(schema.tickets, ticket_hash=name, caller="{}", expires_at=expires_at)
    upkeep.look()
    with studio.services.store.scope(studio.org, writing=False) as scope:
        assert [row["ticket_hash"] for row in scope.find(schema.tickets)] == ["good"]


async def test_values_that_no_run_mentions_are_removed_once_they_are_old(studio: Studio, upkeep: Upkeep) -> None:
    data = b"nobody wants this"
    studio.services.values.put(studio.org, Digest("sha256:" + hashlib.sha256(data).hexdigest()), data)
    assert await upkeep.remove_values() == 0, "younger than a day"
    assert await upkeep.remove_values(untouched_s=0.0) == 1


async def test_no_run_is_deleted_of_an_org_that_does_not_wish_it(studio: Studio, upkeep: Upkeep) -> None:
    with studio.services.store.system(writing=False) as system:
        assert system.execute(sa.select(sa.func.count()).select_from(schema.orgs)).scalar_one() == 2
    assert await upkeep.delete_runs() == 0


def test_trouble_is_logged_and_tried_again_when_it_is_due(caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    upkeep = Upkeep({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, lambda: clock[0])
    upkeep.look()
    upkeep.look()
    assert len(caplog.records) == 1
    clock[0] += SWEEP_S
    upkeep.look()
    assert len(caplog.records) == 2
