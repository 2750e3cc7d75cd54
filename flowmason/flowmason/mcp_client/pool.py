"""Connections to MCP servers: one per org and server, opened on first use, closed when nobody used it for a while."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from flowmason.egress import EgressPolicy, authority
from flowmason.errors import (
    Code,
    EgressError,
    EngineUnavailableError,
    FlowMasonError,
    RetryableError,
    StageError,
    StageTimeoutError,
    UsageError,
    did_you_mean,
)
from flowmason.mcp_client.servers import McpServer, check_url, read_server
from flowmason.mcp_client.stdio import Child, child_streams

_IDLE_S = 300.0
_START_S = 30.0
_LONGEST_CALL_S = 3600.0
_PAGES = 100
_TOOLS = 10_000
_TOLD_LINES = 200
"""Lines of a child's stderr that one call's log is told."""

Tell = Callable[[str], None]
"""Takes a line that a server wrote to its stderr."""


class Tools(msgspec.Struct, frozen=True):
    """What a server offers."""

    tools: tuple[dict[str, Any], ...]
    """As the protocol gives them: `name`, `description`, `inputSchema`, `annotations`, …"""
    server_name: str = ""
    server_version: str = ""


class Connections:
    """All connections of a worker. Belongs to one event loop."""

    def __init__(
        self,
        declared: Mapping[str, Mapping[str, Any]],
        *,
        egress: EgressPolicy,
        environ: Mapping[str, str],
        root: str | None = None,
    ) -> None:
        self._servers = {name: read_server(name, given) for name, given in declared.items()}
        self._egress = egress
        self._environ = environ
        self._root = root
        self._open: dict[tuple[str, str], _Connection] = {}

    def server(
        self,
        name: str | None = None,
        *,
        command: str | None = None,
        args: tuple[str, ...] = (),
        url: str | None = None,
    ) -> McpServer:
        """The server of that name, or the declared one with exactly this command line, or the one at a URL.

        Raises `UsageError`: `NOT_FOUND` for a name, `SECURITY` for a command that is not declared.
        """
        if sum(item is not None for item in (name, command, url)) != 1:
            raise UsageError("an MCP server is meant by one of server, command and url", code=Code.INVALID_INPUT)
        if name is not None:
            found = self._servers.get(name)
            if found is None:
                near = did_you_mean(name, list(self._servers))
                raise UsageError(
                    f"there is no MCP server {name!r}" + (f"; did you mean {near!r}?" if near else ""),
                    code=Code.NOT_FOUND,
                    help='Servers are declared in flowmason.json: "mcp": {"servers": {…}}; those of a Studio by who '
                    "runs it.",
                )
            return found
        for server in self._servers.values():
            if (command is not None and (server.command, server.args) == (command, args)) or (
                url is not None and server.url == url
            ):
                return server
        if command is not None:
            raise UsageError(
                f"the command {' '.join((command, *args))!r} is not that of a declared MCP server",
                code=Code.SECURITY,
                help='A pipeline starts only what flowmason.json lists under "mcp": {"servers": {…}}; name the server.',
            )
        assert url is not None
        host, port = check_url(url, "url")
        return McpServer(name=authority(host, port), url=url, declared=False)

    async def list_tools(self, org: str, server: McpServer, *, timeout: float | None, tell: Tell) -> Tools:
        """Every tool of a server. Raises `StageError`s, `EgressError`, `UsageError`, `EngineUnavailableError`."""
        async with self._call(org, server, timeout, tell, repeatable=True) as client:
            found: list[dict[str, Any]] = []
            cursor: str | None = None
            for _ in range(_PAGES):
                page = await client.list_tools(cursor=cursor, cache_mode="bypass")
                found += [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in page.tools]
                cursor = page.next_cursor
                if not cursor:
                    break
            if cursor or len(found) > _TOOLS:
                raise StageError(
                    f"the MCP server {server.name!r} does not stop listing tools", code=Code.RESOURCE_EXHAUSTED
                )
            info = client.server_info
            return Tools(tuple(found), info.name if info else "", info.version if info else "")

    async def call_tool(
        self,
        org: str,
        server: McpServer,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float | None,
        tell: Tell,
        repeatable: bool,
        at_most: int,
    ) -> dict[str, Any]:
        """Call a tool: the protocol's answer (`content`, `structuredContent`, `isError`), an error of the tool too.

        `repeatable` says what it means when no answer comes: it may be tried again, or nobody knows what happened
        (`OUTCOME_UNKNOWN`). Raises as `list_tools` does, and `RESOURCE_EXHAUSTED` for more than `at_most` bytes.
        """
        async with self._call(org, server, timeout, tell, repeatable=repeatable) as client:
            answer = await client.call_tool(tool, dict(arguments))
            plain: dict[str, Any] = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
        size = len(msgspec.json.encode(plain))
        if size > at_most:
            raise StageError(
                f"the answer of the MCP tool {tool!r} has {size} bytes; {at_most} are allowed",
                code=Code.RESOURCE_EXHAUSTED,
                help="Raise max_result_bytes, or ask for less.",
            )
        return plain

    async def close(self) -> None:
        """End every connection and every child."""
        for connection in list(self._open.values()):
            await connection.close()
        self._open.clear()

    @contextlib.asynccontextmanager
    async def _call(
        self, org: str, server: McpServer, timeout: float | None, tell: Tell, *, repeatable: bool
    ) -> AsyncIterator[Any]:
        import anyio

        from mcp import MCPError

        _require_sdk()
        connection = await self._connected(org, server, tell)
        seconds = timeout or server.timeout
        unknown = "" if repeatable else "; the call may have been carried out"
        scope = asyncio.timeout(seconds)
        with connection.telling(tell):
            try:
                async with scope:
                    yield connection.client
            except TimeoutError as error:
                if not scope.expired():
                    raise
                message = f"the MCP server {server.name!r} did not answer within {seconds:g} s{unknown}"
                if repeatable:
                    raise StageTimeoutError(message) from error
                raise StageError(message, code=Code.OUTCOME_UNKNOWN, help=_LOOK) from error
            except (MCPError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
                if connection.broken(error):
                    await self._drop(connection)
                    if connection.fault is not None:
                        raise connection.fault from error
                    message = f"the MCP server {server.name!r} ended amid the call{unknown}"
                    if repeatable:
                        raise RetryableError(message) from error
                    raise StageError(message, code=Code.OUTCOME_UNKNOWN, help=_LOOK) from error
                raise StageError(f"the MCP server {server.name!r} refused: {error}", code=Code.EXECUTION) from error

    async def _connected(self, org: str, server: McpServer, tell: Tell) -> _Connection:
        # An address that nobody declared is kept apart from a declared one at the same place, which has headers.
        key = (org, server.name if server.declared else f"undeclared {server.url}")
        connection = self._open.get(key)
        if connection is not None and not connection.usable:
            await self._drop(connection)
            connection = None
        if connection is None:
            connection = self._open[key] = _Connection(server, self._egress, self._environ, self._root)
        with connection.telling(tell):
            try:
                await connection.opened()
            except FlowMasonError:
                await self._drop(connection)
                raise
        return connection

    async def _drop(self, connection: _Connection) -> None:
        for key, found in list(self._open.items()):
            if found is connection:
                del self._open[key]
        await connection.close()


_LOOK = "Look on the other side before you run the stage again."


class _Connection:
    """One connection, held by a task of its own, as the SDK wants it."""

    def __init__(self, server: McpServer, egress: EgressPolicy, environ: Mapping[str, str], root: str | None) -> None:
        self._server = server
        self._egress = egress
        self._environ = environ
        self._root = root
        self._child = Child() if server.command is not None else None
        self._listeners: list[tuple[Tell, list[int]]] = []
        self._quiet = asyncio.Event()
        self._end = asyncio.Event()
        self._busy = 0
        self.client: Any = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._task = asyncio.create_task(self._hold(), name=f"mcp {server.name}")

    @property
    def usable(self) -> bool:
        if self._task.done() or self._end.is_set():
            return False
        return not self._ready.done() or self._child is None or self._child.alive

    @property
    def fault(self) -> StageError | None:
        return self._child.fault if self._child is not None else None

    def broken(self, error: BaseException) -> bool:
        """Whether the connection itself is over, and not only the call."""
        from mcp_types import CONNECTION_CLOSED

        return getattr(error, "code", CONNECTION_CLOSED) == CONNECTION_CLOSED or not self.usable

    async def opened(self) -> None:
        """Wait until it is ready. Raises `StageError`, `EgressError`, `UsageError`."""
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), _START_S)
        except TimeoutError:
            raise StageTimeoutError(
                f"the MCP server {self._server.name!r} did not begin within {_START_S:g} s"
            ) from None

    @contextlib.contextmanager
    def telling(self, tell: Tell) -> Any:
        """While a call is under way its log is told what the server writes to its stderr."""
        entry = (tell, [_TOLD_LINES])
        self._listeners.append(entry)
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._listeners.remove(entry)

    async def close(self) -> None:
        """End it and wait until its child is gone."""
        self._end.set()
        if not self._ready.done():
            self._task.cancel()
        await asyncio.wait([self._task], timeout=5.0)
        self._task.cancel()

    def _told(self, line: str) -> None:
        for tell, left in self._listeners:
            if left[0] > 0:
                left[0] -= 1
                tell(line)

    async def _hold(self) -> None:
        from mcp import Client, Implementation

        try:
            async with contextlib.AsyncExitStack() as stack:
                transport = await self._transport(stack)
                client = Client(transport, client_info=Implementation(name="flowmason", version="1"), cache=None)
                self.client = await stack.enter_async_context(client)
                self._ready.set_result(None)
                while not self._end.is_set():
                    try:
                        await asyncio.wait_for(self._end.wait(), _IDLE_S)
                    except TimeoutError:
                        if not self._busy:
                            self._end.set()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(self._readable(error))
            if not isinstance(error, Exception):
                raise

    async def _transport(self, stack: contextlib.AsyncExitStack) -> Any:
        server = self._server
        if self._child is not None and server.command is not None:
            env = server.filled(server.env, self._environ)
            cwd = f"{self._root or '.'}/{server.cwd}" if server.cwd else self._root
            return child_streams(server.name, server.command, server.args, env, cwd, self._child, self._told)
        from mcp.client.streamable_http import streamable_http_client

        from flowmason.http_egress import guarded_client

        assert server.url is not None
        policy = msgspec.structs.replace(self._egress, total_timeout_s=_LONGEST_CALL_S, read_timeout_s=_LONGEST_CALL_S)
        if server.declared:
            policy = policy.allowing(authority(*check_url(server.url, server.name)))
        http = await stack.enter_async_context(
            guarded_client(policy, headers=server.filled(server.headers, self._environ), follow_redirects=False)
        )
        return streamable_http_client(server.url, http_client=http)

    def _readable(self, error: BaseException) -> FlowMasonError:
        """Why it could not be opened; what the guard or the transport said goes before what the SDK made of it."""
        if self.fault is not None:
            return self.fault
        for found in _all_of(error):
            if isinstance(found, EgressError | UsageError | StageError):
                return found
        last = _all_of(error)[-1]
        return RetryableError(
            f"the MCP server {self._server.name!r} cannot be reached: {str(last) or type(last).__name__}"
        )


def _all_of(error: BaseException) -> list[BaseException]:
    """The errors inside groups and behind `__cause__`, outermost first."""
    found: list[BaseException] = []
    pending = [error]
    while pending and len(found) < 50:
        each = pending.pop()
        if isinstance(each, BaseExceptionGroup):
            pending.extend(each.exceptions)
            continue
        found.append(each)
        behind = each.__cause__ or each.__context__
        if behind is not None:
            pending.append(behind)
    return found


def _require_sdk() -> None:
    if importlib.util.find_spec("mcp") is None:
        raise EngineUnavailableError(
            "MCP servers need a package that is not installed", help='pip install "flowmason[mcp]"'
        )
