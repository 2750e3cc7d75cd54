"""Starting and stopping a Studio from outside: what `fm studio` does with the supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from flowmason.database import database, default_journal_url
from flowmason.database.urls import given_database, sqlite_path
from flowmason.errors import EngineUnavailableError, UsageError
from flowmason.journal_sql.standing import Standing
from flowmason.journal_sql.store import open_tables
from flowmason.places import home_dir
from flowmason.values_fs import default_values_url
from flowmason_actors import head, processes
from flowmason_serve_apps.studio import supervised, supervisor
from flowmason_serve_apps.studio.supervised import StudioOptions, StudioState

START_S = 240.0
STOP_S = head.STOP_S + 15.0
_SERVER = "flowmason_serve_apps.studio.supervisor"

Tell = Callable[[str], None]


def prepare() -> str | None:
    """Bring the database to our tables, as the role that owns them; returns a bootstrap token where no org is there.

    Paths in the environment become absolute: what is started works in another folder. Raises
    `EngineUnavailableError` where no server answers or the API's role is missing.
    """
    from flowmason.studio.identity.bootstrap import issue_bootstrap_token
    from flowmason.studio.roles import ensure_api_role
    from flowmason.studio.scope import StudioStore

    url = default_journal_url(None, os.environ)
    if url.startswith("sqlite"):
        file = Path(sqlite_path(url)).absolute()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if given_database(os.environ):
            os.environ["DATABASE_URL"] = f"sqlite:///{file}"
    values = os.environ.get("FLOWMASON_VALUES_URL")
    if values and "://" not in values:
        os.environ["FLOWMASON_VALUES_URL"] = str(Path(values).absolute())
    os.environ["FLOWMASON_HOME"] = str(home_dir(os.environ).absolute())
    # Tables first, by the door that has a message for every way in which a database is not there.
    open_tables(database(url)).close()
    ensure_api_role(url)
    store = StudioStore.open(url)
    try:
        # That the API's role is there is better found out now than by a replica.
        StudioStore.open(url, role="api").close()
        return issue_bootstrap_token(store, time.time_ns() // 1_000_000)
    finally:
        store.close()


def check(options: StudioOptions) -> None:
    """Refuse what cannot work before anything is started. Raises `UsageError` and `EngineUnavailableError`."""
    if options.conductors > 1 and default_journal_url(None, os.environ).startswith("sqlite"):
        raise UsageError(
            f"on SQLite there is one conductor, not {options.conductors}",
            help="Set DATABASE_URL to a PostgreSQL database for more.",
        )
    supervised.require_free(options)


def start(options: StudioOptions, tell: Tell) -> StudioState:
    """Start the supervisor and wait until the API answers. Blocks. `prepare` comes first.

    Raises `EngineUnavailableError` where it does not come up; then nothing is left behind.
    """
    log = supervised.logs_dir(os.environ) / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    begun = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", _SERVER, msgspec.json.encode(options).decode()],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            # Whoever runs under the same user, a component for one, reads what a process was started with.
            env={name: text for name, text in os.environ.items() if name not in supervised.PRIVATE},
        )
    private = {name: os.environ[name] for name in supervised.PRIVATE if name in os.environ}
    assert started.stdin is not None
    with suppress(BrokenPipeError), started.stdin as given:
        given.write(msgspec.json.encode(private))
    try:
        return _await(started, tell, log, begun)
    except BaseException:
        if started.poll() is None:
            processes.end(started.pid, [], within_s=STOP_S)
        raise


def await_running(tell: Tell) -> StudioState:
    """Wait for a Studio that somebody else has started. Blocks. Raises `EngineUnavailableError`."""
    return _await(None, tell, supervised.logs_dir(os.environ) / "supervisor.log", 0)


def _await(started: subprocess.Popen[bytes] | None, tell: Tell, log: Path, begun: int) -> StudioState:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        ended = started is not None and started.poll() is not None
        state = supervised.running(os.environ)
        if state is not None and state.phase == "running":
            return state
        if ended and state is None:
            break
        if started is None and state is None:
            break
        tell("starting Ray" if state is None or state.address is None else "starting the API")
        time.sleep(0.1)
    said = [line for line in log.read_text(errors="replace")[begun:].splitlines() if " ERROR " in line]
    reason = said[-1].partition(" ERROR ")[2] if said else "it did not answer in time"
    raise EngineUnavailableError(f"the Studio did not start: {reason}", help=f"See {log.parent}.")


def conductors() -> list[Standing] | None:
    """How the conductors of this home's database stand; None where it cannot be asked. Blocks."""
    from flowmason.journal_sql.standing import standings

    try:
        return standings(database(default_journal_url(None, os.environ)))
    except Exception:  # of whatever driver: the status says that much, and goes on
        return None


def stop() -> StudioState | None:
    """End the Studio of this home, or what a killed supervisor left of it. Blocks. Returns what was ended."""
    state = supervised.remembered(os.environ)
    if state is None:
        return None
    if supervised.running(os.environ) is not None:
        processes.end(state.pid, [], within_s=STOP_S)
    # Nothing is left where the supervisor ended by itself.
    supervisor.end_leftovers()
    return state


def same_stores(state: StudioState) -> None:
    """Refuse to start a Studio again on another database than it had. Raises `UsageError`."""
    from flowmason.database.urls import without_password

    here = {
        "DATABASE_URL": without_password(default_journal_url(None, os.environ)),
        "FLOWMASON_VALUES_URL": default_values_url(None, os.environ),
    }
    for (name, now), before in zip(here.items(), (state.database, state.values), strict=True):
        if before and now != before:
            raise UsageError(
                f"the Studio was started on {before}, and {name} means {now} here",
                help=f"Set {name} as it was, or stop the Studio and start it anew.",
            )
