"""The child's life: unpack the package into its own `/tmp`, import the component, answer calls until the pipe ends."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

from flowmason.errors import Failure
from flowmason.region.failures import failure_of
from flowmason.sandbox import wire
from flowmason.sandbox.launch import PACKAGE
from flowmason.sandboxed.context import Line, SandboxContext

_LIMITS = {
    resource.RLIMIT_AS: 4 * 1024**3,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_NPROC: 256,
    resource.RLIMIT_CORE: 0,
}


def main(target: str, at_once: int) -> None:
    """Serve one component on the standard streams (and the socket `at_once`); ends when the worker hangs up."""
    for kind, most in _LIMITS.items():
        resource.setrlimit(kind, (most, most))
    # What components print must not end up in the pipe.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    asyncio.run(_serve(target, Line(out, socket.socket(fileno=at_once))))
    sys.stdout.flush()
    os._exit(0)  # threads that components left behind do not hold it up


async def _serve(target: str, line: Line) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", buffering=0))
    try:
        loaded = await asyncio.to_thread(_load, target)
    except BaseException as error:
        line.say(wire.Ready(_failure(error)))
        return
    line.say(wire.Ready())
    calls: dict[int, asyncio.Task[None]] = {}
    while (data := await wire.read_frame(reader)) is not None:
        message = wire.decode_to_child(data)
        if isinstance(message, wire.Call):
            task = loop.create_task(_call(loaded, message, line))
            calls[message.call] = task
            task.add_done_callback(lambda _, call=message.call: calls.pop(call, None))  # type: ignore[misc]
        elif isinstance(message, wire.Cancel):
            if message.call in calls:
                calls[message.call].cancel()
        else:
            line.heard(message)


def _load(target: str) -> Any:
    from flowmason.package import install
    from flowmason.registry import load_component, packed_specs

    home = Path("/tmp/home")
    installed = install(Path(PACKAGE), home)
    assert installed.manifest is not None
    spec = next(spec for spec in packed_specs(installed.manifest) if spec.target == target)
    return load_component(spec, packages_dir=installed.folder.parent.parent)


async def _call(loaded: Any, call: wire.Call, line: Line) -> None:
    context = SandboxContext(call, line)
    try:
        given = loaded.validate(call.inputs)
        output = loaded.dump(await loaded.make().execute(given, context))
        answer = wire.Done(call.call, output)
    except asyncio.CancelledError:
        answer = wire.Done(call.call, cancelled=True)
    except BaseException as error:
        answer = wire.Done(call.call, failure=_failure(error))
    finally:
        context.close()
    try:
        line.say(answer)
    except Exception as error:
        line.say(wire.Done(call.call, failure=_failure(error)))


def _failure(error: BaseException) -> Failure:
    return failure_of(error, path="")
