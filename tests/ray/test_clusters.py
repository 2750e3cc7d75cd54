"""The warm cluster of `fm cluster`, joining others' clusters, and what is refused there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowmason.errors import EngineUnavailableError
from flowmason_actors import head, processes, tokens
from flowmason_cluster import joining, warm

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.ray


def environment(home: Path, **more: str) -> dict[str, str]:
    left_out = ("RAY_", "FLOWMASON_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
    return {**kept, "FLOWMASON_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1]), **more}


def driver(address: str, root: Path, environ: Mapping[str, str], *, accept: str = "closed") -> dict[str, Any]:
    """What a process says that connects to `address` and runs something there."""
    command = [sys.executable, str(Path(__file__).with_name("driver.py")), address, accept, str(root)]
    done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def fm(*arguments: str, environ: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """`fm cluster …` with its exit code and its JSON."""
    command = [str(BIN / "fm"), "cluster", *arguments, "--json"]
    done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=150, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of those who have the warm cluster."""
    return environment(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="module")
def warm_cluster(environ: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What `fm cluster up` said."""
    _, found = fm("up", "--num-cpus", "2", environ=environ)
    yield found
    fm("down", environ=environ)


class TestTheWarmCluster:
    def test_it_is_told_where_it_is(self, warm_cluster: dict[str, Any], environ: dict[str, str]) -> None:
        assert warm_cluster["started"] and warm_cluster["dashboard"].startswith("http://127.0.0.1:")
        code, status = fm("status", environ=environ)
        assert code == 0 and status["running"] and status["address"] == warm_cluster["address"]
        home = Path(environ["FLOWMASON_HOME"])
        assert (home / "cluster.json").stat().st_mode & 0o777 == 0o600
        assert (home / "ray_token").stat().st_mode & 0o777 == 0o600

    def test_nobody_else_may_enter_the_folder_of_its_sockets(
        self, warm_cluster: dict[str, Any], environ: dict[str, str]
    ) -> None:
        kept = json.loads((Path(environ["FLOWMASON_HOME"]) / "cluster.json").read_bytes())
        assert list(Path(kept["temp_dir"]).rglob("raylet*"))  # that is where they are
        assert Path(kept["temp_dir"]).stat().st_mode & 0o077 == 0

    def test_a_second_up_finds_the_first(self, warm_cluster: dict[str, Any], environ: dict[str, str]) -> None:
        _, again = fm("up", environ=environ)
        assert again["started"] is False and again["pids"] == warm_cluster["pids"]

    def test_runs_find_it_and_their_host_stays_for_the_next(
        self, warm_cluster: dict[str, Any], environ: dict[str, str], tmp_path: Path
    ) -> None:
        root = tmp_path / "project"
        first = driver("-", root, environ)
        assert first["kind"] == "warm" and first["task"] == "ray::orders/named" and "orders/named" in first["seen"]
        assert driver("-", root, environ)["host"] == first["host"]

    def test_it_can_be_joined_with_its_token_only(
        self, warm_cluster: dict[str, Any], environ: dict[str, str], tmp_path: Path
    ) -> None:
        stranger = environment(tmp_path / "stranger")
        refused = driver(warm_cluster["address"], tmp_path / "a", stranger)
        assert refused["code"] == "ENGINE_UNAVAILABLE" and "does not accept our token" in refused["message"]
        stranger["RAY_AUTH_TOKEN_PATH"] = warm_cluster["token_path"]
        assert driver(warm_cluster["address"], tmp_path / "b", stranger)["kind"] == "joined"

    def test_down_ends_its_own_processes_and_no_others(
        self, warm_cluster: dict[str, Any], environ: dict[str, str]
    ) -> None:
        bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # raylet"])
        try:
            begun = time.monotonic()
            _, stopped = fm("down", environ=environ)
            assert stopped["stopped"] and time.monotonic() - begun < 50, "the bystander would have ended by itself"
            assert [pid for pid in warm_cluster["pids"] if processes.born(pid) is not None] == []
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()
        code, status = fm("status", environ=environ)
        assert status == {"running": False} and code == 4
        assert fm("down", environ=environ)[1]["stopped"] is False


@pytest.fixture(scope="module")
def open_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray that asks nobody for a token."""
    folder = tmp_path_factory.mktemp("open")
    port, client_port = _free_port(), _free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += [f"--ray-client-server-port={client_port}", "--include-dashboard=false", "--num-cpus=1"]
    command += ["--disable-usage-stats"]
    environ = environment(folder, RAY_AUTH_MODE="disabled", RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0")
    with (folder / "log").open("wb") as log:
        head = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    import ray._private.services

    services: Any = ray._private.services
    try:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in (folder / "log").read_text(errors="replace"):
            assert head.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"{services.get_node_ip_address()}:{port}"
    finally:
        family = processes.family(head.pid)
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(20)
        finally:
            for pid in family:
                if processes.born(pid) is not None:
                    os.kill(pid, signal.SIGKILL)


class TestOpenClusters:
    def test_an_open_ray_is_refused(self, open_address: str, tmp_path: Path) -> None:
        refused = driver(open_address, tmp_path / "project", environment(tmp_path))
        assert refused["code"] == "ENGINE_UNAVAILABLE" and "is open" in refused["message"]
        assert "--allow-open-ray" in refused["help"]

    def test_an_open_ray_is_used_where_that_is_accepted(self, open_address: str, tmp_path: Path) -> None:
        found = driver(open_address, tmp_path / "project", environment(tmp_path), accept="open")
        assert found["kind"] == "joined" and found["host"]


def test_an_address_where_nobody_listens_is_told() -> None:
    with pytest.raises(EngineUnavailableError, match="nobody answers at 127"):
        joining.resolve(f"127.0.0.1:{_free_port()}")


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "http://head:8265"])
def test_what_is_no_address_of_ray_is_told(address: str) -> None:
    with pytest.raises(EngineUnavailableError):
        joining.resolve(address)


