"""The kinds of events there are."""

from __future__ import annotations

from flowmason.event.base import Foreign
from flowmason.event.debug import BreakpointHit, DebugChanged, DebugStepped
from flowmason.event.run import (
    RunAdopted,
    RunCancelled,
    RunCancelling,
    RunCompleted,
    RunFailed,
    RunFailing,
    RunPaused,
    RunPausing,
    RunReopened,
    RunResumed,
    RunStarted,
    RunSubmitted,
)
from flowmason.event.stage import (
    EffectRecorded,
    ItemsFinished,
    StageCancelled,
    StageDeferred,
    StageExpanded,
    StageFailed,
    StageFailing,
    StageFinished,
    StageLost,
    StageReopened,
    StageRetried,
    StageSkipped,
    StageStarted,
    ValueEdited,
)

Event = (
    RunSubmitted
    | RunStarted
    | RunAdopted
    | RunPausing
    | RunPaused
    | RunResumed
    | RunReopened
    | RunCancelling
    | RunFailing
    | RunCompleted
    | RunFailed
    | RunCancelled
    | StageStarted
    | StageFinished
    | StageFailed
    | StageFailing
    | StageRetried
    | StageLost
    | StageDeferred
    | StageSkipped
    | StageCancelled
    | StageExpanded
    | StageReopened
    | ItemsFinished
    | ValueEdited
    | EffectRecorded
    | DebugChanged
    | DebugStepped
    | BreakpointHit
    | Foreign
)

StageEvent = (
    StageStarted
    | StageFinished
    | StageFailed
    | StageFailing
    | StageRetried
    | StageLost
    | StageDeferred
    | StageSkipped
    | StageCancelled
    | StageExpanded
    | StageReopened
    | ItemsFinished
    | ValueEdited
    | EffectRecorded
    | BreakpointHit
)
