"""One region being run: its pieces as a small `RunState`, lanes that pull ready stages, an outbox of reports.

The loop thread proposes; a pulse (a thread of the worker) sends what has been proposed every 20 ms, also
while a component blocks the loop, and says once when the region's time is over what is still under way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowmason import event as ev
from flowmason.dispatch import error_of, local_values
from flowmason.errors import Failure
from flowmason.executor import Emit
from flowmason.ids import StagePath
from flowmason.plan import Plan
from flowmason.region.data import Data
from flowmason.region.failures import shortened
from flowmason.region.items import ItemLoop
from flowmason.region.outbox import Outbox
from flowmason.region.secret import DeclaredSecrets, mask_failure, masker_of
from flowmason.region.stage import perform
from flowmason.report import Ended, Piece, Region
from flowmason.state import ForeachState, Role, RunState, ScopeState, StageState, decide
from flowmason.state.tree import Given, Status
from flowmason.value import Value

if TYPE_CHECKING:
    from flowmason.region.worker import Worker

_EARLY_S = 0.005
_MOVED_PER_S = 256 * 1024 * 1024
"""Bytes of large values that a region may make or read for each second that it lasts longer."""
_LONGER_S = 0.25
"""How much longer at most."""


class RegionRun:
    """The running of one region. `worker` is what all regions of the process share."""

    def __init__(self, worker: Worker, region: Region, plan: Plan, emit: Emit) -> None:
        self.worker = worker
        self.region = region
        self.data = Data(worker.values, region.org_id)
        self.state = RunState(region.run_id, plan)
        self.state.status = Status.RUNNING
        self.masker = masker_of(region) or worker.masker
        self.lists: dict[int, list[Any]] = {}
        self.pieces: dict[int, Piece] = {}
        self.outbox = Outbox(self, emit)
        self._queue: deque[StageState] = deque()
        self._loops: deque[ItemLoop] = deque()
        self._allowed: set[StagePath] = set()
        self._lanes: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._deadline = worker.monotonic() + region.budget_ms / 1000
        self._timer: asyncio.TimerHandle | None = None
        self._numbers: dict[tuple[StagePath, int], int] = {}

    # -- the loop's side -------------------------------------------------------------------------

    async def run(self) -> None:
        """Run what the region's time allows; the last report carries `ended`."""
        try:
            for piece in self.region.pieces:
                self._open(piece)
            self._settle()
            if self._lanes and not self.region.effect:
                self._watch()
            while self._lanes:
                await self._idle.wait()
                self._idle.clear()
            self._collect(final=True)
            await self._stored()
        except asyncio.CancelledError:
            await self._stop()
            await self._stored()
            self.outbox.flush(Ended.CANCELLED)
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
        self.outbox.flush(Ended.DONE)

    async def _stored(self) -> None:
        """Wait until all that was proposed may leave."""
        for future in self.outbox.stores():
            with contextlib.suppress(Exception):
                await asyncio.shield(asyncio.wrap_future(future))

    def _watch(self) -> None:
        """Look again when (or, where more time may be had, shortly before) the region's time is over.

        Where the loop is blocked then, the pulse says what may go elsewhere.
        """
        left = self._due - self.worker.monotonic()
        wait = max(0.001, left - _EARLY_S if self.region.bounded and left > _EARLY_S else left)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(wait, self._look, loop.time() + wait)

    def _look(self, due: float) -> None:
        prompt = asyncio.get_running_loop().time() - due < _EARLY_S / 2
        with self.outbox.lock:
            if self.region.bounded and prompt and self._full and not self.outbox.released:
                self._deadline = self.worker.monotonic() + self.region.budget_ms / 1000
        if self.over:
            self.outbox.flush()
        else:
            self._watch()

    @property
    def _full(self) -> bool:
        """Whether everything that may run at once is under way, and something is left for later."""
        if len(self._lanes) < self.region.slots and any(loop.wanted for loop in self._loops):
            return False
        return bool(self._queue) or any(not loop.finished for loop in self._loops)

    @property
    def over(self) -> bool:
        """Whether the region's time is over: nothing new starts."""
        return self.outbox.released or self.outbox.unstored is not None or self.worker.monotonic() >= self._due

    @property
    def _due(self) -> float:
        """When the region's time is over.

        It lasts longer for the large values that were made here while nothing else waits: elsewhere they would have to
        be read and verified first.
        """
        if not self.data.handled or len(self._queue) > 1 or self._loops:
            return self._deadline
        return self._deadline + min(self.data.handled / _MOVED_PER_S, _LONGER_S)

    def propose(self, event: ev.StageEvent) -> None:
        """Propose an event, and take it into the region's own state.

        A sub-pipeline is begun by the conductor alone: it resolves the name, or makes a run of its own of it.
        """
        self.outbox.propose(event, self.data.begun())
        if not (isinstance(event, ev.StageExpanded) and event.input is not None):
            self.state.apply(event)

    def wanted(self, stage: StageState) -> bool:
        """Whether anybody still wants what comes of a stage: the body that it stood in may be over since it began."""
        return self.state.stages.get(stage.path) is stage and not stage.ended

    def number(self, path: StagePath, attempt: int) -> int:
        """The next number of a side stream."""
        key = (path, attempt)
        self._numbers[key] = n = self._numbers.get(key, 0) + 1
        return n

    def _open(self, piece: Piece) -> None:
        plan = self.worker.plan_of(self.region, piece.plan)
        self.state.plans[piece.plan] = plan
        first = plan.stages[piece.stages[0]]
        scope = self.worker.scope_of(plan, first.id)
        given = Given(piece.seeds, piece.choices, frozenset(piece.skipped))
        opened = self.state.open_scope(
            scope, plan, piece.scope, Role.PIECE, None, input=piece.input, only=frozenset(piece.stages), given=given
        )
        self.pieces[id(opened)] = piece
        for name, (attempt, round_, uncounted) in piece.attempts.items():
            state = opened.stages[name]
            state.attempt, state.round, state.base = attempt, round_, uncounted
        for name, edit in piece.edits.items():
            opened.stages[name].edit = edit
        self._allowed.update(state.path for state in opened.stages.values())
        if piece.items:
            owner = opened.stages[first.id]
            self.state.fresh.clear()
            total = max(stop for _, stop in piece.items)
            owner.status = Status.RUNNING
            opened.busy += 1
            assert piece.item_values is not None
            owner.body = ForeachState(total, piece.item_values, dict(piece.expanded), done=bytearray(total))
            self._loops.append(ItemLoop(self, owner, piece.items))

    def _settle(self) -> None:
        """Propose what follows from the state, queue what may start, and open lanes for it."""
        while True:
            runnable: list[StageState] = []
            now = self.worker.now()
            events = decide(self.state, now, runnable)
            for stage in runnable:
                allowed = stage.path in self._allowed or (stage.stage.pure and not self.region.shallow)
                if allowed and stage.not_before <= now:
                    self._queue.append(stage)
            for event in events:
                self.propose(event)  # type: ignore[arg-type]
                if isinstance(event, ev.StageExpanded):
                    self._expanded(event.path)
            if not events:
                break
        wanted = len(self._queue) + sum(loop.wanted for loop in self._loops)
        # An effect whose start is committed is begun however late it is.
        while len(self._lanes) < min(self.region.slots, wanted) and (self.region.effect or not self.over):
            task = asyncio.get_running_loop().create_task(self._lane())
            self._lanes.add(task)
            task.add_done_callback(self._lane_ended)

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        self._lanes.discard(task)
        if not self._lanes:
            self._idle.set()

    async def _lane(self) -> None:
        while self._queue or self._loops:
            if self.over and not self.region.effect:
                return
            if self._queue:
                stage = self._queue.popleft()
                if not stage.ready:
                    continue
                await self._one(stage)
            else:
                loop = self._loops[0]
                if not loop.wanted:
                    self._loops.rotate(-1)
                    if not any(each.wanted for each in self._loops):
                        self._loops = deque(each for each in self._loops if not each.finished)
                        return
                    continue
                await loop.step()
            self._settle()

    async def _one(self, stage: StageState) -> None:
        # Another attempt of an effect is not ours to begin: its own start must be committed first.
        self._allowed.discard(stage.path)
        # At every moment it is either under way or proposed: the pulse may look in between.
        self.outbox.under_way(stage.path, True)
        try:
            event = await perform(self, stage)
            if not self.wanted(stage):
                return
            self.propose(event)
        finally:
            self.outbox.under_way(stage.path, False)
        if isinstance(event, ev.StageExpanded):
            self._expanded(event.path)

    def _expanded(self, path: StagePath) -> None:
        owner = self.state.stages.get(path)
        body = owner.body if owner is not None else None
        if self.region.shallow:
            return
        if owner is not None and isinstance(body, ForeachState) and owner.stage.pure and body.total:
            self._loops.append(ItemLoop(self, owner, ((0, body.total),)))

    def _collect(self, *, final: bool = False) -> None:
        for loop in self._loops:
            loop.collect()
        if final:
            while True:
                events = decide(self.state, self.worker.now(), [])
                for event in events:
                    self.propose(event)  # type: ignore[arg-type]
                if not events:
                    return

    async def _stop(self) -> None:
        lanes = list(self._lanes)
        for lane in lanes:
            lane.cancel()
        if lanes:
            await asyncio.wait(lanes)
        self._collect()

    # -- what stages see -------------------------------------------------------------------------

    def piece_of(self, scope: ScopeState) -> Piece:
        """The piece that a scope (or the scopes around it) came in with."""
        here: ScopeState | None = scope
        while here is not None:
            if here.role is Role.PIECE:
                return self.pieces[id(here)]
            here = here.owner.scope if here.owner is not None else None
        raise KeyError("a scope without a piece")

    def locals_of(self, stage: StageState) -> Mapping[str, tuple[Value, int]]:
        """The loop variables around a stage."""
        piece = self.piece_of(stage.scope)
        inner = local_values(stage.scope)
        return {**piece.locals, **inner} if inner else piece.locals

    def items_of(self, source: Value) -> list[Any]:
        """A foreach's list, decoded once. Its items are shared: copy what is handed out."""
        items = self.lists.get(id(source))
        if items is None:
            items = self.lists[id(source)] = self.worker.items_of(self.region.org_id, source, self.data)
        return items

    def error_of(self, stage: StageState) -> Failure | None:
        """The failure that the stage's catch deals with."""
        return error_of(stage.scope) or self.piece_of(stage.scope).error

    def input_of(self, stage: StageState) -> Any:
        """`input` of the stage's pipeline."""
        return None if stage.scope.input is None else self.data.load(stage.scope.input)

    # -- secrets ---------------------------------------------------------------------------------

    def secrets_for(self, stage: StageState) -> DeclaredSecrets:
        """The secrets that the stage's component declared."""
        ref = stage.scope.plan.components[stage.stage.component]
        return self.worker.services.secrets_for(ref.secrets, ref.name, self.region, self.masker)

    def mask(self, data: Any) -> Any:
        """What a component made, without the secrets that the call was handed: it is going to be recorded."""
        return data if self.region.handed is None else self.masker.mask(data)

    def mask_failure(self, failure: Failure) -> Failure:
        """The failure without secrets, and shortened after that: half of a secret would not be found."""
        return shortened(mask_failure(failure, self.masker))
