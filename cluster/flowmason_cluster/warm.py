"""The warm cluster: one Ray on this machine that `fm cluster up` starts and every `fm run` finds."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from flowmason.places import home_dir
from flowmason_actors import head, processes


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
    temp_dir: str | None = None
    """Ray's sockets and logs; removed with the cluster."""
    started_at: int = 0
    """Milliseconds since the epoch."""
    births: dict[int, int] = {}
    """When each of the processes was started, as `born`."""
    boot: str = ""
    """The start of the machine to which all of that belongs."""


def state_file(environ: Mapping[str, str]) -> Path:
    """Where the warm cluster is remembered."""
    return home_dir(environ) / "cluster.json"


def running() -> ClusterState | None:
    """The cluster that `fm cluster up` started, if it is still alive."""
    try:
        state = msgspec.json.decode(state_file(os.environ).read_bytes(), type=ClusterState)
    except (OSError, msgspec.DecodeError):
        return None
    return state if state.pids and processes.born(state.pids[0]) == state.born else None


def up(*, num_cpus: int | None = None, dashboard: bool = True) -> tuple[ClusterState, bool]:
    """Start the cluster, or find it running. Blocks. Returns its state and whether it was started now.

    Raises `EngineUnavailableError` where it does not start.
    """
    known = running()
    if known is not None:
        return known, False
    _clear_away()
    home = home_dir(os.environ).absolute()
    environ = head.environment(os.environ, home)
    ports = head.HeadPorts.free(dashboard=dashboard)
    temp_dir = head.make_temp_dir()
    try:
        started = head.start(ports, environ, home / "logs" / "cluster.log", temp_dir=temp_dir, num_cpus=num_cpus)
    except BaseException:
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    pids = [started.pid, *processes.family(started.pid)]
    state = ClusterState(
        address=started.address,
        pids=pids,
        born=started.born,
        token_path=environ["RAY_AUTH_TOKEN_PATH"],
        dashboard=started.dashboard,
        temp_dir=str(temp_dir),
        started_at=time.time_ns() // 1_000_000,
        births=processes.marks(pids),
        boot=_boot(),
    )
    processes.write_private(state_file(os.environ), msgspec.json.format(msgspec.json.encode(state)))
    return state, True


def down() -> ClusterState | None:
    """End the cluster, by the ids of its own processes. Blocks. Returns what was ended.

    Where its supervisor was killed, what that left behind is cleared away, and None returned.
    """
    state = running()
    if state is not None:
        others = [*state.pids[1:], *processes.family(state.pids[0])]
        processes.end(state.pids[0], others, within_s=head.STOP_S)
        if state.temp_dir is not None:
            shutil.rmtree(state.temp_dir, ignore_errors=True)
    else:
        _clear_away()
    state_file(os.environ).unlink(missing_ok=True)
    return state


def _clear_away() -> None:
    """End what a supervisor that was killed has left behind, and remove its folder."""
    try:
        state = msgspec.json.decode(state_file(os.environ).read_bytes(), type=ClusterState)
    except (OSError, msgspec.DecodeError):
        return
    if state.boot == _boot():
        processes.kill(state.births)
    if state.temp_dir is not None and head.is_temp_dir(Path(state.temp_dir)):
        shutil.rmtree(state.temp_dir, ignore_errors=True)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
