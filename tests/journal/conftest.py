"""One journal per test, on each of the three stores."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowmason.journal import Journal
from flowmason.journal_memory import MemoryJournal
from flowmason.journal_sql import SqlJournal, open_journal
from journal_samples import ALL, Opener
from services import PostgresServer


@pytest.fixture(params=ALL)
def store(request: pytest.FixtureRequest) -> str:
    """The kind of store; a module about SQL alone parametrises it with `SQL`."""
    return str(request.param)


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with tables and nothing in them, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "journal.db"
    _make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def empty_postgres(postgres_server: PostgresServer) -> str:
    """A PostgreSQL database with tables and nothing in them, to be copied."""
    name = postgres_server.new_database()
    _make_tables(postgres_server.url(name))
    return name


def _make_tables(url: str) -> None:
    journal = open_journal(url)
    journal._close()


@pytest.fixture
def store_url(request: pytest.FixtureRequest, store: str, tmp_path: Path) -> str:
    """The URL of a fresh store; empty for the one in memory."""
    if store == "memory":
        return ""
    if store == "sqlite":
        path = tmp_path / "journal.db"
        shutil.copy(request.getfixturevalue("empty_sqlite"), path)
        return f"sqlite:///{path}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.url(server.new_database(request.getfixturevalue("empty_postgres")))


@pytest.fixture
async def open_another(store_url: str) -> AsyncIterator[Opener]:
    """Open one more journal on the same store, as another process would."""
    opened: list[Journal] = []
    memory = MemoryJournal()

    def opener() -> Journal:
        if not store_url:
            return memory
        opened.append(open_journal(store_url, patience_s=20))
        return opened[-1]

    yield opener
    for journal in opened:
        await journal.close()


@pytest.fixture
async def journal(open_another: Opener) -> Journal:
    """A journal on a fresh store."""
    return open_another()


@pytest.fixture
async def sql(open_another: Opener) -> SqlJournal:
    """The same where only SQL stores are meant."""
    journal = open_another()
    assert isinstance(journal, SqlJournal)
    return journal
