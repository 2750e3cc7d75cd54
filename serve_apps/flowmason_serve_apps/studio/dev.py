"""`fm studio start --dev`: the same application under plain uvicorn, with a conductor in the same process; no Ray."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import uvicorn

from flowmason.executor import Executor, WorkerSettings
from flowmason.studio import logs
from flowmason_actors.conductor_host import ConductorHost
from flowmason_serve_apps.studio import conductors
from flowmason_serve_apps.studio.app import make_app
from flowmason_serve_apps.studio.settings import settings_from
from flowmason_serve_apps.studio.supervised import StudioOptions

_DRAIN_S = 2.0


def local_executor(settings: WorkerSettings) -> Executor:
    """What the conductor runs stages on: threads of this process."""
    from flowmason.assembly.engine import make_executor

    return make_executor("local", settings)


def serve(options: StudioOptions) -> None:
    """Answer at the options' host and port until SIGINT or SIGTERM. Blocks."""
    asyncio.run(_serve(options))


async def _serve(options: StudioOptions) -> None:
    settings = msgspec.structs.replace(conductors.settings(os.environ), executor=f"{__name__}:local_executor")
    host = ConductorHost(msgspec.msgpack.encode(settings))
    logs.install()
    config = uvicorn.Config(
        make_app(msgspec.structs.replace(settings_from(), mail_on_console=True), nudge=host.nudge),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    server = _Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.told_to_end)
    await host.ready()
    try:
        await server.serve()
    finally:
        await host.drain(_DRAIN_S)


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would end the process by them, and the conductor would not be drained."""

    def told_to_end(self) -> None:
        """End in good order; asked twice, at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
