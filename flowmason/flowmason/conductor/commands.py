"""What commands from the inbox become: events, or a refusal that changes nothing."""

from __future__ import annotations

from typing import Any

from flowmason import event as ev
from flowmason.ids import PlanId, parse_path
from flowmason.journal import Command
from flowmason.state import RunState, Status, reopening
from flowmason.value import inline


def answer(state: RunState, command: Command) -> list[ev.Event]:
    """The events by which the owner of a run answers a command; none where it makes no sense any more."""
    handler = _HANDLERS.get(command.name)
    return handler(state, command.arguments) if handler is not None else []


def _cancel(state: RunState, arguments: dict[str, Any]) -> list[ev.Event]:
    if state.ended or state.cancelling is not None:
        return []
    return [ev.RunCancelling(reason=str(arguments.get("reason") or "cancelled by command"))]


def _pause(state: RunState, arguments: dict[str, Any]) -> list[ev.Event]:
    if state.ended or state.pausing or state.cancelling is not None:
        return []
    return [ev.RunPausing(reason=str(arguments.get("reason") or ""))]


def _resume(state: RunState, arguments: dict[str, Any]) -> list[ev.Event]:
    if arguments.get("plan") and state.status is not Status.FAILED:
        return _changed(state, arguments)
    if not state.ended and (state.pausing or state.status is Status.PAUSED):
        return [ev.RunResumed()]
    if state.status is not Status.FAILED:
        return []
    stages, blocked = reopening(state, frozenset(arguments.get("rerun_unknown") or ()))
    if blocked or not stages:
        return []
    plan = arguments.get("plan")
    accepted = dict(arguments.get("accept_changes") or {})
    return [ev.RunReopened(accept_changes=accepted, plan=PlanId(plan) if plan else None), *stages]


def _changed(state: RunState, arguments: dict[str, Any]) -> list[ev.Event]:
    """Changed components are accepted for a run that has not ended: it goes on under another Plan."""
    if state.ended or state.failing is not None or state.cancelling is not None:
        return []
    accepted = dict(arguments.get("accept_changes") or {})
    return [ev.RunReopened(accept_changes=accepted, plan=PlanId(arguments["plan"]))]


def _edit(state: RunState, arguments: dict[str, Any]) -> list[ev.Event]:
    if state.ended:
        return []
    try:
        path = parse_path(str(arguments.get("path")))
    except ValueError:
        return []
    stage = state.stages.get(path)
    if stage is None or stage.status is not Status.COMPLETED:
        return []
    return [ev.ValueEdited(path=path, value=inline(arguments.get("value")))]


_HANDLERS = {"cancel": _cancel, "pause": _pause, "resume": _resume, "edit": _edit}
