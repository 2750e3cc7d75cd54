"""Served models through Serve's handles: for whoever runs on the same cluster. Imports Ray when it is used."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from flowmason.errors import Code, EngineUnavailableError, UsageError, did_you_mean
from flowmason.served import names
from flowmason_serve_apps.llm.engines import Body, Card, Chunk, Counts

_LISTED_S = 2.0
"""For how long a list of the models is believed."""
_DESCRIBED_S = 5.0
_TOLD_S = 10.0
"""For how long the details of a model are believed."""


def in_cluster() -> bool:
    """Whether this process belongs to a Ray on which a Serve runs."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


class Handles:
    """Finds the applications of models, and asks them. One per process."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._cards: dict[tuple[str, float], Card] = {}
        self._listed: tuple[float, dict[str, Card]] = (float("-inf"), {})
        self._told: dict[str, tuple[float, Card]] = {}
        self._lock = asyncio.Lock()

    async def answer(self, body: Body) -> AsyncGenerator[Chunk, None]:
        """The chunks of the answer of the model that the body names. Closing or cancelling ends the generation.

        Raises `UsageError` (`NOT_FOUND`) where nobody serves it, `EngineUnavailableError` where its replica is gone.
        """
        handle = await self._handle(names.adapted(str(body["model"]))[0])
        from ray.exceptions import RayError

        stream = handle.options(stream=True).answer.remote(body)
        done = False
        try:
            async for chunks in stream:
                for chunk in chunks:
                    yield chunk
            done = True
        except RayError as error:
            raise EngineUnavailableError(f"the model's replica is gone: {type(error).__name__}") from error
        finally:
            if not done:
                stream.cancel()

    async def counts(self, model: str) -> Counts:
        """The counters of one of the model's replicas."""
        handle = await self._handle(model)
        counts: Counts = await asyncio.wait_for(handle.counts.remote(), _DESCRIBED_S)
        return counts

    async def cards(self) -> dict[str, Card]:
        """The models that are served, by name. Those without a replica just now have no details."""
        async with self._lock:
            if time.monotonic() - self._listed[0] > _LISTED_S:
                self._listed = (time.monotonic(), await self._list())
            return self._listed[1]

    async def card(self, model: str) -> Card:
        """The details of one model, at most `_TOLD_S` old; waits for a replica where none has told them yet.

        Raises as `answer` does.
        """
        kept = self._told.get(model)
        asked = time.monotonic()
        if kept is not None and asked - kept[0] < _TOLD_S:
            return kept[1]
        found: Card | None = None
        with suppress(Exception):  # a controller that restarts: replicas answer meanwhile
            found = (await self.cards()).get(model)
        if found is None or not found.engine:
            found = kept[1] if kept is not None else await self._described(model)
        self._told[model] = (asked, found)
        return found

    async def _described(self, model: str) -> Card:
        handle = await self._handle(model)
        from ray.exceptions import RayError

        try:
            told: Card = await handle.describe.remote()
        except RayError as error:
            raise EngineUnavailableError(f"the model's replica is gone: {type(error).__name__}") from error
        return told

    async def _list(self) -> dict[str, Card]:
        from ray import serve

        status = await asyncio.to_thread(serve.status)
        found: dict[str, Card] = {}
        for application, overview in status.applications.items():
            model = names.served(application)
            if model is None or overview.status != "RUNNING":
                continue
            known = (model, float(overview.last_deployed_time_s))
            engine = overview.deployments.get(names.ENGINE)
            card = self._cards.get(known)
            if card is None and engine is not None and _runs(engine.replica_states):
                with suppress(Exception):  # a replica that ends just now
                    handle = await self._handle(model)
                    card = await asyncio.wait_for(handle.describe.remote(), _DESCRIBED_S)
            if card is not None:
                self._cards[known] = card
            found[model] = card or Card(model, "")
        return found

    async def _handle(self, model: str) -> Any:
        if model not in self._handles:
            from ray.serve.exceptions import RayServeException

            from ray import serve

            try:
                # Asks the controller, and waits for its answer.
                self._handles[model] = await asyncio.to_thread(serve.get_app_handle, names.application(model))
            except RayServeException as error:
                known = list(await self.cards())
                near = did_you_mean(model, known)
                hint = f"; did you mean {near!r}?" if near else f"; there are {', '.join(known)}" if known else ""
                raise UsageError(f"no model {model!r} is served here{hint}", code=Code.NOT_FOUND) from error
        return self._handles[model]


def _runs(states: Mapping[Any, int]) -> bool:
    return any(count and str(getattr(state, "value", state)) == "RUNNING" for state, count in states.items())
