"""The supervisor of a Studio on one machine: a small process that holds the Ray head and the keeper, and restarts them.

`python -m flowmason_serve_apps.studio.supervisor OPTIONS`. It imports no Ray: a driver would die with its cluster.
"""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO

import msgspec

from flowmason.database.urls import default_journal_url, without_password
from flowmason.errors import EngineUnavailableError, FlowMasonError
from flowmason.places import home_dir
from flowmason.values_fs import default_values_url
from flowmason_actors import head, processes, tokens
from flowmason_serve_apps.studio import redis_gcs, supervised
from flowmason_serve_apps.studio.supervised import StudioOptions, StudioPorts, StudioState

_LOOK_S = 0.25
_HEALTH_S = 1.0
_DEPLOY_S = 120.0
"""So long may the application be silent after a (re)start before everything is started anew."""
_SILENT_S = 30.0
"""So long may it be silent once it had answered."""
_STEADY_S = 60.0
"""What lives for so long counts as started well; what dies sooner is restarted later and later."""
_LONGEST_WAIT_S = 30.0
_KEEPER_STOP_S = 5.0
_OBJECT_STORE_BYTES = 256 * 1024 * 1024

LOG_FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"

log = logging.getLogger("flowmason.studio.supervisor")


class Stopped(BaseException):
    """The supervisor was told to end; raised where it is at that moment."""


