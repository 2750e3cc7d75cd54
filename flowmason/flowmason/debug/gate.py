"""What a debugged run may start, and where it stops: what the conductor asks before it sends anything out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from flowmason import event as ev
from flowmason.debug.points import hit_template, last_id, matches
from flowmason.debug.sight import Load, Sight
from flowmason.errors import FlowMasonError
from flowmason.expressions import evaluate
from flowmason.ids import StagePath
from flowmason.plan import SubPipelineBody, walk
from flowmason.state import RunState, StageState, Status
from flowmason.value import Value

Order = tuple[tuple[int, int], ...]


class Gate:
    """Asked by one conductor while it walks one run. Remembers which conditions were false, to ask each but once."""

    def __init__(self, state: RunState, load: Load) -> None:
        self._state = state
        self._load = load
        self._passed: set[tuple[StagePath, int]] = set()
        self._points: tuple[ev.Breakpoint, ...] = ()
        self._lists: dict[int, tuple[Value, object]] = {}

    @property
    def active(self) -> bool:
        """Whether anything may stop the run. A run that is being cancelled cleans up without a stop."""
        return self._state.debug.active and self._state.cancelling is None

    def free(self, stage: StageState) -> bool:
        """Whether a stage may start as soon as its needs have ended, without being asked about again."""
        return self._covered(stage) and not self._marked(stage)

    def shallow(self, owner: StageState) -> bool:
        """Whether the run may have to stop inside the body of a stage, so that no worker may run it whole."""
        debug, body = self._state.debug, owner.stage.body
        if body is None or isinstance(body, SubPipelineBody):
            return False  # a sub-pipeline's stages are sent out by the conductor in any case
        if debug.exceptions:
            return True
        if debug.step is not None and not self._covered(owner, inside=True):
            return True
        inside = {stage.id for scope in owner.stage.scopes for stage in walk(scope)}
        return any(last_id(point) in inside for point in debug.breakpoints)

    def sift(self, ready: Sequence[StageState]) -> tuple[list[StageState], list[ev.Event]]:
        """Of stages whose needs have ended: which may start now, and what is to be recorded (counts, a stop).

        Where a breakpoint stops the run, what is ready beside it and free of breakpoints starts all the same; what
        has a breakpoint of its own waits until the run goes on.
        """
        step = self._state.debug.step
        if self._points is not self._state.debug.breakpoints:
            self._points = self._state.debug.breakpoints
            self._passed.clear()
        going: list[StageState] = []
        asked: list[StageState] = []
        held: list[StageState] = []
        for stage in ready:
            if not self._covered(stage):
                held.append(stage)
            elif (step is not None and step.step == "rerun") or not self._marked(stage):
                going.append(stage)
            else:
                asked.append(stage)
        events: list[ev.Event] = []
        counts: Counter[str] = Counter()
        for stage in sorted(asked, key=order):
            hit = self._ask(stage, counts, events)
            if hit is not None:
                return going, [*events, hit, ev.RunPausing(reason=f"breakpoint on {hit.breakpoint}")]
            going.append(stage)
        if step is not None and self._over(step):
            stop = self._after_step(step, held, counts, events)
            if stop is not None:
                return going, [*events, stop, ev.RunPausing(reason=stop.reason)]
        return going, events

    def _after_step(
        self, step: ev.DebugStepped, held: list[StageState], counts: Counter[str], events: list[ev.Event]
    ) -> ev.BreakpointHit | None:
        if step.step == "rerun":
            stage = self._state.stages.get(step.path)
            failure = stage.failure if stage is not None else None
            return ev.BreakpointHit(path=step.path, reason="rerun", failure=failure)
        if not held:
            return None
        first = min(held, key=order)
        reason = "entry" if step.step == "entry" else "step"
        hit = self._ask(first, counts, events) if self._marked(first) else None
        return hit or ev.BreakpointHit(path=first.path, reason=reason)

    # -- steps -----------------------------------------------------------------------------------

    def _covered(self, stage: StageState, *, inside: bool = False) -> bool:
        """Whether the step under way takes the stage; with `inside`, everything in its body."""
        step = self._state.debug.step
        if step is None:
            return True
        if not step.path:
            return False
        if stage.path == step.path:
            return step.step in ("over", "out") if inside else True
        return step.step in ("over", "out") and _inside(stage, step.path)

    def _over(self, step: ev.DebugStepped) -> bool:
        """Whether what a step takes has ended (or, into: has begun its body)."""
        stage = self._state.stages.get(step.path) if step.path else None
        if stage is None or stage.ended:
            return True
        return step.step == "into" and stage.body is not None and stage.status is Status.RUNNING

    # -- breakpoints -----------------------------------------------------------------------------

    def _marked(self, stage: StageState) -> bool:
        """Whether a breakpoint lies on the stage that has still to be asked about."""
        debug, key = self._state.debug, (stage.path, stage.round)
        if key in debug.released or key in self._passed:
            return False
        return any(matches(point, stage) for point in debug.breakpoints)

    def _ask(self, stage: StageState, counts: Counter[str], events: list[ev.Event]) -> ev.BreakpointHit | None:
        """The stop before a stage; None: it goes on, and what it counts for joins `events`."""
        debug = self._state.debug
        for point in debug.breakpoints:
            if not matches(point, stage):
                continue
            try:
                if point.condition and not self._sight(stage).read(point.condition):
                    continue
            except FlowMasonError as error:
                note = f"the condition cannot be told: {error.failure.message}"
                return ev.BreakpointHit(path=stage.path, breakpoint=point.stage, note=note)
            known = debug.counted.get((stage.path, stage.round, point.stage))
            counts[point.stage] += known is None
            number = known or debug.hits.get(point.stage, 0) + counts[point.stage]
            hit = ev.BreakpointHit(path=stage.path, breakpoint=point.stage, hit=number)
            if not point.hit_condition:
                return hit
            try:
                if evaluate(hit_template(point.hit_condition), {"hits": number}):
                    return hit
            except FlowMasonError as error:
                note = f"the hit condition cannot be told: {error.failure.message}"
                return ev.BreakpointHit(path=stage.path, breakpoint=point.stage, hit=number, note=note)
            if known is None:
                events.append(msgspec.structs.replace(hit, stops=False))
        self._passed.add((stage.path, stage.round))
        return None

    def _sight(self, stage: StageState) -> Sight:
        return Sight(self._state, stage, self._kept)

    def _kept(self, source: Value) -> object:
        """A foreach's list serves the conditions of all its items: the last few values stay decoded."""
        found = self._lists.get(id(source))
        if found is None or found[0] is not source:
            if len(self._lists) >= 8:
                self._lists.clear()
            found = self._lists[id(source)] = (source, self._load(source))
        return found[1]


def order(stage: StageState) -> Order:
    """Sorts stages as somebody reads the file, a body with the stage that owns it."""
    found: list[tuple[int, int]] = []
    here: StageState | None = stage
    while here is not None:
        found.append((here.scope.position, here.stage.index))
        here = here.scope.owner
    return tuple(reversed(found))


def _inside(stage: StageState, path: StagePath) -> bool:
    owner = stage.scope.owner
    while owner is not None:
        if owner.path == path:
            return True
        owner = owner.scope.owner
    return False
