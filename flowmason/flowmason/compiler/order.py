"""The topological order of every scope, and the rings that prevent one."""

from __future__ import annotations

import heapq

from flowmason.compiler.draft import Draft, Place, Work
from flowmason.compiler.faults import Known
from flowmason.ids import StageId


def sort_scopes(work: Work) -> None:
    """Put the members of every scope into topological order; tell of rings."""
    for place in [work.root, *(place for draft in work.drafts for place in draft.places.values())]:
        place.members = _sorted(work, place)


def _sorted(work: Work, place: Place) -> list[Draft]:
    here = {member.id: member for member in place.members}
    needs = {member.id: [need for need in member.needs if need in here] for member in place.members}
    dependents: dict[StageId, list[StageId]] = {name: [] for name in here}
    for name, needed in needs.items():
        for need in needed:
            dependents[need].append(name)
    missing = {name: len(needed) for name, needed in needs.items()}
    ready = [(here[name].position, name) for name, count in missing.items() if count == 0]
    heapq.heapify(ready)
    ordered: list[Draft] = []
    while ready:
        _, name = heapq.heappop(ready)
        ordered.append(here[name])
        for dependent in dependents[name]:
            missing[dependent] -= 1
            if missing[dependent] == 0:
                heapq.heappush(ready, (here[dependent].position, dependent))
    left = [member for member in place.members if missing[member.id]]
    if left:
        _tell_rings(work, left, {member.id: member for member in left})
    return [*ordered, *left]


def _tell_rings(work: Work, left: list[Draft], stuck: dict[StageId, Draft]) -> None:
    """Follow, from every stage that is stuck, one need that is stuck too: each walk ends in a ring."""
    seen: dict[str, int] = {}
    for walk, start in enumerate(left):
        trail: list[Draft] = []
        here = start
        while here.id not in seen:
            seen[here.id] = walk
            trail.append(here)
            needs = [stuck[need] for need in here.needs if need in stuck]
            here = min(needs, key=lambda draft: draft.index)
        if seen[here.id] == walk:
            _tell(work, trail[trail.index(here) :])


def _tell(work: Work, ring: list[Draft]) -> None:
    first = min(range(len(ring)), key=lambda position: ring[position].index)
    ring = [*ring[first:], *ring[:first]]
    names: list[str] = [draft.id for draft in ring]
    if len(names) > 12:
        names = [*names[:6], "…", *names[-5:]]
    edges = [(draft, ring[(position + 1) % len(ring)]) for position, draft in enumerate(ring)]
    why = [draft.needs[need.id] for draft, need in edges]
    if len(why) > 12:
        why = [*why[:12], "…"]
    work.leave_open(Known.EDGES)
    text = f"stages that wait for each other: {' → '.join([*names, ring[0].id])} ({'; '.join(why)})"
    work.fault(ring[0], ring[0].pointer, text)
