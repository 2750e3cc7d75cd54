"""What a supervised Studio is made of: what was asked for, where it listens, what is remembered of it on disk."""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from flowmason.errors import EngineUnavailableError
from flowmason.places import home_dir
from flowmason_actors import processes
from flowmason_actors.head import HeadPorts
from flowmason_serve_apps.studio import haproxy
from flowmason_serve_apps.studio.settings import FORWARDED_HEADER

PORT = 8999
PRIVATE = (
    "DATABASE_URL",
    "PGPASSWORD",
    "REDIS_URL",
    "JWT_SECRET",
    "FLOWMASON_SMTP_PASSWORD",
    "FLOWMASON_SMTP_URL",
    "FLOWMASON_MASTER_KEY",
    "FLOWMASON_METRICS_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
)
"""Variables that the API and the conductors need and no worker should inherit."""
PRIVATE_FILE = "FLOWMASON_PRIVATE_ENVIRONMENT"
"""The variable that names the file (JSON, 0600) with the private ones."""

_REPLICA_PORTS = 100
_OURS = range(20_000, 30_000)
_DRAIN_S = 1
"""How long a replica that is told to end goes on answering, so that HAProxy notices."""


class StudioOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `fm studio start` was asked for."""

    host: str = "127.0.0.1"
    port: int = PORT
    replicas: int = 2
    conductors: int = 1
    num_cpus: int | None = None
    dashboard: bool = True
    gcs_redis: str | None = None
    """`redis://…` for Ray's own state, so that it outlives the head; None: it starts anew."""


class StudioPorts(msgspec.Struct, frozen=True):
    """Where a Studio listens. All but the first are chosen among free ones, so that two fit on one machine."""

    http: int
    stats: int
    metrics: int
    fallback: int
    """Serve's own proxy, which HAProxy asks where no replica is; two of them would share Ray's default port."""
    replicas: int
    """The first of the ports from which replicas take theirs."""
    head: HeadPorts


class StudioState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is remembered in `studio.json` in FLOWMASON_HOME, written by the supervisor alone."""

    pid: int
    """The supervisor."""
    born: int
    """When it was started, in the kernel's ticks: another process with its pid is not it."""
    options: StudioOptions
    url: str
    run_dir: str
    database: str = ""
    """Without its password; and where values lie."""
    values: str = ""
    phase: Literal["starting", "running", "restarting", "stopping"] = "starting"
    detail: str = ""
    """What went wrong last."""
    dashboard: str | None = None
    address: str | None = None
    token_path: str = ""
    children: dict[int, int] = {}
    """Processes that it started, with their births: the leader of the head's session, and the keeper."""
    restarts: int = 0
    started_at: int = 0
    """Milliseconds since the epoch."""


def state_file(environ: Mapping[str, str]) -> Path:
    """Where the Studio is remembered."""
    return home_dir(environ).absolute() / "studio.json"


def logs_dir(environ: Mapping[str, str]) -> Path:
    """Where supervisor, head and keeper write what they say."""
    return home_dir(environ).absolute() / "logs" / "studio"


def remembered(environ: Mapping[str, str]) -> StudioState | None:
    """The Studio that was started last, alive or not."""
    try:
        return msgspec.json.decode(state_file(environ).read_bytes(), type=StudioState)
    except (OSError, msgspec.DecodeError):
        return None


def running(environ: Mapping[str, str]) -> StudioState | None:
    """The Studio whose supervisor is alive."""
    state = remembered(environ)
    return state if state is not None and processes.born(state.pid) == state.born else None


def remember(state: StudioState, environ: Mapping[str, str]) -> None:
    """Write the state file."""
    processes.write_private(state_file(environ), msgspec.json.format(msgspec.json.encode(state)))


def choose_ports(options: StudioOptions) -> StudioPorts:
    """The asked-for port and free ones. Raises `EngineUnavailableError` where somebody has the first."""
    require_free(options)
    return StudioPorts(
        http=options.port or _free_port(options.host),
        stats=_free_port(),
        metrics=_free_port(),
        fallback=_free_port(),
        replicas=_free_block(),
        head=HeadPorts.free(dashboard=options.dashboard),
    )


def require_free(options: StudioOptions) -> None:
    """Raise `EngineUnavailableError` where somebody has the asked-for port, or the host is none of this machine."""
    try:
        _listen(options.host, options.port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise EngineUnavailableError(
                f"cannot listen on {options.host}:{options.port}: {error.strerror or error}",
                help="Name an address of this machine: fm studio start --host 127.0.0.1.",
            ) from error
        raise EngineUnavailableError(
            f"port {options.port} is taken", help="Stop what listens there, or take another: fm studio start --port N."
        ) from error


def _free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, and that the kernel gives to nobody who asks for any: ours are opened later."""
    for port in random.sample(_OURS, len(_OURS)):
        try:
            _listen(host, port)
        except OSError:
            continue
        return port
    raise EngineUnavailableError(f"no free port between {_OURS.start} and {_OURS.stop}")


def _free_block() -> int:
    """The first of a block of ports that nobody uses yet."""
    for base in range(30_000, 32_000, _REPLICA_PORTS):
        try:
            for number in range(4):
                _listen("0.0.0.0", base + number)
        except OSError:
            continue
        return base
    raise EngineUnavailableError("no free ports between 30000 and 32000")


def _listen(host: str, port: int) -> None:
    """Listen there for a moment; connections that somebody closed a while ago are no obstacle."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)


def environment(
    head: Mapping[str, str], options: StudioOptions, ports: StudioPorts, run_dir: Path, given: Mapping[str, str]
) -> dict[str, str]:
    """What the head, the keeper and all that runs there see: `head` and the settings of Serve and of the API.

    What only the API and the conductors need goes into a file. `given` is the environment of whoever started it all.
    """
    # Whoever does not know its name cannot pass for another address, neither by HAProxy nor beside it.
    own = f"x-flowmason-from-{secrets.token_hex(16)}"
    private = {name: given[name] for name in PRIVATE if given.get(name)}
    private[FORWARDED_HEADER] = given.get(FORWARDED_HEADER) or own
    kept = processes.write_private(run_dir / "environment.json", msgspec.json.encode(private))
    # Ray puts the id of its node (56 characters) between folder and file, and HAProxy takes sockets of up to 97.
    proxy = run_dir
    drain = str(_DRAIN_S)
    return {
        **{name: text for name, text in head.items() if name not in PRIVATE},
        PRIVATE_FILE: str(kept),
        "FLOWMASON_API_REPLICAS": str(options.replicas),
        "FLOWMASON_PUBLIC_URL": given.get("FLOWMASON_PUBLIC_URL") or url(options.host, ports.http),
        # Serve's Python proxy gives a tenth of the requests per second.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy.wrapper(run_dir, (ports.metrics, ports.stats), own)),
        # Replicas believe nobody else of whom a request comes from.
        "FORWARDED_ALLOW_IPS": "",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, max(1, (os.cpu_count() or 1) // 2))),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.stats),
        # Three times unwell, and HAProxy is started again: Ray's default period makes that half a minute.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas + _REPLICA_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": drain,
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": drain,
    }


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url(host: str, port: int) -> str:
    """Where people on this machine reach it."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def private_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What the file of private variables says; empty where none is named."""
    file = environ.get(PRIVATE_FILE)
    return msgspec.json.decode(Path(file).read_bytes(), type=dict[str, str]) if file else {}
