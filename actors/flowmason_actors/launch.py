"""What a worker process on Ray is started from: the settings, and the variables that components may need.

A worker of a cluster that was started yesterday has yesterday's environment. So a driver on the same machine
sends along the few variables that workers are meant to read: declared names, secrets, and keys of providers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.executor import WorkerSettings
from flowmason.secrets import PREFIX

if TYPE_CHECKING:
    from flowmason.region import Worker

_KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")
_FOR_DRIVERS = ("DATABASE_URL", "PGPASSWORD", "JWT_SECRET", "FLOWMASON_MASTER_KEY")
"""Nothing that a worker does needs these; a component sees them only where the project declares them."""


class Launch(msgspec.Struct, frozen=True):
    """Sent once per call of a task, and to the constructor of a host; cached by its bytes."""

    settings: WorkerSettings
    environ: dict[str, str] = {}


def launch_of(settings: WorkerSettings, environ: Mapping[str, str], *, share: bool) -> bytes:
    """The encoded `Launch` for workers. `share` sends variables along: only to a cluster on this machine."""
    names = set(_declared(settings.options))
    shared = {name: environ[name] for name in sorted(environ) if share and (name in names or name.startswith(PREFIX))}
    return msgspec.msgpack.encode(Launch(settings, shared), order="sorted")


def open_worker(encoded: bytes) -> Worker:
    """The `Worker` of this process; sets and hides environment variables as the launch says."""
    launch = msgspec.msgpack.decode(encoded, type=Launch)
    os.environ.update(launch.environ)
    declared = set(launch.settings.options.get("env", ()))
    for name in _FOR_DRIVERS:
        if name not in declared:
            os.environ.pop(name, None)
    from flowmason.region import Worker
    from flowmason.region.services import Services
    from flowmason_actors.call_limits import SharedCallLimiter

    return Worker(launch.settings, services=Services(launch.settings, shared_limiter=SharedCallLimiter()))


def _declared(options: Mapping[str, Any]) -> list[str]:
    names = [*_KEYS, *options.get("env", ())]
    pending: list[Any] = [options.get("providers", {})]
    while pending:
        found = pending.pop()
        if isinstance(found, Mapping):
            key = found.get("api_key_env")
            if isinstance(key, str):
                names.append(key)
            pending.extend(found.values())
    for server in options.get("mcp_servers", {}).values():
        # As `flowmason.mcp_client.servers` reads them: names in a list, or ${NAME} inside texts.
        given = server.get("env", {})
        texts = [f"${{{item}}}" for item in given] if isinstance(given, list) else list(given.values())
        texts += server.get("headers", {}).values()
        names += [name for text in texts for name in re.findall(r"\$\{(\w+)\}", str(text))]
    return names
