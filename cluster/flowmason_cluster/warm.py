"""The warm cluster: one Ray on this machine that `fm cluster up` starts and every `fm run` finds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from flowmason.errors import EngineUnavailableError
from flowmason.places import home_dir
from flowmason_cluster import tokens

_START_S = 90.0
_STOP_S = 20.0
_DASHBOARD_PORT = 8265
_NOT_FOR_WORKERS = ("DATABASE_URL", "PGPASSWORD", "JWT_SECRET", "RAY_ADDRESS", "RAY_AUTH_TOKEN")


class ClusterState(msgspec.Struct, omit_defaults=True):
    """What is remembered of the cluster in `cluster.json` in FLOWMASON_HOME."""

    address: str
    """`host:port` of the GCS."""
    pids: list[int]
    """The process that supervises the others first."""
    born: int
    """When the supervisor was started, in the kernel's ticks: another process with its pid is not it."""
    token_path: str
    dashboard: str | None = None
    started_at: int = 0
    """Milliseconds since the epoch."""


def state_file(environ: Mapping[str, str]) -> Path:
    """Where the warm cluster is remembered."""
    return home_dir(environ) / "cluster.json"


def running() -> ClusterState | None:
    """The cluster that `fm cluster up` started, if it is still alive."""
    try:
        state = msgspec.json.decode(state_file(os.environ).read_bytes(), type=ClusterState)
    except (OSError, msgspec.DecodeError):
        return None
    return state if state.pids and born(state.pids[0]) == state.born else None


def born(pid: int) -> int | None:
    """When a process was started, in ticks since the machine's; None: there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def up(*, num_cpus: int | None = None, dashboard: bool = True) -> tuple[ClusterState, bool]:
    """Start the cluster, or find it running. Blocks. Returns its state and whether it was started now.

    Raises `EngineUnavailableError` where it does not start.
    """
    known = running()
    if known is not None:
        return known, False
    try:
        import ray._private.services as services
    except ImportError as error:
        raise EngineUnavailableError("Ray is not installed", help="pip install 'flowmason[ray]'.") from error
    port, panel = _free_port(), _free_port(_DASHBOARD_PORT) if dashboard else 0
    home = home_dir(os.environ)
    variables = {**os.environ, **tokens.ours(os.environ), "PATH": _path()}
    environ = {name: text for name, text in variables.items() if name not in _NOT_FOR_WORKERS}
    log = home / "logs" / "cluster.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += [
        f"--ray-client-server-port={_free_port()}",
        "--disable-usage-stats",
        f"--include-dashboard={'true' if dashboard else 'false'}",
    ]
    if dashboard:
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={panel}"]
    if num_cpus is not None:
        command.append(f"--num-cpus={num_cpus}")
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,
            cwd="/",
        )
    try:
        address = f"{node_ip(services)}:{port}"
        _await_start(supervisor, address, panel, log)
    except BaseException:
        _end(supervisor.pid, _family(supervisor.pid))
        raise
    state = ClusterState(
        address=address,
        pids=[supervisor.pid, *_family(supervisor.pid)],
        born=born(supervisor.pid) or 0,
        token_path=environ["RAY_AUTH_TOKEN_PATH"],
        dashboard=f"http://127.0.0.1:{panel}" if dashboard else None,
        started_at=time.time_ns() // 1_000_000,
    )
    draft = state_file(os.environ).with_suffix(f".{os.getpid()}")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    draft.chmod(0o600)
    draft.replace(state_file(os.environ))
    return state, True


def down() -> ClusterState | None:
    """End the cluster, by the ids of its own processes. Blocks. Returns what was ended."""
    state = running()
    if state is not None:
        _end(state.pids[0], [*state.pids[1:], *_family(state.pids[0])])
        _forget_current(state.address)
    state_file(os.environ).unlink(missing_ok=True)
    return state


def _await_start(supervisor: subprocess.Popen[bytes], address: str, panel: int, log: Path) -> None:
    """Wait until everything answers."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _START_S
    while supervisor.poll() is None and time.monotonic() < deadline:
        begun = "Ray runtime started" in log.read_text(errors="replace")
        if begun and _answers(host, int(port)) and (not panel or _answers("127.0.0.1", panel)):
            return
        time.sleep(0.1)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise EngineUnavailableError(f"Ray did not start: {lines[-1] if lines else 'it said nothing'}", help=f"See {log}.")


def node_ip(services: Any) -> str:
    """The address that Ray gives this machine; it listens there, whatever it is told."""
    return str(services.get_node_ip_address())


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _free_port(preferred: int = 0) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EngineUnavailableError("no free port")


def _path() -> str:
    """`bin` of this environment first, so that jobs find `fm` and the right `python`."""
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    return path if path.split(os.pathsep)[0] == own else f"{own}{os.pathsep}{path}"


def _family(supervisor: int) -> list[int]:
    """The processes of the supervisor's session: it was given one of its own."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == supervisor:
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == supervisor and fields[0] != "Z":
            found.append(int(entry.name))
    return sorted(found)


def _end(supervisor: int, others: list[int]) -> None:
    marks = {pid: mark for pid in [supervisor, *others] if (mark := born(pid)) is not None}
    _signal([supervisor], signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while time.monotonic() < deadline and any(born(pid) == mark for pid, mark in marks.items()):
        if born(supervisor) != marks.get(supervisor):
            # What outlives its supervisor for long was missed by it.
            deadline = min(deadline, time.monotonic() + 2.0)
        _reap(supervisor)
        time.sleep(0.05)
    _signal([pid for pid, mark in marks.items() if born(pid) == mark], signal.SIGKILL)
    _reap(supervisor)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _reap(pid: int) -> None:
    """The supervisor may be our own child."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _forget_current(address: str) -> None:
    """Ray's own note of the machine's cluster, where it is ours; `ray stop` would delete it, too."""
    note = Path("/tmp/ray/ray_current_cluster")
    try:
        if note.read_text().strip() == address:
            note.unlink()
    except OSError:
        return
