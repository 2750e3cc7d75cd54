"""What handlers work with: made once per process, handed in, so that tests hand in their own."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property

from fastapi import Request
from starlette.requests import HTTPConnection

from flowmason.ids import Ids, OrgId
from flowmason.journal_sql.tenant import RunStore
from flowmason.studio.compiling import Compiling
from flowmason.studio.components import Catalogue
from flowmason.studio.identity.refusals import Refusals
from flowmason.studio.identity.sessions import Sessions
from flowmason.studio.identity.signing import Signer
from flowmason.studio.mail import ConsoleMailer, Mailer, NoMailer, SmtpMailer
from flowmason.studio.pipelines import StoredPipeline
from flowmason.studio.scope import StudioStore
from flowmason.studio.sealing import Sealer, open_sealer
from flowmason.values import ValueStore
from flowmason_serve_apps.llm.handles import Handles
from flowmason_serve_apps.studio.beats import Beats
from flowmason_serve_apps.studio.details import Details
from flowmason_serve_apps.studio.guard.authentication import Authenticator
from flowmason_serve_apps.studio.guard.counts import address_of
from flowmason_serve_apps.studio.live import Live
from flowmason_serve_apps.studio.settings import StudioSettings
from flowmason_serve_apps.studio.sizes import Sizes
from flowmason_serve_apps.studio.states import States
from flowmason_serve_apps.studio.together import Together

_KEPT_NOTED = 4096
Nudge = Callable[[], Awaitable[None]]


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
    nudge: Nudge = nobody
    """Tells conductors that there is something to do, best effort."""
    catalogue: Catalogue = field(default_factory=Catalogue)
    compiling: Compiling = field(default_factory=Compiling)
    refusals: Refusals = field(init=False)
    authenticator: Authenticator = field(init=False)
    runs: RunStore = field(init=False)
    live: Live = field(init=False)
    details: Details = field(init=False)
    states: States = field(init=False, default_factory=States)
    beats: Beats = field(init=False)
    sizes: Sizes = field(init=False)
    served: Handles = field(init=False, default_factory=Handles)
    """The models that are served on the cluster of this process, if it is on one."""
    together: Together = field(init=False, default_factory=Together)
    sockets: Counter[str] = field(init=False, default_factory=Counter)
    """Open WebSockets by user."""
    uploads: Counter[OrgId] = field(init=False, default_factory=Counter)
    """Files that are being taken in, by org."""
    _kept: set[tuple[OrgId, str, str, str]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.refusals = Refusals(self.store, lambda: self.now())
        self.authenticator = Authenticator(self.store, self.now, lambda: self.sessions, self.refusals)
        self.runs = RunStore.open(self.settings.database_url)
        self.live = Live(self.runs, self.values)
        self.details = Details(self.runs, self.values)
        self.beats = Beats(self.runs)
        self.sizes = Sizes(self.runs, self.values, self.now)

    @cached_property
    def sealer(self) -> Sealer:
        """Seals and opens what is kept secret in the database, under the master keys of the environment."""
        return open_sealer(os.environ)

    @cached_property
    def sessions(self) -> Sessions:
        """Sign-in, refresh, sign-out."""
        signer = Signer(self.store, self.sealer, self.settings.public_url, self.now)
        return Sessions(self.store, signer, self.now, self.refusals)

    @cached_property
    def mailer(self) -> Mailer:
        """Sends mail as the settings say."""
        settings = self.settings
        if settings.smtp_url:
            return SmtpMailer(settings.smtp_url, settings.mail_from)
        return ConsoleMailer() if settings.mail_on_console else NoMailer()

    def address_of(self, asked: HTTPConnection) -> str:
        """Where a request comes from: whom our proxy names, else the peer."""
        return address_of(asked.scope, asked.headers, self.settings.forwarded_header)

    def is_kept(self, org_id: OrgId, stored: StoredPipeline) -> bool:
        """Whether this process has seen that the draft's version is kept as it stands."""
        return (org_id, stored.pipeline_id, stored.version, stored.digest) in self._kept

    def note_kept(self, org_id: OrgId, stored: StoredPipeline) -> None:
        """Note that the draft's version is kept as it stands."""
        if len(self._kept) >= _KEPT_NOTED:
            self._kept.clear()
        self._kept.add((org_id, stored.pipeline_id, stored.version, stored.digest))

    async def close(self) -> None:
        """Let go of everything."""
        await asyncio.to_thread(self.refusals.close)
        await self.live.close()
        await self.runs.close()
        self.store.close()


def open_services(settings: StudioSettings, nudge: Nudge = nobody) -> Services:
    """Open the stores that the settings name. Blocks."""
    from flowmason.values_fs import open_values

    store = StudioStore.open(settings.database_url, role="api")
    return Services(settings, store, open_values(settings.values_url), nudge=nudge)


def services_of(request: Request) -> Services:
    """The services of the application that answers a request."""
    found: Services = request.app.state.services
    return found
