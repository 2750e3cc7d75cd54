"""What a stage sees when it reads another: values across scopes, loops and branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flowmason import control, value
from flowmason.errors import Failure
from flowmason.ids import StageId
from flowmason.state.tree import ForeachState, Role, ScopeState, Single, StageState, Status, TryState
from flowmason.value import Value


def value_of(scope: ScopeState, stage_id: StageId) -> Value | None:
    """The value of `upstream.<stage_id>` for a reader in `scope`; None: skipped or not run."""
    here: ScopeState | None = scope
    chain = scope.plan.ancestors.get(stage_id, ())
    while here is not None:
        found = here.stages.get(stage_id)
        if found is not None:
            return _own(found)
        for position, name in enumerate(chain):
            owner = here.stages.get(name)
            if owner is not None:
                return _inside(owner, chain[position + 1 :], stage_id)
        if here.given is not None:
            return here.given.seeds.get(stage_id)
        here = here.parent
    return None


def find(scope: ScopeState, stage_id: StageId) -> StageState | None:
    """The state of a stage that stands in `scope` or in one around it."""
    here: ScopeState | None = scope
    while here is not None:
        found = here.stages.get(stage_id)
        if found is not None:
            return found
        here = here.parent
    return None


def _own(stage: StageState) -> Value | None:
    if stage.status is Status.COMPLETED:
        return stage.output
    body = stage.body
    if isinstance(body, TryState) and body.error is not None:
        # A catch or finally stage asks its own trycatch what went wrong.
        return error_record(body.error)
    return None


def _inside(owner: StageState, chain: tuple[StageId, ...], stage_id: StageId) -> Value | None:
    body = owner.body
    if isinstance(body, ForeachState):
        return column(body, stage_id) if owner.status is Status.COMPLETED else None
    if isinstance(body, TryState):
        for role in (Role.ATTEMPT, Role.RESCUE, Role.CLEANUP):
            scope = body.scopes.get(role)
            if scope is None:
                continue
            name = chain[0] if chain else stage_id
            found = scope.stages.get(name)
            if found is not None:
                return _inside(found, chain[1:], stage_id) if chain else _own(found)
    return None


def error_record(failure: Failure) -> Value:
    """`upstream.<trycatch>` as its catch and finally stages see it."""
    view = control.error_view(failure)
    return value.inline(
        {"error": view, "error_type": view["type"], "error_message": view["message"], "error_occurred": True}
    )


def column(body: ForeachState, stage_id: StageId) -> Value:
    """The outputs of one stage of a foreach's body, by position."""
    return _join(body, lambda columns: columns.get(stage_id), lambda single: single.outputs.get(stage_id))


def results(body: ForeachState, last: StageId | None) -> Value:
    """The last output of every item, by position."""
    return _join(body, lambda columns: columns.get(last or ""), lambda single: single.result)


def _join(body: ForeachState, of_chunk: _OfChunk, of_single: _OfSingle) -> Value:
    parts: list[tuple[int, Value]] = []
    for chunk in body.chunks:
        found = of_chunk(chunk.columns)
        parts.append((chunk.start, found if found is not None else value.inline([None] * chunk.count)))
    run: list[Value] = []
    start = -1
    for position in sorted(body.singles):
        if start >= 0 and position != start + len(run):
            parts.append((start, value.Sequence(run)))
            run, start = [], -1
        start = position if start < 0 else start
        run.append(of_single(body.singles[position]) or value.NULL)
    if run:
        parts.append((start, value.Sequence(run)))
    parts.sort(key=lambda part: part[0])
    if len(parts) == 1:
        return parts[0][1]
    return value.Concat([part for _, part in parts])


if TYPE_CHECKING:
    _OfChunk = Callable[[dict[str, Value]], Value | None]
    _OfSingle = Callable[[Single], Value | None]
