"""What handlers work with: made once per process, handed in, so that tests hand in their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import Request

from flowmason.ids import Ids
from flowmason.studio.scope import StudioStore
from flowmason.values import ValueStore
from flowmason_serve_apps.studio.guard.authentication import Authenticator
from flowmason_serve_apps.studio.settings import StudioSettings


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


async def nobody() -> None:
    """The nudge where no conductor can be reached: they poll."""


@dataclass
class Services:
    """The process's doors to what it works with."""

    settings: StudioSettings
    store: StudioStore
    values: ValueStore
    ids: Ids = field(default_factory=lambda: Ids(time.time))
    now: Callable[[], int] = now_ms
    authenticator: Authenticator = field(init=False)

    def __post_init__(self) -> None:
        self.authenticator = Authenticator(self.store, self.now)

    async def close(self) -> None:
        """Let go of everything."""
        await self.authenticator.close()
        self.store.close()


def open_services(settings: StudioSettings) -> Services:
    """Open the stores that the settings name. Blocks."""
    from flowmason.values_fs import open_values

    return Services(settings, StudioStore.open(settings.database_url, role="api"), open_values(settings.values_url))


def services_of(request: Request) -> Services:
    """The services of the application that answers a request."""
    found: Services = request.app.state.services
    return found
