"""The Studio on Ray Serve: the application, and the keeper, a driver that deploys it and looks that it stays.

`configs/serve/studio.yaml` names `application` for a cluster that exists. `fm studio start` runs the keeper:
`python -m flowmason_serve_apps.studio.deploy ADDRESS OPTIONS`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import msgspec

from flowmason_serve_apps.llm.keeping import ModelKeeper
from flowmason_serve_apps.studio.conductors import Nudger, PoolKeeper
from flowmason_serve_apps.studio.supervised import StudioOptions, private_variables
from flowmason_serve_apps.studio.upkeep import Upkeep
from ray import serve

NAME = "studio"
NAMESPACE = "flowmason"
_LOOK_S = 2.0
_MOST_ONGOING = 10_000
"""Requests that a replica answers at once; each reader of a live run is one."""
_NO_CPU = {"num_cpus": 0}
"""Handlers wait for the database: they hold no CPU that a stage could use."""

log = logging.getLogger("flowmason.studio.keeper")


class StudioArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `application` in a Serve config."""

    replicas: int = 2
    conductors: int = 0
    """How many conductors a deployment of its own keeps alive; 0: somebody else does, as `fm studio start`."""


def asgi() -> Any:
    """The FastAPI application, made where a replica runs."""
    os.environ.update(private_variables(os.environ))
    from flowmason.studio import logs
    from flowmason_serve_apps.studio.app import make_app

    # The process's own stderr: what Serve puts in its place looks up the stack for every line.
    logs.install(stream=sys.__stderr__)
    return make_app(nudge=Nudger().nudge)


class Api:
    """A replica of the API. `beside` are deployments that live as long as it."""

    def __init__(self, *beside: Any) -> None:
        self._beside = beside


class Conductors:
    """A replica that keeps the pool of conductors, in a cluster where no keeper does."""

    def __init__(self, size: int) -> None:
        os.environ.update(private_variables(os.environ))
        self._keeper = PoolKeeper(size, os.environ)
        self._keeper.start()

    def check_health(self) -> None:
        """Raise where the conductors cannot be kept; Serve then starts another replica."""
        self._keeper.check()


def application(args: dict[str, Any]) -> serve.Application:
    """The Studio as a Serve application; the import path of `configs/serve/studio.yaml`.

    Raises `msgspec.ValidationError` for arguments that `StudioArguments` does not have.
    """
    wanted = msgspec.convert(args, StudioArguments, strict=False)
    api: Any = serve.deployment(
        serve.ingress(asgi)(Api),
        name="api",
        num_replicas=wanted.replicas,
        max_ongoing_requests=_MOST_ONGOING,
        graceful_shutdown_timeout_s=5,
        health_check_period_s=2,
        health_check_timeout_s=10,
        ray_actor_options=_NO_CPU,
    )
    beside = []
    if wanted.conductors:
        conductors: Any = serve.deployment(Conductors, name="conductors", ray_actor_options=_NO_CPU)
        beside.append(conductors.bind(wanted.conductors))
    bound: serve.Application = api.bind(*beside)
    return bound


class Keeper:
    """Deploys the application, and again where it is gone; ends when it is told to, or when Ray is lost."""

    def __init__(self, address: str, options: StudioOptions) -> None:
        self._address = address
        self._options = options
        self._ended = threading.Event()

    def run(self) -> None:
        """Keep the Studio until told to end. Blocks. Raises whatever Ray raises once the cluster is lost."""
        self._connect()
        # After Ray has set its own.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        pool, upkeep = PoolKeeper(self._options.conductors, os.environ), Upkeep(os.environ)
        models = ModelKeeper(os.environ)
        # First of all: runs wait for them, and nothing of them waits for Serve.
        pool.start()
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": self._options.host, "port": self._options.port},
        )
        while not self._ended.is_set():
            if not self._is_there():
                begun = time.monotonic()
                args = {"replicas": self._options.replicas}
                serve.run(application(args), name=NAME, route_prefix="/")
                log.info("deployed in %.1f s", time.monotonic() - begun)
            upkeep.look()
            models.look()
            self._ended.wait(_LOOK_S)
        pool.stop()

    def _connect(self) -> None:
        import ray
        from flowmason_actors import tokens

        tokens.apply(tokens.ours(os.environ), own=True)
        ray.init(
            address=self._address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.WARNING,
        )

    def _is_there(self) -> bool:
        """Whether Serve knows the application with as many replicas as are wanted; it looks after those itself."""
        found = serve.status().applications.get(NAME)
        if found is None or found.status in ("DEPLOY_FAILED", "NOT_STARTED", "DELETING"):
            return False
        api = found.deployments.get("api")
        return api is None or sum(api.replica_states.values()) > 0

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ended.set()


def main() -> None:
    """Run the keeper with the address of the GCS and `StudioOptions` as JSON."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    os.environ.update(private_variables(os.environ))
    address, options = sys.argv[1:]
    Keeper(address, msgspec.json.decode(options, type=StudioOptions)).run()


if __name__ == "__main__":
    main()
