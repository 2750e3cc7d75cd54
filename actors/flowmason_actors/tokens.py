"""The token that every Ray of ours demands, and the environment in which Ray's processes run."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowmason.places import home_dir

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_process_group_cleanup_enabled": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""No word to anybody outside, and no grandchild left behind.

Not Ray's subreaper switch: it makes drivers and workers ignore SIGCHLD, and every child process of theirs
would seem to end with status 0.
"""

OPEN = {"RAY_AUTH_MODE": "disabled"}
"""For an open Ray that the caller accepts: a driver that demands tokens would not hear its workers."""


def token_path(environ: Mapping[str, str]) -> Path:
    """Our token file in FLOWMASON_HOME; made on first use, readable by its owner alone."""
    path = home_dir(environ) / "ray_token"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            # Not a rename: the first of two processes wins, and both read the same token.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    path.chmod(0o600)
    return path


def ours(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for a Ray that we start, and for whoever talks to it."""
    return {
        # Nobody is served from here who would have to be moved first: asked to end, it ends.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # On one machine a head that is gone does not come back: what waits for it ends (Ray's default: 60 s).
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
        **_quiet(environ),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(environ)),
    }


def theirs(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for joining somebody else's Ray: the token that the environment names, else Ray's own, else ours."""
    found = {**_quiet(environ), "RAY_AUTH_MODE": "token"}
    if "RAY_AUTH_TOKEN" not in environ and "RAY_AUTH_TOKEN_PATH" not in environ:
        default = Path.home() / ".ray" / "auth_token"
        found["RAY_AUTH_TOKEN_PATH"] = str(default if default.exists() else token_path(environ))
    return found


def read(environ: Mapping[str, str], *, own: bool) -> str | None:
    """The token itself: ours, or the one for somebody else's Ray; None where its file cannot be read."""
    if not own and environ.get("RAY_AUTH_TOKEN"):
        return environ["RAY_AUTH_TOKEN"]
    variables = ours(environ) if own else {**environ, **theirs(environ)}
    try:
        return Path(variables["RAY_AUTH_TOKEN_PATH"]).expanduser().read_text().strip() or None
    except OSError:
        return None


def apply(variables: Mapping[str, str], *, own: bool) -> None:
    """Set the variables in this process. Ray reads them once, when it is imported: make it read them again."""
    os.environ.update(variables)
    if own:
        # It would win over the file.
        os.environ.pop("RAY_AUTH_TOKEN", None)
    if "ray" in sys.modules:
        import ray._raylet as raylet

        core: Any = raylet
        core.Config.initialize("")
        core.AuthenticationTokenLoader.instance().reset_cache()


def _quiet(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in _QUIET.items() if name not in environ}
