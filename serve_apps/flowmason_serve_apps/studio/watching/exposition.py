"""The figures as Prometheus reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowmason.ids import OrgId
from flowmason.journal import TERMINAL
from flowmason.studio.figures import BUCKETS_S, Figures, figures
from flowmason.studio.scope import StudioStore

if TYPE_CHECKING:
    from flowmason_serve_apps.studio.services import Services

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FRESH_MS = 10_000
"""For how long figures are told again without asking the database."""

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "flowmason_runs": ("Runs that are not over: waiting for a conductor, or walked by one.", ("org", "state")),
    "flowmason_queue_oldest_seconds": ("Age of the oldest run that waits for a conductor.", ("org",)),
    "flowmason_recent_runs": ("Runs submitted in the last 24 h, by status.", ("org", "status")),
    "flowmason_recent_stages": ("Stages of these runs that completed or failed.", ("org", "status")),
    "flowmason_recent_tokens": ("Tokens that these runs used.", ("org", "direction")),
    "flowmason_recent_cost_dollars": ("What their model calls cost, where the price is known.", ("org",)),
    "flowmason_recent_run_seconds": ("Durations of those that ended.", ("org",)),
    "flowmason_http_request_seconds": (
        "How long requests took, until the last byte of their answer.",
        ("replica", "method", "route", "status"),
    ),
}
"""Name → meaning, labels."""


class Exposition:
    """Answers scrapes. One per process; on the event loop. A crowd of scrapers costs one question per org."""

    def __init__(self) -> None:
        self._told: dict[OrgId | None, tuple[int, Figures]] = {}
        self._asking: dict[OrgId | None, asyncio.Lock] = {}
        self._owner: StudioStore | None = None

    async def text(self, services: Services, org: OrgId | None, requests: CollectorRegistry | None) -> bytes:
        """The figures of an org, or of all; with those of this process's requests, if given."""
        async with self._asking.setdefault(org, asyncio.Lock()):
            told = self._told.get(org)
            if told is None or services.now() - told[0] >= FRESH_MS:
                told = services.now(), await asyncio.to_thread(self._ask, services, org)
                self._told[org] = told
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Runs(told[1], services.now()))
        found = generate_latest(registry)
        return found if requests is None else found + generate_latest(requests)

    def close(self) -> None:
        """Let go of connections."""
        if self._owner is not None:
            self._owner.close()

    def _ask(self, services: Services, org: OrgId | None) -> Figures:
        if org is not None:
            with services.store.scope(org, writing=False) as scope:
                return figures(scope.system, services.now(), [org])
        # An operator sees every org: the API's own role would see none.
        if self._owner is None:
            self._owner = StudioStore.open(services.settings.database_url)
        with self._owner.system(writing=False) as system:
            return figures(system, services.now())


class _Runs(Collector):
    def __init__(self, found: Figures, now: int) -> None:
        self._found = found
        self._now = now

    def collect(self) -> Iterator[Metric]:
        runs, oldest = _gauge("flowmason_runs"), _gauge("flowmason_queue_oldest_seconds")
        for each in self._found.now:
            runs.add_metric([each.org_id, "waiting"], each.waiting)
            runs.add_metric([each.org_id, "walked"], each.walked)
            age = 0 if each.oldest is None else max(0, self._now - each.oldest) / 1000
            oldest.add_metric([each.org_id], age)
        recent, stages = _gauge("flowmason_recent_runs"), _gauge("flowmason_recent_stages")
        tokens, cost = _gauge("flowmason_recent_tokens"), _gauge("flowmason_recent_cost_dollars")
        name = "flowmason_recent_run_seconds"
        seconds = GaugeHistogramMetricFamily(name, METRICS[name][0], labels=METRICS[name][1])
        for org in sorted({each.org_id for each in self._found.past}):
            mine = [each for each in self._found.past if each.org_id == org]
            for past in mine:
                recent.add_metric([org, past.status], past.runs)
            stages.add_metric([org, "completed"], sum(each.stages_completed for each in mine))
            stages.add_metric([org, "failed"], sum(each.stages_failed for each in mine))
            tokens.add_metric([org, "input"], sum(each.input_tokens for each in mine))
            tokens.add_metric([org, "output"], sum(each.output_tokens for each in mine))
            cost.add_metric([org], sum(each.cost_dollars for each in mine))
            ended = [each for each in mine if each.status in TERMINAL]
            counts = [sum(column) for column in zip(*(each.within for each in ended), strict=True)] or [0] * len(
                BUCKETS_S
            )
            every = sum(each.timed for each in ended)
            buckets: Iterable[tuple[str, float]] = [*zip(map(str, BUCKETS_S), counts, strict=True), ("+Inf", every)]
            seconds.add_metric([org], list(buckets), sum(each.seconds for each in ended))
        yield from (runs, oldest, recent, stages, tokens, cost, seconds)


def _gauge(name: str) -> GaugeMetricFamily:
    meaning, labels = METRICS[name]
    return GaugeMetricFamily(name, meaning, labels=labels)
