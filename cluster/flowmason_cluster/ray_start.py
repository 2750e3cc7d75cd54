"""Connecting this process to Ray: one that we start for ourselves, the warm cluster, or one that is joined.

Ray executes whatever code reaches its ports, so every Ray that we start demands a token, and one that
demands none is refused unless the caller says so.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from importlib.util import find_spec
from typing import Any

import msgspec

from flowmason.errors import EngineUnavailableError
from flowmason_actors import tokens
from flowmason_cluster import joining, warm
from flowmason_cluster.own_folder import OwnFolder

NAMESPACE = "flowmason"
_OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Values travel through the value store; Ray's own store holds frames of reports only."""


class Cluster(msgspec.Struct, frozen=True):
    """What this process is connected to."""

    kind: str
    """`local`: ends with this process; `warm`: of `fm cluster up`; `joined`: somebody's."""
    address: str
    """`host:port` of the GCS."""
    own: bool
    """Whether it is ours and on this machine."""
    found: bool = False
    """Whether this process had been connected before we came: then it is not ours to end."""


_lock = threading.Lock()
_connected: Cluster | None = None
_users = 0
_folder: OwnFolder | None = None
"""Of the local Ray that we started."""


def connect(address: str | None, *, allow_open: bool = False, num_cpus: int | None = None) -> Cluster:
    """Connect this process to Ray. Blocks; seconds where a Ray has to be started.

    `address`, else `RAY_ADDRESS`, else the warm cluster, else a local Ray of our own (`"local"` asks for that one).
    A second call joins what the first connected to. Raises `EngineUnavailableError`.
    """
    global _connected, _users
    with _lock:
        require_ray()
        if _connected is None:
            _connected = _connect(address, allow_open, num_cpus)
        _users += 1
        return _connected


def disconnect() -> None:
    """Undo one `connect`; the last one leaves the cluster, and ends it where it is local. Blocks."""
    global _connected, _users
    with _lock:
        _users = max(0, _users - 1)
        if _users or _connected is None:
            return
        if not _connected.found:
            import ray

            ray.shutdown()
        _connected = None
        _drop_folder()


def abandon() -> None:
    """Forget the cluster, which is gone: Ray is not asked to leave it in order, and must not be used any more."""
    global _connected, _users
    with _lock:
        _connected, _users = None, 0
        _drop_folder()


def _drop_folder() -> None:
    global _folder
    if _folder is not None:
        _folder.remove()
        _folder = None


def _connect(address: str | None, allow_open: bool, num_cpus: int | None) -> Cluster:
    global _folder
    found = _already(allow_open)
    if found is not None:
        return found
    address = address or os.environ.get("RAY_ADDRESS") or None
    known = None if address == "local" else warm.running()
    if address == "local" or (address is None and known is None):
        tokens.apply(tokens.ours(os.environ), own=True)
        _folder = OwnFolder()
        try:
            _init(
                "local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=_folder.rays,
            )
        except BaseException:
            _drop_folder()
            raise
        return Cluster("local", _gcs(), own=True)
    if known is not None and address in (None, known.address):
        tokens.apply(tokens.ours(os.environ), own=True)
        _init(known.address)
        return Cluster("warm", known.address, own=True)
    assert address is not None
    target = joining.resolve(address)
    tokens.apply(joining.way_in(target, allow_open=allow_open), own=False)
    _init(target)
    return Cluster("joined", target, own=False)


def require_ray() -> None:
    """Raise `EngineUnavailableError` where Ray is not installed."""
    if find_spec("ray") is None:
        raise EngineUnavailableError(
            "Ray is not installed", help="pip install 'flowmason[ray]', or run with --on local."
        )


def _already(allow_open: bool) -> Cluster | None:
    """Where the caller's own code has called `ray.init`, that is the cluster."""
    if "ray" not in sys.modules:
        return None
    import ray

    if not ray.is_initialized():
        return None
    import ray._raylet as raylet

    core: Any = raylet
    if not allow_open and core.get_authentication_mode() != core.AuthenticationMode.TOKEN:
        raise EngineUnavailableError(
            "this process is connected to a Ray without a token: anyone who reaches it can run code there",
            help="Set RAY_AUTH_MODE=token before ray.init, or accept the risk with --allow-open-ray.",
        )
    return Cluster("joined", _gcs(), own=False, found=True)


def _init(address: str, **options: Any) -> None:
    import ray

    # Said from a thread, "SIGTERM handler is not set" is what we want, and no news for anybody.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            **options,
        )
    except Exception as error:
        raise EngineUnavailableError(
            f"cannot use Ray at {address}: {_first_line(error)}",
            help="Is it running, and is RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) its token? "
            "To run without Ray: --on local.",
        ) from error
    # Ray prints the deaths of workers on stdout, which belongs to the output of runs; the engine tells of them itself.
    worker: Any = ray._private.worker
    worker._worker_logs_enabled = False


def _gcs() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
