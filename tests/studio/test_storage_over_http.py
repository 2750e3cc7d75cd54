"""How much an org keeps is told, and old runs go when it wishes; upkeep does it for all orgs."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flowmason.ids import OrgId, sha256
from flowmason.studio import schema
from flowmason.studio.identity.permissions import Role
from flowmason.studio.sealing import Sealer, key_id
from flowmason_serve_apps.studio.sizes import Size, Sizes
from flowmason_serve_apps.studio.upkeep import Upkeep
from studio.conducting import conducting, ended, hello, made, started
from studio.kit import Studio
from studio.parrots import parrots, upload

DAY_MS = 24 * 3600 * 1000


def told(studio: Studio, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer = studio.client.get("/api/v1/storage", headers=headers or studio.headers(Role.VIEWER))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def wish(studio: Studio, role: Role = Role.ADMIN, **body: Any) -> Any:
    return studio.client.put("/api/v1/storage/retention", json=body, headers=studio.headers(role))


def upkeep(studio: Studio) -> Upkeep:
    settings = studio.services.settings
    return Upkeep({**os.environ, "DATABASE_URL": settings.database_url, "FLOWMASON_VALUES_URL": settings.values_url})


def age(studio: Studio, run_id: str, days: int) -> None:
    changed = sa.text("UPDATE runs SET updated_at = updated_at - :by WHERE run_id = :run")
    with studio.services.store.system() as system:
        system.execute(changed.bindparams(by=days * DAY_MS, run=run_id))


def test_what_is_kept_is_told_to_its_org_alone(studio: Studio) -> None:
    before = told(studio)
    assert (before["runs"], before["events"], before["journal_bytes"], before["values"]) == (0, 0, 0, 0)
    assert before["retention"] == {"days": None, "min_kept": 0}
    with conducting(studio.services.settings):
        ended(studio, started(studio, made(studio, hello())["id"])["id"])
    after = told(studio)
    assert after["runs"] == 1 and after["events"] >= 4 and after["journal_bytes"] > 100
    assert after["values"] >= 1 and after["value_bytes"] > 100
    assert told(studio, studio.other_headers())["runs"] == 0


async def test_what_took_long_to_count_is_remembered_for_a_while_and_counted_once_for_all(studio: Studio) -> None:
    clock, counts = 0.0, 0
    sizes = Sizes(studio.services.runs, studio.services.values, lambda: 7, monotonic=lambda: clock)
    counted = sizes._count

    async def slowly(org_id: OrgId) -> Size:
        nonlocal clock, counts
        counts, clock = counts + 1, clock + took
        return await counted(org_id)

    sizes._count = slowly  # type: ignore[method-assign]
    took = 0.01
    for _ in range(2):
        assert (await sizes.of(studio.org)).counted_at == 7
    assert counts == 2, "what is quick is always true"
    took = 2.0
    found = await asyncio.gather(*(sizes.of(studio.org) for _ in range(5)))
    assert counts == 3 and found == [found[0]] * 5
    clock += 199
    assert await sizes.of(studio.org) is found[0]
    clock += 2
    await sizes.of(studio.org)
    assert counts == 4


def test_old_runs_go_but_for_the_latest(studio: Studio) -> None:
    with conducting(studio.services.settings):
        pipeline_id = made(studio, hello())["id"]
        runs = [started(studio, pipeline_id)["id"] for _ in range(4)]
        for run_id in runs:
            ended(studio, run_id)
    for days, run_id in zip((50, 40, 35, 1), runs, strict=True):
        age(studio, run_id, days)
    assert asyncio.run(upkeep(studio).delete_runs()) == 0
    assert wish(studio, days=30, min_kept=2).json() == {"days": 30, "min_kept": 2}
    assert told(studio)["retention"] == {"days": 30, "min_kept": 2}
    assert asyncio.run(upkeep(studio).delete_runs()) == 2
    assert asyncio.run(upkeep(studio).delete_runs()) == 0
    listed = studio.client.get("/api/v1/runs", headers=studio.headers()).json()["items"]
    assert {each["id"] for each in listed} == set(runs[2:])
    wish(studio, days=30)
    assert asyncio.run(upkeep(studio).delete_runs()) == 1
    wish(studio, days=None)
    age(studio, runs[3], 900)
    assert asyncio.run(upkeep(studio).delete_runs()) == 0


def test_who_may_say_for_how_long(studio: Studio) -> None:
    assert wish(studio, Role.DEVELOPER, days=1).status_code == 403
    for body in ({"days": 0}, {"min_kept": -1}, {"days": "soon"}, {"forever": True}):
        assert wish(studio, **body).status_code == 422
    assert studio.client.get("/api/v1/storage/retention", headers=studio.headers()).json()["days"] is None
    with studio.services.store.scope(studio.org) as scope:
        scope.change(schema.orgs, settings='{"other": {"kept": 1}}')
    wish(studio, days=3)
    with studio.services.store.scope(studio.org) as scope:
        row = scope.one(schema.orgs)
        assert row is not None and '"other":{"kept":1}' in row["settings"].replace(" ", "")


def test_upkeep_exchanges_master_keys_and_leaves_packages(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, fresh = os.urandom(32), os.urandom(32)
    vars(studio.services)["sealer"] = Sealer([old])
    for headers in (studio.headers(), studio.other_headers()):
        body = {"value": "a value of four and more"}
        assert studio.client.put("/api/v1/secrets/key", json=body, headers=headers).status_code == 200
    keys = ",".join(base64.b64encode(key).decode() for key in (fresh, old))
    monkeypatch.setenv("FLOWMASON_MASTER_KEY", keys)
    assert (upkeep(studio).rewrap(), upkeep(studio).rewrap()) == (2, 0)
    with studio.services.store.system() as system:
        assert set(system.execute(sa.select(schema.secrets.c.key_id)).scalars()) == {key_id(fresh)}
    data = parrots(tmp_path)
    upload(studio, data)
    studio.services.values.delete(studio.org, sha256(data))
    asyncio.run(upkeep(studio).remove_values())
    assert studio.services.values.get(studio.org, sha256(data)) == data
