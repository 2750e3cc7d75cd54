"""What happened: one class per kind, in a discriminated union, and the envelope around it.

Names are past tense, dotted and for ever. A reader carries a kind it does not know along as
`Foreign`; a driver refuses a run whose `format` it does not know (`RunSubmitted.format`).
"""

from flowmason.event.base import Foreign
from flowmason.event.debug import Breakpoint, BreakpointHit, DebugChanged, DebugStepped
from flowmason.event.frame import Frame, Recorded, decode_events, encode_events, kind
from flowmason.event.kinds import Event, StageEvent
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
    PromptEdit,
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

FORMAT = 2
"""Rises when a driver of an older FlowMason could misread a journal. 2: the run is under a budget."""

__all__ = [
    "Breakpoint",
    "BreakpointHit",
    "DebugChanged",
    "DebugStepped",
    "EffectRecorded",
    "Event",
    "FORMAT",
    "Foreign",
    "Frame",
    "ItemsFinished",
    "PromptEdit",
    "Recorded",
    "RunAdopted",
    "RunCancelled",
    "RunCancelling",
    "RunCompleted",
    "RunFailed",
    "RunFailing",
    "RunPaused",
    "RunPausing",
    "RunReopened",
    "RunResumed",
    "RunStarted",
    "RunSubmitted",
    "StageCancelled",
    "StageDeferred",
    "StageEvent",
    "StageExpanded",
    "StageFailed",
    "StageFailing",
    "StageFinished",
    "StageLost",
    "StageReopened",
    "StageRetried",
    "StageSkipped",
    "StageStarted",
    "ValueEdited",
    "decode_events",
    "encode_events",
    "kind",
]
