"""Servers that tests need, started on loopback for one test session."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_SETTINGS = "-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c shared_buffers=32MB"


class PostgresServer:
    """A private PostgreSQL server; `fsync` is off, so only the machine's own death could harm it."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._data = folder / "data"
        self._log = folder / "log"
        self._port = _free_port()
        self._databases = 0
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")
        self.start()

    def start(self) -> None:
        options = f"-p {self._port} {_SETTINGS}"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-o", options, "-l", str(self._log), "start")

    def stop(self, mode: str = "immediate") -> None:
        """End it; `immediate` is as sudden as SIGKILL for those connected."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def kill(self) -> None:
        """SIGKILL to the postmaster; those who serve connections notice, and go, by themselves."""
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def start_again(self) -> None:
        """Start after `kill`, as soon as what the killed server left behind is gone: its zombie, its shared memory."""
        deadline = time.monotonic() + 30.0
        while True:
            try:
                return self.start()
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/{name}"

    def new_database(self, template: str = "template1") -> str:
        """The name of a database that nobody has used."""
        import psycopg

        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return name

    def _run(self, program: str, *arguments: str) -> None:
        # The output goes to a file: a server started by pg_ctl would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            command = [*_as_somebody(), str(self._binaries / program), *arguments]
            done = subprocess.run(command, stdout=output, stderr=output, cwd="/", timeout=120)
            if done.returncode:
                output.seek(0)
                log = self._log.read_text() if self._log.exists() else ""
                raise RuntimeError(f"{program} failed: {output.read().decode()}\n{log[-2000:]}")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the session."""
    binaries = _find_binaries()
    if binaries is None:
        pytest.fail("PostgreSQL is not installed (no initdb found): run `make setup`", pytrace=False)
    # Not under pytest's own folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="flowmason-postgres-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        server = PostgresServer(binaries, folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database of the test's own."""
    return postgres_server.url(postgres_server.new_database())


def _find_binaries() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def _as_somebody() -> list[str]:
    # PostgreSQL refuses to run as root.
    return ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: object, timeout_s: float = 20.0) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError("it did not become true")
        time.sleep(0.01)
