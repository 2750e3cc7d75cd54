"""Somebody debugs the simulated run: breakpoints, steps, reruns and edits at random, and what must hold for them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from flowmason import debug
from flowmason import event as ev
from flowmason.conductor.loading import load_state
from flowmason.event import Recorded
from flowmason.ids import Ids, RunId, StagePath, format_path
from flowmason.journal import Command
from flowmason.journal_memory import MemoryJournal
from flowmason.plan import Plan, walk
from flowmason.state import Status
from flowmason.state.debugging import BEFORE

_CONDITIONS = ("", "", "", "context.pipeline_id == 'simulated'", "context.pipeline_id == 'other'", "input.nothing")
_HITS = ("", "", "", "2", "hits >= 2", "hits % 2 == 0")


def drawn(rng: random.Random, plan: Plan) -> ev.DebugChanged | None:
    """What stops a run; None: nobody debugs it."""
    if rng.random() < 0.6:
        return None
    return debug.read_changes(_arguments(rng, plan))


def _arguments(rng: random.Random, plan: Plan) -> dict[str, Any]:
    ids = sorted(stage for stage in plan.stages if stage != "$output")
    points = [
        {"stage": stage, "condition": rng.choice(_CONDITIONS), "hit_condition": rng.choice(_HITS)}
        for stage in rng.sample(ids, min(len(ids), rng.choice((0, 1, 1, 2, 3))))
    ]
    filters = rng.sample(debug.FILTERS, rng.choice((0, 0, 1, 2)))
    return {"breakpoints": points, "exceptions": filters, "stop_on_entry": rng.random() < 0.3}


class Somebody:
    """Gives commands now and then, and in the end lets the run go."""

    def __init__(self, journal: MemoryJournal, run_id: RunId, plan: Plan, ids: Ids, now: Callable[[], int]) -> None:
        self._journal = journal
        self._run_id = run_id
        self._plan = plan
        self._ids = ids
        self._now = now

    async def debug(self, rng: random.Random) -> None:
        """Look in at random; then let go."""
        for _ in range(rng.choice((0, 3, 10, 30))):
            await asyncio.sleep(rng.random() * 2)
            await self._something(rng)
        await self.let_go()

    async def let_go(self) -> None:
        """Nothing is to stop the run any more, and it goes on."""
        while True:
            await asyncio.sleep(5)
            await self.post("breakpoints", breakpoints=[], exceptions=[])
            await self.post("resume")

    async def post(self, name: str, **arguments: Any) -> None:
        """Put a command into the inbox."""
        command = Command(id=self._ids.command(), run_id=self._run_id, name=name, arguments=arguments, at=self._now())
        await self._journal.post(command)

    async def _something(self, rng: random.Random) -> None:
        name = rng.choices(
            ("continue", "step", "rerun", "edit", "breakpoints", "pause", "cancel"), (8, 8, 4, 2, 1, 1, 0.2)
        )[0]
        if name == "continue":
            await self.post(name, redo=rng.random() < 0.3)
        elif name == "step":
            await self.post(name, kind=rng.choice(("over", "over", "into", "into", "out")))
        elif name == "breakpoints":
            await self.post(name, **_arguments(rng, self._plan))
        elif name in ("rerun", "edit"):
            await self._again(rng, name)
        else:
            await self.post(name)

    async def _again(self, rng: random.Random, name: str) -> None:
        row = await self._journal.row(self._run_id)
        assert row is not None
        state = await load_state(self._journal, row)
        ended = [
            format_path(stage.path)
            for stage in state.stages.values()
            if stage.status in (Status.COMPLETED, Status.FAILED) and stage.stage.id != "$output"
        ]
        if ended:
            value = {"value": 1, "path": "edited"}
            await self.post(name, path=rng.choice(ended), **({"value": value} if name == "edit" else {}))


_BEGUN = (ev.StageStarted, ev.StageFinished, ev.StageFailed, ev.StageRetried, ev.StageExpanded)


def kept(events: list[Recorded], plan: Plan) -> list[str]:
    """What breakpoints and pauses promise."""
    problems: list[str] = []
    always: set[str] | None = None
    hit: set[StagePath] = set()
    before: StagePath | None = None
    paused = False
    cancelled = False
    for item in events:
        event = item.event
        if isinstance(event, ev.DebugChanged):
            points = {point.stage for point in event.breakpoints if not (point.condition or point.hit_condition)}
            # What is set later binds at the next dispatch: something may be under way.
            always = points if item.seq == 2 else set()
        elif isinstance(event, ev.BreakpointHit):
            hit.add(event.path)
            if event.stops:
                before = event.path if event.reason in BEFORE else None
        elif isinstance(event, ev.RunPaused):
            if paused:
                problems.append(f"{item.seq}: paused twice")
            paused = True
        elif isinstance(event, ev.RunResumed | ev.RunCancelling | ev.RunReopened):
            paused, before = False, None
            cancelled = cancelled or isinstance(event, ev.RunCancelling)
        elif isinstance(event, _BEGUN):
            if paused:
                problems.append(f"{item.seq}: {format_path(event.path)} began in a paused run")
            if event.path == before:
                problems.append(f"{item.seq}: {format_path(event.path)} began although the run stopped before it")
            if not cancelled and event.path[-1] in (always or ()) and event.path not in hit:
                problems.append(f"{item.seq}: {format_path(event.path)} ran past its breakpoint")
        elif isinstance(event, ev.ItemsFinished) and not cancelled:
            inside = {stage.id for scope in plan.stages[event.path[-1]].scopes for stage in walk(scope)}  # type: ignore[index]
            if inside & (always or set()):
                problems.append(f"{item.seq}: items of {format_path(event.path)} ran past a breakpoint")
    return problems


def within(path: StagePath, owner: StagePath, plan: Plan) -> bool:
    """Whether a stage is another one, or stands in its body."""
    around, name = owner[:-1], str(owner[-1])
    if path == owner:
        return True
    if len(path) <= len(around) or path[: len(around)] != around:
        return False
    inside = {stage.id for scope in plan.stages[name].scopes for stage in walk(scope)}  # type: ignore[index]
    return str(path[len(around)]).partition("~")[0] in {*inside, name}
