"""What commands from the inbox become: events, or a refusal that changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flowmason import debug
from flowmason import event as ev
from flowmason.errors import FlowMasonError
from flowmason.ids import PlanId, parse_path
from flowmason.journal import Command
from flowmason.state import RunState, Status, reopening
from flowmason.state.tree import Role, TryState
from flowmason.value import Value

log = logging.getLogger("flowmason.conductor")


def answer(state: RunState, command: Command, keep: Callable[[Any], Value]) -> list[ev.Event]:
    """The events by which the owner of a run answers a command; none where it makes no sense any more.

    `keep` makes a value of plain data.
    """
    handler = _HANDLERS.get(command.name)
    try:
        if command.name == "edit":
            return _edit(state, command.arguments, keep)
        return handler(state, command.arguments) if handler is not None else []
    except FlowMasonError as error:
        # Whoever asked was told when he asked; meanwhile the run has moved on.
        log.info("run %s: %s refused: %s", state.run_id, command.name, error)
        return []
    except Exception:
        # Whoever wrote it into the inbox did not look at it first. It must not come back whenever the run is taken up.
        log.exception("run %s: %s cannot be read", state.run_id, command.name)
        return []


def _cancel(state: RunState, arguments: Mapping[str, Any]) -> list[ev.Event]:
    if state.ended or state.cancelling is not None:
        return []
    return [ev.RunCancelling(reason=str(arguments.get("reason") or "cancelled by command"))]


def _pause(state: RunState, arguments: Mapping[str, Any]) -> list[ev.Event]:
    if state.ended or state.pausing or state.cancelling is not None:
        return []
    return [ev.RunPausing(reason=str(arguments.get("reason") or ""))]


def _resume(state: RunState, arguments: Mapping[str, Any]) -> list[ev.Event]:
    if arguments.get("withdraw"):
        return _withdrawn(state)
    if arguments.get("plan") and state.status is not Status.FAILED:
        return _changed(state, arguments)
    if not state.ended and (state.pausing or state.status is Status.PAUSED):
        return [ev.RunResumed(budget=dict(arguments.get("budget") or {}))]
    if state.status is not Status.FAILED:
        return []
    stages, blocked = reopening(state, frozenset(arguments.get("rerun_unknown") or ()))
    if blocked or not stages:
        return []
    plan = arguments.get("plan")
    accepted = dict(arguments.get("accept_changes") or {})
    budget = dict(arguments.get("budget") or {})
    return [ev.RunReopened(accept_changes=accepted, plan=PlanId(plan) if plan else None, budget=budget), *stages]


def _withdrawn(state: RunState) -> list[ev.Event]:
    """A cancel is taken back that was not carried out: whoever asked for it left before."""
    stages, blocked = reopening(state)
    guards = [each.body for each in state.stages.values() if each.status is Status.RUNNING]
    cleaning = any(isinstance(guard, TryState) and guard.phase is Role.CLEANUP for guard in guards)
    if state.ended or state.cancelling is None or blocked or cleaning:
        return []
    return [ev.RunReopened(), *stages]


def _changed(state: RunState, arguments: Mapping[str, Any]) -> list[ev.Event]:
    """Changed components are accepted for a run that has not ended: it goes on under another Plan."""
    if state.ended or state.failing is not None or state.cancelling is not None:
        return []
    accepted = dict(arguments.get("accept_changes") or {})
    budget = dict(arguments.get("budget") or {})
    return [ev.RunReopened(accept_changes=accepted, plan=PlanId(arguments["plan"]), budget=budget)]


def _edit(state: RunState, arguments: Mapping[str, Any], keep: Callable[[Any], Value]) -> list[ev.Event]:
    if state.ended:
        return []
    try:
        path = parse_path(str(arguments.get("path")))
    except ValueError:
        return []
    stage = state.stages.get(path)
    if stage is None or stage.status is not Status.COMPLETED:
        return []
    return [ev.ValueEdited(path=path, value=keep(arguments.get("value")))]


_HANDLERS: dict[str, Callable[[RunState, Mapping[str, Any]], list[ev.Event]]] = {
    "cancel": _cancel,
    "pause": _pause,
    "resume": _resume,
    "breakpoints": debug.change,
    "continue": debug.continue_,
    "step": debug.step,
    "rerun": debug.rerun,
}
