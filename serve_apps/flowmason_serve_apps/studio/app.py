"""`make_app`: the Studio's FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from flowmason_serve_apps.studio import problems
from flowmason_serve_apps.studio.guard.door import Door
from flowmason_serve_apps.studio.guard.limiting import limiter_of
from flowmason_serve_apps.studio.mcp_endpoint import Endpoint
from flowmason_serve_apps.studio.routes import OUTSIDE, ROUTERS
from flowmason_serve_apps.studio.services import Nudge, Services, nobody, open_services
from flowmason_serve_apps.studio.settings import StudioSettings, settings_from
from flowmason_serve_apps.studio.watching.exposition import Exposition
from flowmason_serve_apps.studio.watching.requests import Requests, Watching

PREFIX = "/api/v1"


def make_app(
    settings: StudioSettings | None = None, services: Services | None = None, *, nudge: Nudge = nobody
) -> FastAPI:
    """The application. Its services are opened when it starts, unless they are handed in, and closed when it ends.

    `nudge` tells conductors that there is something to do, for services that are opened here.
    """

    known = services.settings if services is not None else settings or settings_from()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services or open_services(known, nudge)
        try:
            async with app.state.mcp.running():
                yield
        finally:
            await app.state.services.close()
            app.state.exposition.close()
            await limiter.close()
            await asyncio.to_thread(requests.close)

    app = FastAPI(
        title="FlowMason Studio",
        version=version("flowmason"),
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        separate_input_output_schemas=False,
        # Behind a proxy that ends TLS it would send clients, and what they hold, to http://.
        redirect_slashes=False,
        lifespan=lifespan,
    )
    problems.install(app)
    requests = app.state.requests = Requests()
    app.state.exposition = Exposition()
    app.state.mcp = Endpoint(app)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    for router in OUTSIDE:
        app.include_router(router, include_in_schema=False)
    limiter = limiter_of(known.redis_url, known.replicas)
    app.add_middleware(Door, settings=known, limiter=limiter)
    # The last one added is the outermost: it sees every request, also those that others refuse.
    app.add_middleware(Watching, requests=requests)
    return app