def test_many_nodes_need_stores_that_all_of_them_reach() -> None:
    joining.refuse_many_nodes(1, "file:///tmp/values", {})
    with pytest.raises(EngineUnavailableError, match="2 nodes") as refused:
        joining.refuse_many_nodes(2, "file:///tmp/values", {})
    assert "DATABASE_URL" in str(refused.value.failure.help)
    assert "FLOWMASON_VALUES_URL" in str(refused.value.failure.help)
    with pytest.raises(EngineUnavailableError):
        joining.refuse_many_nodes(2, "s3://bucket/values", {"DATABASE_URL": "sqlite:///runs.db"})
    with pytest.raises(EngineUnavailableError, match="keeps its state on one of them"):
        # Where values lie when nobody says anything: a path, and no URL.
        joining.refuse_many_nodes(2, "/project/.flowmason/values", {"DATABASE_URL": "postgresql://db/runs"})
    joining.refuse_many_nodes(2, "s3://bucket/values", {"DATABASE_URL": "postgresql://db/runs"})
    shared = {"DATABASE_URL": "postgresql://db/runs", "FLOWMASON_VALUES_URL": "file:///mnt/shared"}
    joining.refuse_many_nodes(2, "file:///mnt/shared", shared)


def test_a_dead_cluster_is_no_warm_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path))
    state = {"address": "127.0.0.1:1", "pids": [os.getpid()], "born": 0, "token_path": ""}
    (tmp_path / "cluster.json").write_text(json.dumps(state))
    assert warm.running() is None
    (tmp_path / "cluster.json").write_text(json.dumps({**state, "born": processes.born(os.getpid())}))
    assert warm.running() is not None
    (tmp_path / "cluster.json").write_text("{")
    assert warm.running() is None


def test_what_a_killed_supervisor_left_behind_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMASON_HOME", str(tmp_path))
    supervisor, orphan, stranger = (subprocess.Popen(["sleep", "600"]) for _ in range(3))
    folder = head.make_temp_dir()
    (folder / "socket").touch()
    try:
        births = processes.marks([supervisor.pid, orphan.pid, stranger.pid])
        born = births[supervisor.pid]
        births[stranger.pid] -= 1  # a process of today that has a number of then
        supervisor.kill()
        supervisor.wait()
        state = warm.ClusterState(
            address="127.0.0.1:1",
            pids=list(births),
            born=born,
            token_path="",
            temp_dir=str(folder),
            births=births,
            boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        )
        file = tmp_path / "cluster.json"
        file.write_bytes(msgspec.json.encode(msgspec.structs.replace(state, boot="another", temp_dir=str(tmp_path))))
        assert warm.down() is None and processes.born(orphan.pid) is not None and tmp_path.is_dir()
        file.write_bytes(msgspec.json.encode(state))
        assert warm.down() is None
        orphan.wait(60)  # its exit code may have gone to whoever cleared it away, in this process as well
        assert processes.born(orphan.pid) is None and stranger.poll() is None
        assert not folder.exists() and not file.exists()
    finally:
        for process in (supervisor, orphan, stranger):
            process.kill()
            process.wait()


def test_a_token_of_the_environment_comes_before_ours(tmp_path: Path) -> None:
    environ = {"FLOWMASON_HOME": str(tmp_path)}
    assert tokens.theirs({**environ, "RAY_AUTH_TOKEN": "given"}).get("RAY_AUTH_TOKEN_PATH") is None
    first = tokens.token_path(environ).read_text()
    assert tokens.token_path(environ).read_text() == first and len(first) == 64
    assert tokens.ours(environ)["RAY_AUTH_MODE"] == "token"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
