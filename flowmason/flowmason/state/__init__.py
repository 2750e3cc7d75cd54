"""The state of a run and the rules by which it moves. Pure: no I/O, no clock, no await.

`RunState` is the fold of a run's events. `decide` says which events follow from it without any
work being done, `admits` whether an event that a worker proposes may be recorded. The conductor
and the region runner drive the same code, the one over a whole run, the other over a piece of it.

May live here: the nodes of the state tree, the fold, and pure questions about it. Nothing here may
know a store, an executor or the time of day (a `now` is passed in).
"""

from flowmason.state.admit import admits
from flowmason.state.decide import decide, fate
from flowmason.state.fold import RunState, fold
from flowmason.state.reopen import reopening
from flowmason.state.tree import ForeachState, Outcome, Role, ScopeState, StageState, Status, TryState

__all__ = [
    "ForeachState",
    "Outcome",
    "Role",
    "RunState",
    "ScopeState",
    "StageState",
    "Status",
    "TryState",
    "admits",
    "decide",
    "fate",
    "fold",
    "reopening",
]
