"""What `mcp.servers` of `flowmason.json` says of one server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from flowmason.errors import Code, UsageError, did_you_mean

_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_STDIO = ("command", "args", "env", "cwd")
_HTTP = ("url", "headers")


class McpServer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A server: a command that is started here, or a URL."""

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    """The child's environment; `${NAME}` in a value is a variable of the worker. Nothing else but PATH is there."""
    cwd: str | None = None
    """Relative to the project's root."""
    url: str | None = None
    headers: dict[str, str] = {}
    """Sent with every request; `${NAME}` in a value is a variable of the worker."""
    timeout: float = 30.0
    """Seconds for one call, where the call says nothing."""
    declared: bool = True
    """Whether the project declares it: only then may it be at a loopback or private address."""

    @property
    def variables(self) -> frozenset[str]:
        """The names of the variables that it needs."""
        return frozenset(name for text in (*self.env.values(), *self.headers.values()) for name in _NAME.findall(text))

    def filled(self, given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
        """`env` or `headers` with their variables put in. Raises `UsageError` (`SECRET_MISSING`)."""

        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name not in environ:
                raise UsageError(
                    f"the MCP server {self.name!r} needs the environment variable {name}, which is not set",
                    code=Code.SECRET_MISSING,
                    help=f"Set {name} where the run is started.",
                )
            return environ[name]

        return {key: _NAME.sub(value, text) for key, text in given.items()}


def read_server(name: str, given: Mapping[str, Any]) -> McpServer:
    """One entry of `mcp.servers`. Raises `UsageError` that says what is wrong with it."""
    where = f"mcp.servers.{name}"
    known = ("timeout", *_STDIO, *_HTTP)
    for key in given:
        if key not in known and not key.startswith("x-"):
            near = did_you_mean(key, known)
            raise UsageError(f"{where}: unknown key {key!r}" + (f"; did you mean {near!r}?" if near else ""))
    if ("command" in given) == ("url" in given):
        raise UsageError(f"{where} needs either a command or a url")
    wrong = [key for key in given if key in (_HTTP if "command" in given else _STDIO)]
    if wrong:
        raise UsageError(f"{where}: {wrong[0]!r} goes with {'url' if wrong[0] in _HTTP else 'command'} only")
    env = given.get("env", {})
    if isinstance(env, list):  # names alone: handed on as they are
        env = {item: f"${{{item}}}" for item in env if isinstance(item, str)}
    fields = {key: item for key, item in given.items() if not key.startswith("x-")} | ({"env": env} if env else {})
    try:
        server = msgspec.convert({**fields, "name": name}, McpServer)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from None
    if server.command is not None and not server.command.strip():
        raise UsageError(f"{where}.command is empty")
    if server.url is not None:
        check_url(server.url, where)
    if not 0 < server.timeout <= 3600:
        raise UsageError(f"{where}.timeout goes up to 3600 seconds")
    return server


def check_url(url: str, where: str) -> tuple[str, int]:
    """Host and port of an http(s) URL. Raises `UsageError`."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    if not parts.hostname or not port or parts.username is not None:
        raise UsageError(f"{where}: not an http(s) URL without a user: {url.rpartition('@')[2]!r}")
    return parts.hostname, port
