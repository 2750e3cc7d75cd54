"""The cache of a run that its row carries, for lists: rebuilt from the state at any time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from flowmason.state import ForeachState, RunState, Status


def summary(state: RunState) -> dict[str, Any]:
    """Stage counts by status, items, usage, duration and failure, as plain data."""
    counts: Counter[str] = Counter(str(stage.status) for stage in state.stages.values())
    items = 0
    for stage in state.stages.values():
        if isinstance(stage.body, ForeachState):
            items += stage.body.ended
    found: dict[str, Any] = {"stages": dict(sorted(counts.items()))}
    if items:
        found["items"] = items
    if state.usage is not None:
        found["usage"] = msgspec.to_builtins(state.usage)
    if state.started_at and state.ended_at:
        found["duration_ms"] = state.ended_at - state.started_at
    if state.failure is not None:
        found["failure"] = {"code": state.failure.code, "message": state.failure.message, "stage": state.failure.stage}
    if state.status is Status.CANCELLED and state.cancelling:
        found["reason"] = state.cancelling
    return found
