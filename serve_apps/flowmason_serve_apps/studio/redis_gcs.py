"""Ray's own state (the GCS) in Redis, so that actors and Serve outlive the head that is restarted."""

from __future__ import annotations

import secrets
from urllib.parse import unquote, urlsplit

import msgspec

from flowmason.errors import UsageError


class Storage(msgspec.Struct, frozen=True):
    """A place in a Redis server."""

    host: str
    port: int
    namespace: str
    """Of one life of one Studio, from its start to its stop."""
    username: str = ""
    password: str = ""
    tls: bool = False


def storage(url: str | None) -> Storage | None:
    """Where a GCS keeps its state; None: in memory. Raises `UsageError` for what is no `redis://host:port`."""
    if not url:
        return None
    parts = urlsplit(url)
    try:
        port = parts.port or 6379
    except ValueError:
        port = 0
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or not port:
        raise UsageError(f"{parts.scheme}://… is no address of a Redis server", help="Write redis://host:6379.")
    return Storage(
        host=parts.hostname,
        port=port,
        namespace=f"flowmason-{secrets.token_hex(6)}",
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=parts.scheme == "rediss",
    )


def variables(where: Storage | None) -> dict[str, str]:
    """What the head has to be told."""
    if where is None:
        return {}
    address = f"{'rediss://' if where.tls else ''}{where.host}:{where.port}"
    return {"RAY_REDIS_ADDRESS": address, "RAY_external_storage_namespace": where.namespace}


def flags(where: Storage | None) -> list[str]:
    """Flags of `ray start`: Ray takes a password in no other way."""
    if where is None:
        return []
    given = {"--redis-username": where.username, "--redis-password": where.password}
    return [f"{name}={text}" for name, text in given.items() if text]


def forget(where: Storage | None) -> None:
    """Remove what a stopped cluster kept there; a server that cannot be reached keeps it."""
    if where is None:
        return
    import redis

    with redis.Redis(
        host=where.host,
        port=where.port,
        username=where.username or None,
        password=where.password or None,
        ssl=where.tls,
        socket_timeout=5,
    ) as server:
        try:
            for key in server.scan_iter(f"*{where.namespace}*", count=1000):
                server.delete(key)
        except redis.RedisError:
            return
