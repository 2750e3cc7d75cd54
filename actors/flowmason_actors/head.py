"""A Ray head on this machine: its command, its environment, and waiting until it works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from flowmason.database.urls import given_database
from flowmason.errors import EngineUnavailableError
from flowmason_actors import processes, tokens

START_S = 90.0
_TEMP = "fm-ray-"
STOP_S = 20.0
DASHBOARD_PORT = 8265
RAYS_OWN = "r"
"""Ray's folder in that of `make_temp_dir`."""
_NODE_IP = re.compile(r"Local node IP: ([0-9A-Fa-f.:]+)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "20"}
"""A job that is stopped cancels its run as Ctrl-C does, and gets the time to record that."""
_NOT_FOR_WORKERS = (
    "DATABASE_URL",
    "PGPASSWORD",
    "JWT_SECRET",
    "RAY_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_API_SERVER_ADDRESS",
)


class HeadPorts(msgspec.Struct, frozen=True):
    """Where a head listens. None of them is a default of Ray's, so that two heads fit on one machine."""

    gcs: int
    client: int
    agent: int
    """Of the agent that takes jobs."""
    dashboard: int | None

    @classmethod
    def free(cls, *, dashboard: bool = True) -> HeadPorts:
        """Ports that nobody has open; the dashboard's is Ray's usual one where that is free."""
        panel = processes.free_port(DASHBOARD_PORT) if dashboard else None
        return cls(processes.free_port(), processes.free_port(), processes.free_port(), panel)


class Head(msgspec.Struct, frozen=True):
    """A head that was started."""

    pid: int
    """The process that supervises the others; it leads a session."""
    born: int
    address: str
    """`host:port` of the GCS."""
    dashboard: str | None


def environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """What the processes of a head see, and the jobs that run there.

    The database goes by a file: every worker inherits this environment, and only the driver of a job asks for it.
    """
    variables = {**environ, "FLOWMASON_HOME": str(home), "PATH": _path(environ)}
    variables |= {**tokens.ours(variables), **STOPPING}
    database = given_database(environ)
    if database:
        kept = processes.write_private(home / "database_url", database.encode())
        variables["DATABASE_URL_FILE"] = str(kept)
    return {name: text for name, text in variables.items() if name not in _NOT_FOR_WORKERS}


def start(
    ports: HeadPorts,
    environ: Mapping[str, str],
    log: Path,
    *,
    temp_dir: Path,
    num_cpus: int | None = None,
    object_store_bytes: int | None = None,
    more: Sequence[str] = (),
) -> Head:
    """Start a head and wait until everything of it answers. Blocks.

    `environ` is what `environment` makes; `log` takes what Ray prints; `temp_dir` is from `make_temp_dir`, `more` are
    further flags of `ray start`. Raises `EngineUnavailableError` where Ray is not installed or does not start; then no
    process is left behind.
    """
    if find_spec("ray") is None:
        raise EngineUnavailableError("Ray is not installed", help="pip install 'flowmason[ray]'.")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={ports.gcs}"]
    command += [f"--ray-client-server-port={ports.client}", f"--dashboard-agent-listen-port={ports.agent}"]
    # Ray would hand out the same numbers to the workers of two heads.
    command += [
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--disable-usage-stats",
        f"--temp-dir={temp_dir / RAYS_OWN}",
    ]
    command += [f"--include-dashboard={'false' if ports.dashboard is None else 'true'}"]
    if ports.dashboard is not None:
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={ports.dashboard}"]
    if num_cpus is not None:
        command.append(f"--num-cpus={num_cpus}")
    if object_store_bytes is not None:
        command.append(f"--object-store-memory={object_store_bytes}")
    command += more
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with log.open("wb") as output:
        leader = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environ),
            start_new_session=True,
            cwd="/",
        )
    try:
        host = _await(leader, ports, log)
    except BaseException:
        processes.end(leader.pid, processes.family(leader.pid), within_s=STOP_S)
        raise
    return Head(
        pid=leader.pid,
        born=processes.born(leader.pid) or 0,
        address=f"{host}:{ports.gcs}",
        dashboard=None if ports.dashboard is None else f"http://127.0.0.1:{ports.dashboard}",
    )


def make_temp_dir() -> Path:
    """A folder for one head's sockets and logs; short, because the path of a socket has at most 107 bytes.

    Only its owner may enter. Ray opens the folder that it is told of to everybody, with the socket by which HAProxy is
    commanded in it, so `start` tells it of one inside.

    A job finds its cluster by a note in this folder: with Ray's default one for all, by that of the last head started.
    """
    return Path(tempfile.mkdtemp(prefix=_TEMP, dir="/tmp"))


def is_temp_dir(path: Path) -> bool:
    """Whether it is a folder that `make_temp_dir` made, or may have."""
    return path.parent == Path("/tmp") and path.name.startswith(_TEMP) and not path.is_symlink()


def _await(leader: subprocess.Popen[bytes], ports: HeadPorts, log: Path) -> str:
    """Wait until everything answers; returns the address that Ray gives this machine.

    It listens there, whatever it is told.
    """
    deadline = time.monotonic() + START_S
    while leader.poll() is None and time.monotonic() < deadline:
        said = _COLOUR.sub("", log.read_text(errors="replace"))
        found = _NODE_IP.search(said)
        if found and "Ray runtime started" in said:
            host = found[1]
            needed = [(host, ports.gcs)]
            if ports.dashboard is not None:
                needed += [("127.0.0.1", ports.dashboard), (host, ports.agent)]
            if all(processes.answers(*where) for where in needed):
                return host
        time.sleep(0.1)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise EngineUnavailableError(f"Ray did not start: {lines[-1] if lines else 'it said nothing'}", help=f"See {log}.")


def _path(environ: Mapping[str, str]) -> str:
    """`bin` of this environment first, so that jobs find `fm` and the right `python`."""
    own, path = str(Path(sys.executable).parent), environ.get("PATH", "")
    return path if path.split(os.pathsep)[0] == own else f"{own}{os.pathsep}{path}"
