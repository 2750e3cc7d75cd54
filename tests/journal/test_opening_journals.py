"""Finding, opening and migrating the database of a journal."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from flowmason.database import default_journal_url, normalise_url
from flowmason.database.migrating import FOLDER, REVISIONS
from flowmason.errors import EngineUnavailableError, FormatError, JournalError, UsageError
from flowmason.journal_sql import open_journal
from flowmason.values_fs import default_values_url
from journal_samples import SQL, claimed, contiguous

_OPEN = """
import sys
from flowmason.journal_sql import open_journal
open_journal(sys.argv[1])
print(sorted(name for name in ("sqlalchemy", "alembic") if name in sys.modules))
"""


def test_the_journal_lies_in_the_project_else_at_home_unless_a_database_is_named(tmp_path: Path) -> None:
    home = {"FLOWMASON_HOME": str(tmp_path / "home")}
    assert default_journal_url(tmp_path, home) == f"sqlite:///{tmp_path}/.flowmason/flowmason.db"
    assert default_journal_url(None, home) == f"sqlite:///{tmp_path}/home/flowmason.db"
    assert default_journal_url(None, {}) == f"sqlite:///{Path.home()}/.flowmason/flowmason.db"
    assert default_values_url(tmp_path, home) == f"{tmp_path}/.flowmason/values"
    assert default_values_url(None, home | {"FLOWMASON_VALUES_URL": "s3://b/v"}) == "s3://b/v"
    named = home | {"DATABASE_URL": "postgres://me@db/flow"}
    assert default_journal_url(tmp_path, named) == "postgresql+psycopg://me@db/flow"


def test_a_project_that_dies_with_its_ray_job_keeps_its_journal_at_home(tmp_path: Path) -> None:
    session = tmp_path / "ray" / "session_2026-11-02_10-20-30_123456_99"
    project = session / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    home = {"FLOWMASON_HOME": str(tmp_path / "home")}
    assert default_journal_url(project, home) == f"sqlite:///{tmp_path}/home/flowmason.db"
    for default in (default_journal_url, default_values_url):
        with pytest.raises(UsageError, match="Ray's session directory"):
            default(project, {"FLOWMASON_HOME": str(session / "home")})


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_a_postgresql_url_is_understood(scheme: str) -> None:
    assert normalise_url(f"{scheme}://me:secret@db:5433/flow?x=1") == "postgresql+psycopg://me:secret@db:5433/flow?x=1"


@pytest.mark.parametrize("url", ["mysql://db/flow", "sqlite://", "sqlite:///:memory:"])
def test_other_databases_are_refused_with_help(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        normalise_url(url)
    assert caught.value.failure.help


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        open_journal("postgresql://me:hunter2@127.0.0.1:1/flow")
    assert "127.0.0.1:1/flow" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(JournalError, match="not a database"):
        open_journal(str(tmp_path / "x.db"))


def test_a_journal_in_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="folder"):
        open_journal(f"sqlite:///{tmp_path}/file/x.db")


async def test_a_new_journal_is_for_its_owner_alone(tmp_path: Path) -> None:
    journal = open_journal(f"sqlite:///{tmp_path}/new/home/flowmason.db")
    try:
        assert (tmp_path / "new" / "home").stat().st_mode & 0o777 == 0o700
        files = sorted((tmp_path / "new" / "home").iterdir())
        assert [file.name for file in files] == ["flowmason.db", "flowmason.db-shm", "flowmason.db-wal"]
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    finally:
        await journal.close()
    shared = tmp_path / "shared.db"
    shared.touch(0o640)
    await open_journal(f"sqlite:///{shared}").close()
    assert shared.stat().st_mode & 0o777 == 0o640, "as somebody made it"


def test_the_known_revisions_are_those_of_the_tree() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    tree = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tree[::-1] == list(REVISIONS)


async def test_tables_are_made_once_and_then_found_without_loading_the_migration_tools(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/50% full/flowmason.db"
    for wanted in (["alembic", "sqlalchemy"], []):
        done = subprocess.run([sys.executable, "-c", _OPEN, url], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(wanted)


@pytest.mark.parametrize("store", SQL)
async def test_several_processes_may_open_an_empty_database_at_once(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if store == "sqlite" else request.getfixturevalue("postgres_url")
    children = [
        subprocess.Popen([sys.executable, "-c", _OPEN, url], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for child in children:
        _, trouble = child.communicate(timeout=60)
        assert child.returncode == 0, trouble.decode()
    journal = open_journal(url)
    row = await claimed(journal)
    await contiguous(journal, row.run_id, 1)
    await journal.close()


def test_a_database_of_a_newer_flowmason_is_refused(tmp_path: Path, empty_sqlite: Path) -> None:
    path = tmp_path / "newer.db"
    path.write_bytes(empty_sqlite.read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num='9999'")
    connection.close()
    with pytest.raises(FormatError, match="9999"):
        open_journal(str(path))
