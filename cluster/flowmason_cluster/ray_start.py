"""Starting a Ray of our own, or joining one: tokens, addresses, and the refusal of an open cluster.

Ray executes whatever code reaches its ports, so every Ray that we start demands a token, and one that
demands none is refused unless the caller says so. The token file is ours and readable by us alone.
"""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from flowmason.errors import EngineUnavailableError
from flowmason.places import home_dir

NAMESPACE = "flowmason"
_OBJECT_STORE_BYTES = 256 * 1024 * 1024
_PROBE_S = 20

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_process_group_cleanup_enabled": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


class ClusterState(msgspec.Struct, omit_defaults=True):
    """What `fm cluster up` remembers of the cluster it started (`cluster.json` in FLOWMASON_HOME)."""

    address: str
    """`host:port` of the GCS."""
    pids: list[int]
    dashboard: str | None = None
    temp_dir: str | None = None
    started_at: int = 0


def token_path() -> Path:
    """Our token file; made on first use, readable by its owner alone."""
    path = home_dir(os.environ) / "ray_token"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    path.chmod(0o600)
    return path


def environment() -> dict[str, str]:
    """The environment variables that every Ray process of ours runs with."""
    found = dict(_QUIET)
    found["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE", "token")
    if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        found["RAY_AUTH_TOKEN_PATH"] = str(token_path())
    return found


def state_file() -> Path:
    """Where the warm cluster is remembered."""
    return home_dir(os.environ) / "cluster.json"


def warm_cluster() -> ClusterState | None:
    """The cluster that `fm cluster up` started, if it is still alive."""
    try:
        state = msgspec.json.decode(state_file().read_bytes(), type=ClusterState)
    except (OSError, msgspec.DecodeError):
        return None
    return state if state.pids and all(alive(pid) for pid in state.pids) else None


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        with Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def connect(address: str | None, *, allow_open: bool, num_cpus: int | None = None) -> str:
    """Connect this process to Ray; returns a word for people: `local`, or the address joined.

    `address`, else `RAY_ADDRESS`, else the warm cluster, else a local Ray of our own, which ends with
    this process. Raises `EngineUnavailableError`.
    """
    os.environ.update(environment())
    import ray

    if ray.is_initialized():
        return "joined"
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address == "local":
        address = None
        warm = None
    else:
        warm = warm_cluster() if address is None else None
    target = address or (warm.address if warm is not None else None)
    options: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "configure_logging": False,
        "logging_level": logging.ERROR,
    }
    try:
        if target is None:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **options,
            )
            return "local"
        if warm is None and not allow_open:
            _refuse_open(target)
        ray.init(address=target, **options)
        return target
    except EngineUnavailableError:
        raise
    except Exception as error:
        raise EngineUnavailableError(
            f"cannot use Ray at {target or 'local'}: {_first_line(error)}",
            help="Is it running, and is RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) its token? "
            "To run without Ray: --on local.",
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


_PROBE = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, 5)
"""


def _refuse_open(address: str) -> None:
    """Ask the cluster something without a token: whoever is answered may run code there."""
    if address.startswith("ray://") or address == "auto":
        if address.startswith("ray://"):
            raise EngineUnavailableError(
                "the Ray client protocol (ray://) is not supported", help="Give the address of the GCS: host:6379."
            )
        return
    environ = {key: item for key, item in os.environ.items() if not key.startswith("RAY_AUTH")}
    environ["RAY_AUTH_MODE"] = "disabled"
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, address], env=environ, capture_output=True, timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return
    if probe.returncode == 0:
        raise EngineUnavailableError(
            f"the Ray at {address} is open: anyone who reaches it can run code there",
            help="Start it with RAY_AUTH_MODE=token, or accept the risk with --allow-open-ray.",
        )
