"""The items of a pure foreach on a worker.

A flat body (plain pure stages, no guards) takes a short way: each item runs its stages in order without
a scope of its own, and finished items leave as columns (`items.finished`). Any other body runs each
item as a scope, recorded stage by stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason import event as ev
from flowmason import value
from flowmason.errors import Failure
from flowmason.ids import StageId
from flowmason.plan import LOOP_TOTAL, ForeachBody, Stage
from flowmason.region.context import StageContext
from flowmason.region.roots import Roots, Upstream, fresh
from flowmason.region.stage import cancelled, execute, failed_attempt
from flowmason.state import ForeachState, StageState
from flowmason.usage import Call, total
from flowmason.value import Value

if TYPE_CHECKING:
    from flowmason.region.run import RegionRun

_COLLECT_S = 0.01

_Row = tuple[list[bytes], Failure | None, tuple[Call, ...]]
"""What an item left: its stages' outputs, why it failed, what its model calls used."""


class ItemLoop:
    """Runs ranges of items of one foreach, at most as many at once as it allows."""

    def __init__(self, run: RegionRun, owner: StageState, ranges: tuple[tuple[int, int], ...]) -> None:
        body, foreach = owner.stage.body, owner.body
        assert isinstance(body, ForeachBody) and isinstance(foreach, ForeachState)
        self._run = run
        self._owner = owner
        self._body = body
        self._foreach = foreach
        self._ranges = list(ranges)[::-1]
        self._active = 0
        self._stopped = False
        self._finished: dict[int, _Row] = {}
        self._items: list[Any] | None = None
        self._collected = run.worker.monotonic()
        self._since = self._run.worker.now()
        self._flat = body.scope.flat

    @property
    def finished(self) -> bool:
        """Whether no item is left to begin."""
        return (
            self._stopped or not self._ranges or self._foreach.doomed is not None or not self._run.wanted(self._owner)
        )

    @property
    def wanted(self) -> int:
        """How many more items may begin now."""
        if self.finished:
            return 0
        under_way = self._active if self._flat else len(self._foreach.open)
        return max(0, min(self._foreach.width - under_way, sum(stop - start for start, stop in self._ranges)))

    def _next(self) -> int:
        start, stop = self._ranges.pop()
        if start + 1 < stop:
            self._ranges.append((start + 1, stop))
        return start

    async def step(self) -> None:
        """Begin the next item; of a flat body: run it to its end."""
        index = self._next()
        if not self._flat:
            self._run.state.open_item(self._owner, index)
            return
        path = (*self._owner.path, index)
        self._active += 1
        self._run.outbox.under_way(path, True)
        try:
            await self._item(index)
        finally:
            self._active -= 1
            if index not in self._finished:  # else until it is proposed
                self._run.outbox.under_way(path, False)
        if self._run.over or self._run.worker.monotonic() - self._collected > _COLLECT_S or self.finished:
            self.collect()

    async def _item(self, index: int) -> None:
        run, body = self._run, self._body
        if self._items is None:
            self._items = run.items_of(self._foreach.items)
        outputs: dict[str, Value] = {}
        encoded: list[bytes] = []
        calls: list[tuple[Call, ...]] = []
        for stage in body.scope.stages:
            state = StageState(stage, self._owner.scope, (*self._owner.path, index, stage.id), 0)
            result, made = await self._stage(stage, state, index, outputs)
            calls.append(made)
            if isinstance(result, ev.StageFailed):
                self._failed(index, result, encoded, calls)
                return
            outputs[stage.id] = result
            encoded.append(result.data if isinstance(result, value.Inline) else value.encode(run.data.load(result)))
        self._finished[index] = (encoded, None, _all(calls))

    async def _stage(
        self, stage: Stage, state: StageState, index: int, outputs: dict[str, Value]
    ) -> tuple[Value | ev.StageFailed, tuple[Call, ...]]:
        run = self._run
        started, clock = run.worker.now(), run.worker.monotonic()

        def look_up(name: StageId) -> Value | None:
            return outputs[name] if name in outputs else run.state.value_of(self._owner.scope, name)

        upstream = Upstream(run.data, look_up)
        context = StageContext(run, state, upstream)
        try:
            inputs = run.worker.template(stage)(self._roots(state, index, upstream, context), None)
            return value.Inline(run.data.encode(await execute(run, state, inputs, context))), context.calls
        except BaseException as error:
            if cancelled(error):
                raise
            event = failed_attempt(run, state, error, started, clock, context)
            assert isinstance(event, ev.StageFailed)
            return event, context.calls
        finally:
            run.outbox.forget_spent(state.path)

    def _roots(self, state: StageState, index: int, upstream: Upstream, context: StageContext) -> Roots:
        made = Roots(self._run, state, upstream, context)
        assert self._items is not None
        made[LOOP_TOTAL] = self._foreach.total
        made[self._body.index_variable] = index
        made[self._body.item_variable] = fresh(self._items[index])
        return made

    def _failed(self, index: int, event: ev.StageFailed, encoded: list[bytes], calls: list[tuple[Call, ...]]) -> None:
        run = self._run
        if not run.wanted(self._owner):
            return
        if self._foreach.break_on_error:
            self._stopped = True
            self.collect()
            # The item is recorded stage by stage from here on, so that what it had finished stays.
            for stage, data, made in zip(self._body.scope.stages, encoded, calls, strict=False):
                path = (*self._owner.path, index, stage.id)
                output = run.data.keep_encoded(data)
                run.propose(ev.StageFinished(path=path, attempt=1, output=output, usage=total(made), calls=made))
            run.propose(event)
            return
        error = value.encode({"$error": msgspec.to_builtins(event.failure)})
        stages = self._body.scope.stages
        row = [*encoded, *([error] * (len(stages) - len(encoded)))]
        row[[stage.id for stage in stages].index(self._body.scope.last or StageId(""))] = error
        self._finished[index] = (row, event.failure, _all(calls))

    def collect(self) -> None:
        """Propose the items that finished since the last time, in as few events as they are neighbours."""
        finished, self._finished = self._finished, {}
        self._collected = self._run.worker.monotonic()
        since, self._since = self._since, self._run.worker.now()
        indexes = sorted(finished) if self._run.wanted(self._owner) else []
        begin = 0
        for end in range(1, len(indexes) + 1):
            if end < len(indexes) and indexes[end] == indexes[end - 1] + 1:
                continue
            self._propose(indexes[begin:end], finished, since)
            begin = end
        for index in finished:
            self._run.outbox.under_way((*self._owner.path, index), False)

    def _propose(self, indexes: list[int], rows: dict[int, _Row], since: int) -> None:
        columns: dict[str, Value] = {
            stage.id: self._run.data.keep_list([rows[index][0][position] for index in indexes])
            for position, stage in enumerate(self._body.scope.stages)
        }
        calls = _all(rows[index][2] for index in indexes)
        self._run.propose(
            ev.ItemsFinished(
                path=self._owner.path,
                start=indexes[0],
                count=len(indexes),
                columns=columns,
                failures={index: failure for index in indexes if (failure := rows[index][1]) is not None},
                started_at=since,
                duration_ms=float(self._since - since),
                usage=total(calls),
                calls=calls,
            )
        )


def _all(calls: Iterable[tuple[Call, ...]]) -> tuple[Call, ...]:
    return tuple(call for made in calls for call in made)
