"""Which database: from URLs as people write them to URLs as the drivers want them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flowmason.errors import UsageError
from flowmason.places import state_dir

_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")


def default_journal_url(project_root: Path | None, environ: Mapping[str, str]) -> str:
    """`given_database`, else `flowmason.db` in the project's `.flowmason`, else in the home folder.

    Raises `UsageError` where the database would lie in a folder that dies with a Ray job.
    """
    given = given_database(environ)
    return (
        normalise_url(given) if given else f"sqlite:///{state_dir(project_root, environ).absolute() / 'flowmason.db'}"
    )


def given_database(environ: Mapping[str, str]) -> str | None:
    """`DATABASE_URL`, else what the file `DATABASE_URL_FILE` says; None where neither is set.

    The file is for places whose environment others can read: the head of a Ray cluster names it to the jobs that run
    there. Raises `UsageError` where it is set and cannot be read.
    """
    given, file = environ.get("DATABASE_URL"), environ.get("DATABASE_URL_FILE")
    if given or not file:
        return given or None
    try:
        return Path(file).read_text().strip() or None
    except OSError as error:
        raise UsageError(f"DATABASE_URL_FILE {file} cannot be read: {error.strerror or error}") from None


def normalise_url(url: str) -> str:
    """The URL as SQLAlchemy spells it: `sqlite:///…` or `postgresql+psycopg://…`.

    A plain path is a SQLite file. Raises `UsageError` for any other kind of database.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"sqlite:///{Path(url).expanduser().absolute()}"
    if scheme in _POSTGRES:
        return f"postgresql+psycopg://{rest}"
    if scheme == "sqlite":
        if not sqlite_path(url):
            raise UsageError(
                "a SQLite journal needs a file, as in sqlite:///state/flowmason.db",
                help="For a journal in memory use flowmason.journal_memory.MemoryJournal.",
            )
        return url
    raise UsageError(
        f"journals lie in SQLite or PostgreSQL, not in {scheme!r}",
        help="Write sqlite:///path/to/file.db or postgresql://user@host/database.",
    )


def sqlite_path(url: str) -> str:
    """The file of a `sqlite:///…` URL; empty where it names none."""
    path = unquote(url.partition("://")[2].partition("?")[0])
    path = path[1:] if path.startswith("/") else ""
    return "" if path == ":memory:" else path


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)
