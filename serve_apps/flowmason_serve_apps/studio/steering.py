"""Commands to a run, refused at once where they make no sense as the run stands; its conductor answers the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowmason import debug
from flowmason.assembly.resuming import check_budget
from flowmason.errors import Code, RefusedError, UsageError
from flowmason.event import Event
from flowmason.ids import RunId
from flowmason.journal import TERMINAL, RunRow
from flowmason.state import RunState
from flowmason.studio.identity.callers import Caller
from flowmason_serve_apps.studio import running
from flowmason_serve_apps.studio.details import no_run
from flowmason_serve_apps.studio.noting import noted
from flowmason_serve_apps.studio.services import Services

_STATES: dict[str, tuple[str, ...]] = {
    "cancel": ("queued", "running", "paused"),
    "pause": ("queued", "running", "paused"),
    "resume": ("running", "paused", "failed"),
}
_DEBUG: dict[str, Callable[[RunState, Mapping[str, Any]], list[Event]]] = {
    "breakpoints": debug.change,
    "continue": debug.continue_,
    "step": debug.step,
    "rerun": debug.rerun,
}
_AS_IT_STANDS = frozenset({Code.USAGE, Code.OUTCOME_UNKNOWN})


async def order(services: Services, caller: Caller, run_id: str, name: str, **arguments: Any) -> RunRow:
    """Put a command into a run's inbox; returns the run's row from before.

    Raises `UsageError`: `NOT_FOUND`, and `CONFLICT` where the run cannot be told that as it stands; `RefusedError` for
    breakpoints that make no sense.
    """
    runs = services.runs.org(caller.org_id)
    if name in _DEBUG:
        row, state = await services.states.of(runs, RunId(run_id))
        _try(state, name, arguments)
    else:
        found = await runs.row(RunId(run_id))
        if found is None:
            raise no_run(run_id)
        row = found
        if row.status not in _STATES[name]:
            final = "; that is final" if row.status in TERMINAL and row.status != "failed" else ""
            raise UsageError(f"run {run_id} is {row.status}{final}: it cannot be told to {name}", code=Code.CONFLICT)
    await running.command(services, caller, row.run_id, name, **arguments)
    if name in _STATES:
        await running.in_thread(services, caller, lambda scope: noted(services, scope, caller, f"run.{name}", run_id))
    return row


async def require_budget(services: Services, caller: Caller, run_id: str) -> None:
    """Raise `UsageError` where a run cannot be given another budget as it goes on: it runs, or it had none."""
    row, state = await services.states.of(services.runs.org(caller.org_id), RunId(run_id))
    if row.status not in ("paused", "failed"):
        raise UsageError(f"run {run_id} is {row.status}: it keeps its budget", code=Code.CONFLICT)
    try:
        check_budget(state)
    except UsageError as error:
        raise UsageError(error.failure.message, code=Code.CONFLICT) from None


def _try(state: RunState, name: str, arguments: Mapping[str, Any]) -> None:
    """Ask what the run's owner would make of the command; nothing is kept of the answer."""
    try:
        _DEBUG[name](state, arguments)
    except RefusedError:
        raise
    except UsageError as error:
        failure = error.failure
        code = Code.CONFLICT if failure.code in _AS_IT_STANDS else failure.code
        raise UsageError(failure.message, code=code, help=failure.help) from None
