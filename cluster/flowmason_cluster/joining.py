"""What a cluster must be before runs go there: protected, reachable, of the same versions, with shared stores."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum

from flowmason.database.urls import given_database
from flowmason.errors import EngineUnavailableError
from flowmason_actors import tokens
from flowmason_cluster import warm

_REACH_S = 5.0
_PROBE_S = 10.0


def resolve(address: str) -> str:
    """The address of the GCS as `host:port`; `auto` is the cluster that runs on this machine.

    Raises `EngineUnavailableError` for what is no such address and where nobody answers.
    """
    if address.startswith("ray://"):
        raise EngineUnavailableError(
            "the Ray client protocol (ray://) is not supported", help="Give the address of the GCS: host:6379."
        )
    if address == "auto":
        from ray._private.services import find_bootstrap_address

        known = warm.running()
        found = known.address if known is not None else find_bootstrap_address(None)
        if not found:
            raise EngineUnavailableError("there is no Ray on this machine to join", help="Start one: fm cluster up.")
        address = str(found)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise EngineUnavailableError(f"{address!r} is not an address of Ray", help="Give host:port, such as head:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise EngineUnavailableError(
            f"nobody answers at {address}: {error.strerror or error}", help="Is Ray running there? fm cluster status."
        ) from error
    return address


_PROBE = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, 5)
except AuthenticationError:
    sys.exit(3)
"""


_PANEL = """
import sys
from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
from ray._raylet import GcsClient
found = GcsClient(address=sys.argv[1]).internal_kv_get(DASHBOARD_ADDRESS.encode(), KV_NAMESPACE_DASHBOARD, 5)
sys.stdout.write((found or b"").decode())
"""


class Answer(Enum):
    """What a cluster says to somebody who asks it something."""

    YES = 0
    NO = 3
    NOTHING = 1


def ask(address: str, variables: Mapping[str, str]) -> Answer:
    """Ask the GCS something in a process with these variables: Ray has one token per process."""
    probe = _in_child(_PROBE, address, variables)
    return Answer(probe.returncode) if probe is not None and probe.returncode in (0, 3) else Answer.NOTHING


def dashboard(address: str, variables: Mapping[str, str]) -> str | None:
    """`host:port` of a cluster's dashboard, which is its job server; None where it has none or does not tell us."""
    named = {name: os.environ[name] for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if name in os.environ}
    probe = _in_child(_PANEL, address, {**named, **variables})
    return probe.stdout.decode().strip() or None if probe is not None and probe.returncode == 0 else None


def _in_child(code: str, address: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[bytes] | None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", code, address]
    try:
        return subprocess.run(command, env={**environ, **variables}, capture_output=True, timeout=_PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        return None


def way_in(address: str, *, allow_open: bool) -> dict[str, str]:
    """The variables with which a cluster takes us. Raises `EngineUnavailableError`."""
    token = tokens.theirs(os.environ)
    named = {name: os.environ[name] for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if name in os.environ}
    with ThreadPoolExecutor(2) as both:
        without, with_token = both.map(lambda variables: ask(address, variables), (tokens.OPEN, {**named, **token}))
    if without is Answer.YES:
        # Whoever is answered without a token may run code there.
        if allow_open:
            return dict(tokens.OPEN)
        raise open_cluster(address)
    if with_token is Answer.NO:
        raise EngineUnavailableError(
            f"the Ray at {address} does not accept our token",
            help="Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to its token.",
        )
    if with_token is Answer.NOTHING:
        raise EngineUnavailableError(
            f"what answers at {address} is no Ray that we can use", help="Give the address of the GCS: host:6379."
        )
    return token


def open_cluster(address: str) -> EngineUnavailableError:
    """The refusal of a cluster that demands no token."""
    return EngineUnavailableError(
        f"the Ray at {address} is open: anyone who reaches it can run code there",
        help="Start it with RAY_AUTH_MODE=token, or accept the risk with --allow-open-ray.",
    )


def refuse_many_nodes(nodes: int, values_url: str, environ: Mapping[str, str]) -> None:
    """More than one node needs stores that all of them reach. Raises `EngineUnavailableError` naming what lacks."""
    if nodes <= 1:
        return
    missing = []
    if not (given_database(environ) or "").startswith("postgres"):
        missing.append("DATABASE_URL of a PostgreSQL server")
    if local_folder(values_url) and not environ.get("FLOWMASON_VALUES_URL"):
        missing.append("FLOWMASON_VALUES_URL of a store that every node reaches")
    if missing:
        raise EngineUnavailableError(
            f"the cluster has {nodes} nodes, and this run keeps its state on one of them",
            help=f"Set {' and '.join(missing)}.",
        )


def local_folder(values_url: str) -> bool:
    """Whether values lie in a folder, which other machines may see as theirs or not at all."""
    return "://" not in values_url or values_url.startswith("file:")
