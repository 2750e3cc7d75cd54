"""`Sandboxes`: one child per org, package and component, kept while it is used.

A child that does not answer to a cancel within 2 s (its loop is blocked) is killed; what else it was doing is `Lost`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowmason.errors import Code, Failure, FlowMasonError, Retry, StageError
from flowmason.ids import Digest, OrgId
from flowmason.plan import ComponentRef
from flowmason.sandbox import answers, wire
from flowmason.sandbox.launch import require_sandbox, start_child

log = logging.getLogger("flowmason.sandbox")

MOST_CHILDREN = 8
IDLE_S = 300.0
_START_S = 30.0
_CANCEL_S = 2.0
_LOUD = 4000

Fetch = Callable[[OrgId, Digest], bytes]
"""Reads a package from the org's values."""


class Sandboxes:
    """The children of one worker process. Used from one event loop at a time."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._children: OrderedDict[tuple[OrgId, str, str], _Child] = OrderedDict()

    def component(self, ref: ComponentRef, org_id: OrgId) -> Sandboxed:
        """The component of an uploaded package, for one attempt. Raises `StageError` where there is no sandbox."""
        require_sandbox(ref.name)
        return Sandboxed(self, ref, org_id)

    async def child(self, ref: ComponentRef, org_id: OrgId) -> _Child:
        """The child that runs a component, started if need be."""
        loop = asyncio.get_running_loop()
        for key, child in list(self._children.items()):
            if child.ended or child.loop is not loop or (child.idle and time.monotonic() - child.used > IDLE_S):
                child.kill()
                del self._children[key]
        key = (org_id, str(ref.archive), ref.target)
        found = self._children.get(key)
        if found is None:
            while len(self._children) >= MOST_CHILDREN:
                spare = next((each for each, child in self._children.items() if child.idle), None)
                if spare is None:
                    break
                self._children.pop(spare).kill()
            data = self._fetch(org_id, Digest(str(ref.archive)))
            found = self._children[key] = _Child(ref, data)
        self._children.move_to_end(key)
        await found.ready()
        return found

    def close(self) -> None:
        """End every child."""
        while self._children:
            self._children.popitem()[1].kill()


class Sandboxed:
    """A component as `region` runs it: inputs are checked and outputs made inside."""

    def __init__(self, sandboxes: Sandboxes, ref: ComponentRef, org_id: OrgId) -> None:
        self._sandboxes = sandboxes
        self._ref = ref
        self._org_id = org_id

    async def execute(self, inputs: Mapping[str, Any], context: Any, *, pure: bool) -> Any:
        """Run it once on evaluated inputs; returns plain data. Raises what the component raised, as a failure."""
        child = await self._sandboxes.child(self._ref, self._org_id)
        secrets = {}
        if not pure:
            for name in self._ref.secrets:
                try:
                    secrets[name] = context.secrets.get(name)
                except StageError as error:
                    # One that is not set is missed when it is asked for.
                    if error.failure.code != Code.SECRET_MISSING:
                        raise
        return await child.run(inputs, context, secrets, pure=pure)


class _Child:
    """One process and the calls that it runs."""

    def __init__(self, ref: ComponentRef, package: bytes) -> None:
        self.loop = asyncio.get_running_loop()
        self.used = time.monotonic()
        self._ref = ref
        self._numbers = itertools.count(1)
        self._calls: dict[int, tuple[asyncio.Future[Any], Any]] = {}
        self._asked: set[asyncio.Task[None]] = set()
        self._started: asyncio.Future[None] = self.loop.create_future()
        self._started.add_done_callback(lambda future: future.exception())  # it is told to whoever waits
        self._process: asyncio.subprocess.Process | None = None
        self._said = b""
        self.ended = False
        self._living = self.loop.create_task(self._live(package))

    @property
    def idle(self) -> bool:
        """Whether it runs nothing."""
        return not self._calls

    async def ready(self) -> None:
        """Wait until the component is loaded. Raises `StageError` where it cannot be."""
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.shield(self._started)
        except TimeoutError:
            self.kill()
            raise StageError(f"{self._ref.name} was not loaded within {_START_S:g} s", code=Code.TIMEOUT) from None

    async def run(self, inputs: Mapping[str, Any], context: Any, secrets: dict[str, str], *, pure: bool) -> Any:
        """One call."""
        number = next(self._numbers)
        future: asyncio.Future[Any] = self.loop.create_future()
        self._calls[number] = (future, context)
        self.used = time.monotonic()
        try:
            given = answers.known(context, component=self._ref.name, pure=pure)
            await self._say(wire.Call(number, inputs, given, secrets))
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await self._cancel(number, future)
            raise
        finally:
            self._calls.pop(number, None)
            self.used = time.monotonic()

    def kill(self) -> None:
        """End the process at once."""
        self.ended = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        else:
            self._living.cancel()

    async def _cancel(self, number: int, future: asyncio.Future[Any]) -> None:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        with contextlib.suppress(FlowMasonError):
            await self._say(wire.Cancel(number))
            await asyncio.wait([future], timeout=_CANCEL_S)
        if not future.done():
            log.warning("%s does not answer to a cancel; its sandbox is ended", self._ref.name)
            self.kill()

    async def _say(self, message: wire.ToChild) -> None:
        if self.ended or self._process is None or self._process.stdin is None:
            raise self._gone()
        try:
            self._process.stdin.write(wire.frame(message))
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError):
            raise self._gone() from None

    async def _live(self, package: bytes) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        sync: asyncio.Task[None] | None = None
        try:
            with tempfile.TemporaryDirectory(prefix="flowmason-sandbox-") as folder:
                file = Path(folder) / "package.fmpkg"
                file.write_bytes(package)
                file.chmod(0o400)
                try:
                    self._process = process = await start_child(file, self._ref.target, theirs.fileno())
                finally:
                    theirs.close()
                assert process.stdout is not None and process.stderr is not None
                sync = self.loop.create_task(self._serve_now(ours))
                listening = self.loop.create_task(self._listen_to_errors(process.stderr))
                await self._listen(process.stdout)
                await listening
                await process.wait()
        except FlowMasonError as error:
            self._settle(error)
        except Exception as error:
            log.warning("the sandbox of %s broke: %r", self._ref.name, error)
        finally:
            self.ended = True
            if sync is not None:
                sync.cancel()
            ours.close()
            self.kill()
            self._settle(self._gone())

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        while (data := await wire.read_frame(stream)) is not None:
            message = wire.decode_from_child(data)
            if isinstance(message, wire.Ready):
                if self._started.done():
                    continue
                if message.failure is not None:
                    self._started.set_exception(_raised(message.failure))
                else:
                    self._started.set_result(None)
            elif isinstance(message, wire.Done):
                future, _ = self._calls.get(message.call, (None, None))
                if future is None or future.done():
                    continue
                if message.cancelled:
                    future.cancel()
                elif message.failure is not None:
                    future.set_exception(_raised(message.failure))
                else:
                    future.set_result(message.output)
            else:
                found = self._calls.get(message.call)
                if found is None:
                    continue
                if isinstance(message, wire.Note):
                    with contextlib.suppress(Exception):  # a malformed note harms nobody
                        answers.note(found[1], message.what, message.arguments)
                else:
                    task = self.loop.create_task(self._answer(found[1], message))
                    self._asked.add(task)
                    task.add_done_callback(self._asked.discard)

    async def _answer(self, context: Any, ask: wire.Ask) -> None:
        def piece(text: str) -> None:
            if self._process is not None and self._process.stdin is not None and not self.ended:
                self._process.stdin.write(wire.frame(wire.Piece(ask.ask, text)))

        reply = wire.Answer(ask.ask)
        try:
            reply = wire.Answer(ask.ask, await answers.answer(context, ask.what, ask.arguments, piece))
        except Exception as error:
            reply = wire.Answer(ask.ask, failure=_failure(error))
        with contextlib.suppress(FlowMasonError):
            await self._say(reply)

    async def _serve_now(self, connection: socket.socket) -> None:
        """Answer what components ask without awaiting it; one at a time, as they block."""
        reader, writer = await asyncio.open_connection(sock=connection)
        while (data := await wire.read_frame(reader)) is not None:
            ask = wire.decode_from_child(data)
            if not isinstance(ask, wire.Ask):
                return
            _, context = self._calls.get(ask.call, (None, None))
            try:
                if context is None:
                    raise StageError("that call is over", code=Code.CANCELLED)
                reply = wire.Answer(0, await asyncio.to_thread(answers.answer_now, context, ask.what, ask.arguments))
            except Exception as error:
                reply = wire.Answer(0, failure=_failure(error))
            writer.write(wire.frame(reply))
            await writer.drain()

    async def _listen_to_errors(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65536):
            self._said = (self._said + data)[-_LOUD:]
            log.debug("%s: %s", self._ref.name, data.decode(errors="replace").rstrip())

    def _settle(self, error: FlowMasonError) -> None:
        if not self._started.done():
            self._started.set_exception(error)
        for future, _ in self._calls.values():
            if not future.done():
                future.set_exception(error)

    def _gone(self) -> StageError:
        said = self._said.decode(errors="replace").strip()
        more = f": {said[-500:]}" if said else ""
        return StageError(f"the sandbox of {self._ref.name} ended{more}", code=Code.LOST, retry=Retry.NOW)


def _failure(error: Exception) -> Failure:
    if isinstance(error, FlowMasonError):
        return error.failure
    return Failure(code=Code.EXECUTION, message=str(error) or type(error).__name__, type=type(error).__name__)


def _raised(failure: Failure) -> StageError:
    error = StageError(failure.message)
    error.failure = failure
    return error
