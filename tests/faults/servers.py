"""A Redis server that a fault test may kill."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowmason_actors import processes

_START_S = 10.0


class RedisServer:
    """A private Redis on loopback, at the same port for as long as the test lives. Its log is append-only."""

    def __init__(self, folder: Path, name: str = "redis") -> None:
        self._data = folder / name
        self._log = folder / f"{name}.log"
        self._port = processes.free_port()
        self.url = f"redis://127.0.0.1:{self._port}"
        self._start()

    def kill(self) -> None:
        """SIGKILL; comes back when it is gone."""
        self._server.kill()
        self._server.wait(10)

    def start_again(self, *, empty: bool = False) -> None:
        """Start after `kill`; `empty`: as a Redis that keeps nothing on disk comes back."""
        if empty:
            shutil.rmtree(self._data)
        self._start()

    def _start(self) -> None:
        self._data.mkdir(exist_ok=True)
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._data)]
        command += ["--save", "", "--appendonly", "yes"]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not processes.answers("127.0.0.1", self._port):
            assert self._server.poll() is None and time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)


@contextmanager
def redis_server(folder: Path, name: str = "redis") -> Iterator[RedisServer]:
    """A Redis server whose files lie in a folder; killed in the end."""
    server = RedisServer(folder, name)
    try:
        yield server
    finally:
        server.kill()
