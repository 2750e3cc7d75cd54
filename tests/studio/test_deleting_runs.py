"""An ended run is deleted with all it has; that, and who had started it, is noted in the same transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason.errors import Code, UsageError
from flowmason.ids import LOCAL_ORG, OrgId, RunId
from flowmason.journal_sql import SqlJournal, open_journal
from flowmason.studio import history
from flowmason.studio.identity import audit
from flowmason.studio.roles import ensure_api_role
from flowmason.studio.scope import StudioStore
from journal_samples import command, ended, new_run

OTHER = OrgId("org_other")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/f.db"
    server = request.getfixturevalue("postgres_server")
    found: str = server.url(server.new_database())
    return found


@pytest.fixture
async def journal(url: str) -> AsyncIterator[SqlJournal]:
    opened = open_journal(url)
    ensure_api_role(url)
    yield opened
    await opened.close()


@pytest.fixture
def store(journal: SqlJournal) -> Iterator[StudioStore]:
    opened = StudioStore.open(journal.url, role="api")
    yield opened
    opened.close()


def _delete(store: StudioStore, run_id: RunId, org: OrgId = LOCAL_ORG) -> bool:
    with store.scope(org) as scope:
        return history.delete(scope, run_id, by="key_1", now=5_000)


def _noted(store: StudioStore) -> list[tuple[str, Any]]:
    with store.scope(LOCAL_ORG, writing=False) as scope:
        return [(each.resource_id or "", each.details) for each in audit.entries(scope, limit=10)]


async def test_only_an_ended_run_is_deleted_and_noted(journal: SqlJournal, store: StudioStore) -> None:
    waiting = await journal.submit(new_run("w", idempotency_key="k0"))
    asked = await ended(journal, "asked")
    await journal.post(command(asked, "resume"))
    for run in (waiting, asked):
        with pytest.raises(UsageError, match="not ended") as refused:
            _delete(store, run.run_id)
        assert refused.value.failure.code == Code.CONFLICT
    assert (await journal.submit(new_run("w2", idempotency_key="k0"))).run_id == waiting.run_id
    assert _noted(store) == []
    old = await ended(journal, "old", idempotency_key="k")
    assert not _delete(store, old.run_id, OTHER)
    assert _delete(store, old.run_id)
    assert not _delete(store, old.run_id)
    assert await journal.row(old.run_id) is None and await journal.read(old.run_id) == []
    assert (await journal.submit(new_run("new", idempotency_key="k"))).run_id == "run_new"
    ((run_id, details),) = _noted(store)
    assert run_id == old.run_id and details["pipeline"] == old.pipeline and details["started_by"]


async def test_what_cannot_be_noted_is_not_deleted(
    journal: SqlJournal, store: StudioStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await ended(journal, "old")

    def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(audit, "record", dies)
    with pytest.raises(RuntimeError):
        _delete(store, old.run_id)
    assert await journal.row(old.run_id) == old