class Supervisor:
    """Starts a Studio and keeps it up until it is told to end."""

    def __init__(self, options: StudioOptions) -> None:
        self._home = home_dir(os.environ).absolute()
        self._logs = supervised.logs_dir(os.environ)
        self._run_dir = head.make_temp_dir()
        self._ports: StudioPorts = supervised.choose_ports(options)
        self._options = msgspec.structs.replace(options, port=self._ports.http)
        self._environ: dict[str, str] = {}
        self._gcs = redis_gcs.storage(options.gcs_redis)
        self._head: head.Head | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._state = StudioState(
            pid=os.getpid(),
            born=processes.born(os.getpid()) or 0,
            options=self._options,
            url=supervised.url(self._options.host, self._ports.http),
            run_dir=str(self._run_dir),
            database=without_password(default_journal_url(None, os.environ)),
            values=default_values_url(None, os.environ),
            token_path=str(tokens.token_path(os.environ)),
            started_at=time.time_ns() // 1_000_000,
        )

    def run(self) -> None:
        """Start everything and keep it up. Blocks until SIGTERM or SIGINT.

        Raises `EngineUnavailableError` where it does not come up the first time; then nothing is left behind.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        waits = Waits()
        try:
            self._tell(phase="starting")
            self._start_head()
            while True:
                waits.begun()
                reason = self._watch()
                self._tell(phase="restarting", detail=reason)
                log.warning("restarting: %s", reason)
                self._state.restarts += 1
                # A cluster that lost its head has nothing to end in good order; its database has all that is true.
                self._end_children(within_s=1.0)
                time.sleep(waits.next())
                self._start_again(waits)
        except Stopped:
            log.info("told to end")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            self._tell(phase="stopping")
            self._end_children()
            redis_gcs.forget(self._gcs)
            shutil.rmtree(self._run_dir, ignore_errors=True)
            supervised.state_file(os.environ).unlink(missing_ok=True)

    # -- starting --------------------------------------------------------------------------------

    def _start_head(self) -> None:
        self._environ = supervised.environment(
            head.environment(os.environ, self._home), self._options, self._ports, self._run_dir, os.environ
        )
        self._environ |= redis_gcs.variables(self._gcs)
        self._head = head.start(
            self._ports.head,
            self._environ,
            self._logs / "head.log",
            temp_dir=self._run_dir,
            num_cpus=self._options.num_cpus,
            object_store_bytes=_OBJECT_STORE_BYTES,
            more=redis_gcs.flags(self._gcs),
        )
        self._state.address, self._state.dashboard = self._head.address, self._head.dashboard
        log.info("Ray is at %s", self._head.address)
        self._start_keeper()

    def _start_again(self, waits: Waits) -> None:
        """Start the head until it comes up: nobody else will."""
        while True:
            try:
                self._start_head()
                return
            except FlowMasonError as error:
                log.error("the head did not start: %s", error)
                self._tell(phase="restarting", detail=str(error))
                self._end_children()
                # Somebody may have taken one of its ports meanwhile.
                fresh = head.HeadPorts.free(dashboard=self._options.dashboard)
                self._ports = msgspec.structs.replace(self._ports, head=fresh)
                time.sleep(waits.next())

    def _start_keeper(self) -> None:
        assert self._head is not None
        module = "flowmason_serve_apps.studio.deploy"
        arguments = [self._head.address, msgspec.json.encode(self._options).decode()]
        with (self._logs / "keeper.log").open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ,
                start_new_session=True,
                cwd="/",
            )
        self._tell()

    # -- watching --------------------------------------------------------------------------------

    def _watch(self) -> str:
        """Look after everything until the whole has to be started anew; returns why."""
        assert self._head is not None
        known = processes.marks([self._head.pid, *processes.family(self._head.pid)])
        vital = {pid: name for pid in known if (name := _name(pid)) in ("gcs_server", "raylet")}
        keeper_waits, asked, answered = Waits(), 0.0, time.monotonic()
        patience = _DEPLOY_S
        keeper_waits.begun()
        while True:
            processes.reap(self._head.pid)
            if processes.born(self._head.pid) != self._head.born:
                return "the Ray head ended"
            for pid, name in vital.items():
                if processes.born(pid) != known[pid]:
                    return f"{name} ended"
            if self._keeper is not None and self._keeper.poll() is not None:
                log.warning("the keeper ended with %d", self._keeper.returncode)
                time.sleep(keeper_waits.next())
                self._start_keeper()
                keeper_waits.begun()
            now = time.monotonic()
            if now - asked >= _HEALTH_S:
                asked = now
                if is_healthy(self._options.host, self._ports.http):
                    answered, patience = now, _SILENT_S
                    if self._state.phase != "running":
                        self._tell(phase="running")
                        log.info("answers at %s", self._state.url)
                elif now - answered > patience:
                    return f"the Studio did not answer for {patience:g} s"
            time.sleep(_LOOK_S)

    def _tell(self, phase: str | None = None, detail: str | None = None) -> None:
        if phase is not None:
            self._state = msgspec.structs.replace(self._state, phase=phase)
        if detail is not None:
            self._state.detail = detail
        leaders = [self._head.pid] if self._head else []
        leaders += [self._keeper.pid] if self._keeper else []
        self._state.children = processes.marks(leaders)
        supervised.remember(self._state, os.environ)

    # -- ending ----------------------------------------------------------------------------------

    def _end_children(self, *, within_s: float = head.STOP_S) -> None:
        """End the keeper, then the head with everything that it started."""
        if self._keeper is not None:
            processes.end(self._keeper.pid, processes.family(self._keeper.pid), within_s=min(_KEEPER_STOP_S, within_s))
            self._keeper = None
        if self._head is not None:
            processes.end(self._head.pid, processes.family(self._head.pid), within_s=within_s)
            # What was orphaned while we looked.
            processes.kill(processes.marks(processes.family(self._head.pid)))
            self._head = None


class Waits:
    """How long to wait before a restart: not at all after a long life, else longer and longer."""

    def __init__(self) -> None:
        self._wait = 0.0
        self._since = time.monotonic()

    def begun(self) -> None:
        """What is to be restarted has been started now."""
        self._since = time.monotonic()

    def next(self) -> float:
        """Seconds to wait."""
        if time.monotonic() - self._since >= _STEADY_S:
            self._wait = 0.0
        wait = self._wait
        self._wait = min(_LONGEST_WAIT_S, max(1.0, wait * 2))
        return wait


def is_healthy(host: str, port: int, *, timeout_s: float = 2.0) -> bool:
    """Whether the API answers its health route."""
    connection = http.client.HTTPConnection("127.0.0.1" if host in ("0.0.0.0", "::") else host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/health", headers={"Host": "127.0.0.1"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def lock(home: Path) -> IO[str] | None:
    """The lock that the supervisor of a home holds as long as it lives; None: another one has it."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = (home / "studio.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def end_leftovers() -> list[int]:
    """End what a supervisor that was killed left behind, by the ids and births it wrote down. Blocks."""
    state = supervised.remembered(os.environ)
    if state is None:
        return []
    ended = []
    for leader, mark in state.children.items():
        family = processes.family(leader)
        if processes.born(leader) in (mark, None):
            ended += [leader, *family]
            processes.end(leader, family, within_s=head.STOP_S)
    shutil.rmtree(state.run_dir, ignore_errors=True)
    supervised.state_file(os.environ).unlink(missing_ok=True)
    return ended


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _stop(number: int, frame: FrameType | None) -> None:
    # Asked once is enough; a second signal must not break the ending.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped


def supervise(options: StudioOptions) -> int:
    """Start a Studio and keep it up until this process is told to end; returns the exit code."""
    kept = lock(home_dir(os.environ).absolute())
    if kept is None:
        log.error("another Studio uses this FLOWMASON_HOME")
        return 4
    try:
        end_leftovers()
        Supervisor(options).run()
    except EngineUnavailableError as error:
        log.error("%s. %s", error, error.failure.help or "")
        return 4
    finally:
        kept.close()
    return 0


def main() -> int:
    """Supervise a Studio with `StudioOptions` as JSON, the private variables on stdin; returns the exit code."""
    os.environ.update(msgspec.json.decode(sys.stdin.buffer.read() or b"{}", type=dict[str, str]))
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    return supervise(msgspec.json.decode(sys.argv[1], type=StudioOptions))


if __name__ == "__main__":
    raise SystemExit(main())
