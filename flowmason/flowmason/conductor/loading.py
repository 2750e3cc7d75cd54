"""From the journal to a state: what a conductor does first with a run it has claimed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from flowmason import event as ev
from flowmason.errors import Code, FormatError, JournalError
from flowmason.event import Frame, decode_events, encode_events
from flowmason.ids import PlanId, RunId
from flowmason.journal import Command, Journal, NewRun, RunRow
from flowmason.plan import Plan, decode
from flowmason.state import RunState


class History(Protocol):
    """What a state is folded from: a `Journal`, or the part of one that its reader may see."""

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        """As `Journal.frames`."""
        ...

    async def plan(self, plan_id: PlanId) -> bytes | None:
        """As `Journal.plan`."""
        ...


class JustRecorded:
    """The history of a run that was recorded a moment ago, as whoever recorded it knows it without asking."""

    def __init__(self, run: NewRun) -> None:
        self._run = run

    async def frames(self, run_id: RunId, after: int = 0) -> list[Frame]:
        """The first frame, with the events as everybody else reads them."""
        run = self._run
        return [Frame(run_id, run.org_id, 1, run.at, run.by, decode_events(encode_events(run.events)))]

    async def plan(self, plan_id: PlanId) -> bytes | None:
        """The run's Plan."""
        return self._run.plan if plan_id == self._run.plan_id else None


class Plans:
    """Plans of a journal, the latest ones kept: a Plan never changes, and decoding one costs more than a short run."""

    def __init__(self, journal: History, keep: int = 64) -> None:
        self._journal = journal
        self._keep = keep
        self._known: OrderedDict[PlanId, Plan] = OrderedDict()

    async def get(self, plan_id: PlanId) -> Plan:
        """A Plan; raises as `load_plan` does."""
        plan = self._known.get(plan_id)
        if plan is None:
            plan = self._known[plan_id] = await load_plan(self._journal, plan_id)
            if len(self._known) > self._keep:
                self._known.popitem(last=False)
        self._known.move_to_end(plan_id)
        return plan


async def load_state(
    journal: History, row: RunRow, plans: Plans | None = None, told: Callable[[ev.Event, int], None] | None = None
) -> RunState:
    """Fold a run's journal; `told` hears each event with its time (ms).

    Raises `FormatError` for one of a newer format, `JournalError` for a broken one.
    """
    frames = await journal.frames(row.run_id)
    events = [event for frame in frames for event in frame.events]
    if not events or not isinstance(events[0], ev.RunSubmitted):
        raise JournalError(f"the journal of run {row.run_id} does not begin with run.submitted", code=Code.STORAGE)
    submitted = events[0]
    if submitted.format > ev.FORMAT:
        raise FormatError(
            f"run {row.run_id} has journal format {submitted.format}; this FlowMason knows {ev.FORMAT}",
            help="Update FlowMason where the run is driven.",
        )
    plan_id = submitted.plan
    for event in events:
        if isinstance(event, ev.RunReopened) and event.plan is not None:
            # Accepted changes of components: the same stages, other digests.
            plan_id = event.plan
    plans = plans or Plans(journal)
    plan = await plans.get(plan_id)
    state = RunState(row.run_id, plan)
    expected = 1
    for frame in frames:
        if frame.first_seq != expected:
            raise JournalError(f"the journal of run {row.run_id} has a gap before seq {frame.first_seq}")
        expected = frame.last_seq + 1
        for offset, event in enumerate(frame.events):
            if isinstance(event, ev.StageExpanded) and event.plan is not None and event.plan not in state.plans:
                found = await plans.get(event.plan)
                state.plans.update({found.id: found, **found.plans})
            state.apply(event, seq=frame.first_seq + offset, at=frame.at)
            if told is not None:
                told(event, frame.at)
    return state


async def take_up(
    journal: Journal, row: RunRow, plans: Plans, told: Callable[[ev.Event, int], None], known: History | None
) -> tuple[RunState, list[Command]]:
    """What a walker begins with: the state of a run and its inbox. Raises as `load_state` does.

    `known` is the history of a run that began here a moment ago: then nothing is read. What came into its inbox
    since is there when the inbox is looked at next.
    """
    if known is not None:
        return await load_state(known, row, plans, told), []
    return await asyncio.gather(load_state(journal, row, plans, told), journal.commands([row.run_id]))


async def load_plan(journal: History, plan_id: PlanId) -> Plan:
    """A Plan from the journal. Raises `JournalError` where it is missing, `FormatError` for a newer format."""
    data = await journal.plan(plan_id)
    if data is None:
        raise JournalError(f"the journal has no Plan {plan_id}", code=Code.STORAGE)
    plan = decode(data)
    plan.__dict__["id"] = plan_id
    return plan
