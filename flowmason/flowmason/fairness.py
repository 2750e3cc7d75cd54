"""Who comes next where several orgs want the same thing: places of runs, and room for regions. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import msgspec

from flowmason.ids import OrgId, RunId


class OrgLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an org may have of what all share."""

    max_concurrent_runs: int | None = None
    """Runs that conductors hold at once; None: as many as there is room for."""
    max_queued_runs: int | None = None
    """Runs that may wait; None: any number."""
    weight: int = 1
    """Its part of what is scarce, beside the weights of others; at least 1."""


NO_LIMITS = OrgLimits()


class Waiting(msgspec.Struct, frozen=True):
    """A run that waits for a conductor."""

    run_id: RunId
    since: int
    """When it was submitted; milliseconds since the epoch."""


def in_turn(
    room: int,
    waiting: Mapping[OrgId, Sequence[Waiting]],
    *,
    held: Mapping[OrgId, int],
    limits: Mapping[OrgId, OrgLimits],
    spare: int = 0,
) -> list[tuple[OrgId, RunId]]:
    """Which of the waiting runs get the `room` places, in the order of their turns.

    `waiting` gives each org's runs in the org's own order; `held` how many runs of an org have a place already. The
    org with the fewest places for its weight comes next, at equal parts the one whose run has waited longest; no org
    gets more than its `max_concurrent_runs`. The last `spare` places go only to orgs that have fewer than `spare`
    places: one that came first and alone leaves room for those that come later.
    """
    chosen: list[tuple[OrgId, RunId]] = []
    places = dict(held)
    following = {org: iter(runs) for org, runs in waiting.items()}
    heap: list[tuple[float, int, OrgId, RunId]] = []

    def stand_in_line(org: OrgId) -> None:
        own, limit = places.get(org, 0), limits.get(org, NO_LIMITS)
        if limit.max_concurrent_runs is not None and own >= limit.max_concurrent_runs:
            return
        run = next(following[org], None)
        if run is not None:
            heapq.heappush(heap, (own / max(1, limit.weight), run.since, org, run.run_id))

    for org in waiting:
        stand_in_line(org)
    while heap and len(chosen) < room:
        _, _, org, run_id = heapq.heappop(heap)
        if room - len(chosen) <= spare and places.get(org, 0) >= spare:
            continue
        chosen.append((org, run_id))
        places[org] = places.get(org, 0) + 1
        stand_in_line(org)
    return chosen
