"""`fm studio` where nothing can be started, and `--dev`, which needs no Ray."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import StudioStore
from flowmason_serve_apps.studio import supervised
from studio.conducting import hello
from studio.kit import ACME, people_in

FM = [sys.executable, "-c", "from flowmason.cli import main; main()", "studio"]


def _environ(home: Path, **more: str) -> dict[str, str]:
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("FLOWMASON_", "RAY_")) and name not in ("DATABASE_URL", "REDIS_URL")
    }
    return {**kept, "FLOWMASON_HOME": str(home), "NO_COLOR": "1", **more}


def fm(home: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`fm studio` to its end."""
    return subprocess.run(
        [*FM, *args], env=_environ(home, **more), cwd=home, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield int(listener.getsockname()[1])


def test_a_taken_port_is_said_before_anything_is_started(tmp_path: Path, taken: int) -> None:
    done = fm(tmp_path, "start", "--port", str(taken))
    assert done.returncode == 4 and f"port {taken} is taken" in done.stderr and "--port N" in done.stderr
    assert not (tmp_path / "studio.json").exists() and not (tmp_path / "flowmason.db").exists()


def test_a_database_that_does_not_answer_is_said(tmp_path: Path) -> None:
    done = fm(tmp_path, "start", "--port", "0", DATABASE_URL="postgresql://me:hush@127.0.0.1:1/x")
    assert done.returncode == 4 and "cannot be reached" in done.stderr and "DATABASE_URL" in done.stderr
    assert "hush" not in done.stderr and "Traceback" not in done.stderr


def test_two_conductors_need_postgres(tmp_path: Path) -> None:
    done = fm(tmp_path, "start", "--port", "0", "--conductors", "2")
    assert done.returncode == 2 and "on SQLite there is one conductor" in done.stderr


def test_where_nothing_runs(tmp_path: Path) -> None:
    status = fm(tmp_path, "status", "--json")
    assert status.returncode == 4 and json.loads(status.stdout) == {"running": False, "healthy": False}
    assert fm(tmp_path, "restart").returncode == 4
    stopped = fm(tmp_path, "stop", "--json")
    assert stopped.returncode == 0 and json.loads(stopped.stdout) == {"stopped": False, "url": None}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_no_warning(host: str) -> None:
    assert supervised.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "studio.example.org"])
def test_whatever_else_is_listened_on_is_warned_of(host: str) -> None:
    assert not supervised.is_loopback(host)


def test_dev_answers_and_runs_pipelines_until_it_is_interrupted(tmp_path: Path) -> None:
    store = StudioStore.open(f"sqlite:///{tmp_path}/flowmason.db")
    key = people_in(store, ACME, "acme")[Role.OWNER]
    store.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (tmp_path / "log").open("w") as log:
        command = [*FM, "start", "--dev", "--host", "0.0.0.0", "--port", str(port)]
        process = subprocess.Popen(command, env=_environ(tmp_path), cwd=tmp_path, stdout=log, stderr=log)

    def ask(method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                assert ask("GET", "/health")["status"] == "healthy"
                break
            except urllib.error.URLError:
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
        pipeline = ask("POST", "/api/v1/pipelines", hello())
        run = ask("POST", f"/api/v1/pipelines/{pipeline['id']}/run", {"input": {}, "async_mode": False})
        assert run["status"] == "completed", run
        assert ask("POST", "/api/v1/auth/password/forgot", {"email": "owner@acme.example"}) is None
        again = fm(tmp_path, "start", "--dev", "--port", "0")
        assert again.returncode == 2 and "another Studio uses this FLOWMASON_HOME" in again.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
        said = (tmp_path / "log").read_text()
        assert "fm_reset_" in said, "in development mail is printed"
        assert "fm_bootstrap_" in said and "warning: with --host 0.0.0.0 other machines reach this Studio" in said
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)
