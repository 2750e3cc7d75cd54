"""Debugging a run: what may stop it, where it stands, and how it goes on. Pure, over the journal alone.

A paused run is a row in the database: it holds no worker, survives the restart of any process and goes on when somebody
says so. What was asked for stands in events (`debug.changed`, `debug.stepped`, `breakpoint.hit`) and so in `RunState`;
commands in the run's inbox change it (`orders`), the conductor asks `Gate` what may start and `after` what a failure
stops, readers ask `view` and `prompt_of`.

May live here: pure questions about a run that is debugged. Nothing here may know a store, an executor or the time of
day; whoever asks passes `load`, which gives the plain data of a value.
"""

from flowmason.debug.catching import FILTERS, after
from flowmason.debug.gate import Gate
from flowmason.debug.orders import change, continue_, rerun, rerunnable, stage_at, step
from flowmason.debug.points import check, matches, read_changes
from flowmason.debug.prompts import Prompt, prompt_of
from flowmason.debug.sight import Load, Sight, Watched, loader, watch
from flowmason.debug.view import BreakpointView, DebugState, Frame, Mode, view

__all__ = [
    "FILTERS",
    "BreakpointView",
    "DebugState",
    "Frame",
    "Gate",
    "Load",
    "Mode",
    "Prompt",
    "Sight",
    "Watched",
    "after",
    "change",
    "check",
    "continue_",
    "loader",
    "matches",
    "prompt_of",
    "read_changes",
    "rerun",
    "rerunnable",
    "stage_at",
    "step",
    "view",
    "watch",
]
