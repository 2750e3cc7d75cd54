"""What a region has to say: proposed events whose values are being stored, what goes beside them, what is under way.

The loop's thread fills it, and a pulse (a thread of the worker) sends it, also while a component blocks the loop.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from flowmason import event as ev
from flowmason.errors import Failure
from flowmason.executor import Emit
from flowmason.ids import StagePath
from flowmason.region.data import Stores
from flowmason.region.stage import unstored
from flowmason.report import Delta, Ended, LogLine, Progress, Report, Side, Spent
from flowmason.usage import Call

if TYPE_CHECKING:
    from flowmason.region.run import RegionRun


class Outbox:
    """The reports of one region, before they leave."""

    def __init__(self, run: RegionRun, emit: Emit) -> None:
        self.lock = threading.Lock()
        self.released = False
        """Whether it was said that the region's time is over."""
        self.unstored: Failure | None = None
        """Why a value could not be stored; what was proposed after it has not run."""
        self._run = run
        self._emit = emit
        self._events: deque[tuple[ev.StageEvent, Stores]] = deque()
        self._lost = False
        self._side: list[Side] = []
        self._running: dict[StagePath, None] = {}
        self._spent: dict[StagePath, list[Spent]] = {}
        """Model calls of attempts that have not ended."""
        self._untold: list[Spent] = []

    # -- the loop's side -------------------------------------------------------------------------

    def propose(self, event: ev.StageEvent, stores: Stores) -> None:
        """Send an event once its values are stored."""
        self._events.append((event, stores))
        self._spent.pop(event.path, None)

    def stores(self) -> list[Future[None]]:
        """What is being stored of what was proposed."""
        return [future for _, stores in list(self._events) for future in stores]

    def side(self, entry: Side) -> None:
        """Send something beside the journal."""
        self._side.append(entry)

    def spent(self, path: StagePath, attempt: int, n: int, call: Call) -> None:
        """A model call of an attempt ended."""
        made = Spent(path, attempt, n, call)
        self._spent.setdefault(path, []).append(made)
        self._untold.append(made)

    def forget_spent(self, path: StagePath) -> None:
        """The calls of an attempt at `path` are told with the item that it belongs to."""
        self._spent.pop(path, None)

    def under_way(self, path: StagePath, running: bool) -> None:
        """Note what is being executed."""
        if running:
            self._running[path] = None
        else:
            self._running.pop(path, None)

    # -- the pulse's side ------------------------------------------------------------------------

    def flush(self, ended: Ended | None = None, failure: Failure | None = None) -> None:
        """Send what has been proposed since the last time; called from the loop and from the pulse."""
        with self.lock:
            events = self._storable()
            if self._lost and ended is Ended.DONE:
                ended, failure = Ended.LOST, self.unstored
            side, self._side = self._side, []
            spent, self._untold = self._untold, []
            if ended is not None:
                # An attempt that was ended has no event of its own: who ended it hears all of it, if only once more.
                spent = [made for calls in self._spent.values() for made in calls]
            released = not self.released and ended is None and self._run.over and not self._run.region.effect
            if not (events or side or spent or released or ended is not None):
                return
            if released:
                self.released = True
            self._emit(
                Report(
                    region=self._run.region.id,
                    events=tuple(events),
                    logs=tuple(entry for entry in side if isinstance(entry, LogLine)),
                    deltas=tuple(entry for entry in side if isinstance(entry, Delta)),
                    progress=tuple(entry for entry in side if isinstance(entry, Progress)),
                    spent=tuple(spent),
                    released=released,
                    running=self._under_way() if released or ended is not None else (),
                    ended=ended,
                    failure=failure,
                    worker=self._run.worker.name,
                )
            )

    def _storable(self) -> list[ev.StageEvent]:
        """What may leave: in the order in which it was proposed, up to the first whose values are not stored yet."""
        leaving: list[ev.StageEvent] = []
        if self.unstored is not None:
            self._events.clear()
        while self._events and all(store.done() for store in self._events[0][1]):
            event, stores = self._events.popleft()
            error = next((found for store in stores if (found := store.exception()) is not None), None)
            if error is None:
                leaving.append(event)
                continue
            # What follows may rest on a value that nobody else can read: it has not run.
            failed, self.unstored = unstored(self._run, event, error)
            leaving += [failed] if failed is not None else []
            self._lost = failed is None
            self._events.clear()
        return leaving

    def _under_way(self) -> tuple[StagePath, ...]:
        """What is being executed, and what waits for its values to be stored."""
        found = dict(self._running)
        for event, _ in list(self._events):
            if isinstance(event, ev.ItemsFinished):
                found.update(((*event.path, index), None) for index in range(event.start, event.start + event.count))
            else:
                found[event.path] = None
        return tuple(found)
