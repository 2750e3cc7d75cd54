"""A server as a child process: its own small environment, bounded lines, its stderr told line by line.

The SDK's own transport hands variables of the parent on and reads lines of any length; this one does neither, and
its child dies with the worker, also when that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from flowmason.errors import Code, StageError

MOST_LINE_BYTES = 16 * 1024 * 1024
"""The longest message that a server may send."""
_STDERR_LINE = 4096
_LEAVE_S = 1.0
_LEASH = (
    # The kernel kills the child when the thread that started it is gone; a worker that died before is noticed by
    # its pid. Where there is no prctl, the end of stdin has to do.
    "import os,sys\n"
    "try:\n"
    "    import ctypes; ctypes.CDLL(None).prctl(1, 9)\n"
    "except Exception: pass\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Child:
    """One started server. `fault` is what the transport itself found wrong with it."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.fault: StageError | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None and self.fault is None


@contextlib.asynccontextmanager
async def child_streams(
    name: str,
    command: str,
    args: Sequence[str],
    env: Mapping[str, str],
    cwd: str | None,
    child: Child,
    on_stderr: Callable[[str], None],
) -> AsyncIterator[tuple[Any, Any]]:
    """Start the command and give the SDK's two streams to it. Raises `StageError` where it cannot be started."""
    import anyio
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    program = _program(name, command, env, cwd)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), program, *args),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), **env},
            cwd=cwd,
            start_new_session=True,
            limit=MOST_LINE_BYTES,
        )
    except OSError as error:
        raise StageError(f"the MCP server {name!r} cannot be started: {error}", code=Code.CONNECTIVITY) from error
    child.process = process
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    read_writer, read_stream = anyio.create_memory_object_stream[Any](0)
    write_stream, write_reader = anyio.create_memory_object_stream[Any](0)

    async def receive() -> None:
        async with read_writer:
            while True:
                try:
                    line = await stdout.readline()
                except ValueError:
                    child.fault = StageError(
                        f"the MCP server {name!r} sent a message longer than {MOST_LINE_BYTES} bytes",
                        code=Code.RESOURCE_EXHAUSTED,
                    )
                    return
                if not line:
                    return
                try:
                    message: Any = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValueError:
                    on_stderr(f"(not a message) {line[:_STDERR_LINE].decode(errors='replace').rstrip()}")
                    continue
                try:
                    await read_writer.send(message)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

    async def send() -> None:
        async with write_reader:
            async for message in write_reader:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    stdin.write(text.encode() + b"\n")
                    await stdin.drain()
                except (OSError, RuntimeError):
                    return

    async def tell() -> None:
        rest = b""
        while piece := await stderr.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[:_STDERR_LINE]
            for line in lines:
                on_stderr(line[:_STDERR_LINE].decode(errors="replace"))
        if rest:
            on_stderr(rest.decode(errors="replace"))

    tasks = [asyncio.create_task(work()) for work in (receive, send, tell)]
    try:
        yield read_stream, write_stream
    finally:
        try:
            await _end(process, stdin)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for stream in (read_stream, write_stream, read_writer, write_reader):
                stream.close()


def _program(name: str, command: str, env: Mapping[str, str], cwd: str | None) -> str:
    found = shutil.which(command, path=env.get("PATH") or os.environ.get("PATH"))
    if found is None and cwd is not None and os.sep in command:
        found = shutil.which(os.path.join(cwd, command))  # noqa: PTH118
    if found is None:
        raise StageError(
            f"the MCP server {name!r} cannot be started: there is no program {command!r}",
            code=Code.CONNECTIVITY,
            help=f"mcp.servers.{name}.command in flowmason.json names it; it must be installed on the workers.",
        )
    return os.path.abspath(found)  # noqa: PTH100


async def _end(process: asyncio.subprocess.Process, stdin: asyncio.StreamWriter) -> None:
    """Close its stdin, and kill its whole group if it does not leave."""
    with contextlib.suppress(OSError, RuntimeError):
        stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _LEAVE_S)
    except TimeoutError:
        pass
    finally:
        # Also when it left by itself: what it started itself goes with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _LEAVE_S)
